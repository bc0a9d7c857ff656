"""GRPO that computes each prompt once for all of its rollouts: the same numbers as TRL's trainer, in less time.

TRL gives each rollout a row of its own, padded, with its own copy of the prompt. Here all rollouts of a prompt share a
row, in sampling and in the update (the layout and its mask are in engines/packing.py):

    TRL     prompt prompt prompt | rollout 1 | . . .        packed     prompt prompt prompt | rollout 1 | rollout 2
            prompt prompt prompt | rollout 2 rollout 2

Prompts are long and reasoning is short, so most of TRL's work is the repeated prompt. The update also skips the
backward pass of rollouts whose advantage is 0, because they add nothing to the gradient.
"""

from bisect import bisect_left
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from accelerate.utils import is_peft_model
from transformers import PreTrainedModel, StopStringCriteria
from trl import GRPOTrainer
from trl.models import unwrap_model_for_generation

from alignxplore.engines import packing
from alignxplore.engines.probe import check_left_padding, find_layout
from alignxplore.formats import end_of_stop
from alignxplore.training.scoring import check_fused_head, score


class PackedTrainer(GRPOTrainer):
    """GRPOTrainer with packed rollouts and updates. Falls back to TRL's own paths where packing does not apply.

    Those are models with sliding windows, without SDPA attention or with NEFTune's noise, whose scale depends on the
    length of a row; for sampling also vLLM, sharded parameters and settings such as `min_p`; for the update also losses
    that need more than log-probabilities.

    A rollout ends with the token that completes one of the texts `stop`. TRL's own sampling goes on after them, so its
    rollouts are cut there.
    """

    def __init__(self, *args: Any, stop: Sequence[str] = (), **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.stop = list(stop)
        own_options = self.args.generation_kwargs or self.args.cache_implementation or not self.max_completion_length
        plain_sampling = self.min_p is None and self.repetition_penalty == 1 and not own_options
        other_engine = self.use_vllm or self.use_transformers_continuous_batching
        sharded = self.is_deepspeed_enabled or self.is_fsdp_enabled
        self._may_pack_rollouts = plain_sampling and not other_engine and not sharded
        # Sharded parameters are gathered in every forward pass, so all processes must run equally many.
        self._skips_without_advantage = not sharded
        self._has_advantage: torch.Tensor | None = None

    @cached_property
    def _packs(self) -> bool:
        """Whether the model gives its own numbers in packed rows. Tried when first asked: the model is ready then.

        Raises UserError if the update would score rollouts by other numbers than the model's own.
        """
        model = self.accelerator.unwrap_model(self.model_wrapped)
        # Autocast, which accelerate wraps around the forward pass, rounds more than the layouts may differ.
        forward = model.forward
        model.forward = getattr(model, "_original_forward", forward)
        try:
            check_fused_head(model, self.temperature)
            whole = _transformer(model)
            shares = self.neftune_noise_alpha is None and find_layout(whole, model.name_or_path).shares
            if not shares:
                check_left_padding(whole, model.name_or_path)
        finally:
            model.forward = forward
        return shares

    def _generate_single_turn(
        self, prompt_ids: list[list[int]], images: Any, multimodal_fields: Any, num_generations: int, **kwargs: Any
    ) -> tuple[list[list[int]], Any]:
        """Token ids of one rollout for each of `prompt_ids`, which repeats each prompt `num_generations` times."""
        groups = [prompt_ids[i : i + num_generations] for i in range(0, len(prompt_ids), num_generations)]
        # With several processes, a process's batch may start or end in the middle of a group.
        whole = all(len(group) == num_generations and group.count(group[0]) == len(group) for group in groups)
        if not (self._may_pack_rollouts and whole and self._packs):
            ids, logprobs = super()._generate_single_turn(
                prompt_ids, images, multimodal_fields, num_generations, **kwargs
            )
            kept = [self._kept(row) for row in ids]
            if logprobs is not None:
                logprobs = [row[:count] for row, count in zip(logprobs, kept, strict=True)]
            return [row[:count] for row, count in zip(ids, kept, strict=True)], logprobs
        stopping = StopStringCriteria(self.processing_class, self.stop) if self.stop else None
        with unwrap_model_for_generation(
            self.model_wrapped,
            self.accelerator,
            gather_deepspeed3_params=self.args.ds3_gather_for_generation,
            gradient_checkpointing_kwargs=self.args.gradient_checkpointing_kwargs,
        ) as model:
            rollouts = packing.rollout(
                _transformer(model),
                [group[0] for group in groups],
                num_generations,
                self.max_completion_length,
                self.eos_token_ids,
                self.temperature,
                self.top_p,
                self.top_k,
                is_stopped=None if stopping is None else lambda drawn: stopping(drawn, None),
            )
        return [tokens for tokens, _ in rollouts], None

    def _kept(self, ids: Sequence[int]) -> int:
        """How many tokens of a rollout there are up to the one that completes a stop text, or all."""

        def is_stopped(count: int) -> bool:
            text = self.processing_class.decode(ids[:count], skip_special_tokens=False)
            return end_of_stop(text, self.stop) is not None

        return bisect_left(range(len(ids)), True, key=is_stopped) if self.stop else len(ids)

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        """The loss of a micro-batch; first notes which rollouts have an advantage, for the forward pass in it.

        A KL or entropy term has a gradient even without an advantage. Then nothing is skipped.
        """
        policy_loss_only = self.beta == 0 and not self._entropy_bonus_enabled
        if self._skips_without_advantage and policy_loss_only and inputs["advantages"].dim() == 1:
            self._has_advantage = inputs["advantages"] != 0
        try:
            return super()._compute_loss(model, inputs)
        finally:
            self._has_advantage = None

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        compute_aux_loss: bool = False,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """Log-probabilities and entropies of the completions' tokens: (rollouts, logits_to_keep), 0 at padding.

        TRL hands over padded rows, prompts on the left and completions on the right:

            input_ids        . . p p p | a a a .        . padding
                             p p p p p | a . . .        last logits_to_keep columns: the completion
        """
        needs_more = compute_aux_loss or self._entropy_bonus_enabled or any(v is not None for v in kwargs.values())
        if not self._packs or needs_more:
            return super()._get_per_token_logps_and_entropies(
                model,
                input_ids,
                attention_mask,
                logits_to_keep,
                batch_size,
                compute_entropy,
                compute_aux_loss,
                **kwargs,
            )
        split = input_ids.shape[1] - logits_to_keep
        mask = attention_mask.bool()
        prompts = _unpadded(input_ids[:, :split], mask[:, :split])
        answers = _unpadded(input_ids[:, split:], mask[:, split:])
        lengths = mask[:, split:].sum(1)
        # An evaluation scores larger batches than a step, if it has a reference model.
        size = min(batch_size or len(input_ids), self.args.per_device_train_batch_size)
        chunks, live = self._chunks(len(input_ids), size, input_ids.device)
        log_probs, entropies = [], []
        for chunk in chunks:
            members = chunk.tolist()
            packed = packing.pack([prompts[i] for i in members], [answers[i] for i in members], input_ids.device)
            needs_gradient = torch.is_grad_enabled() and bool(live[chunk[0]])
            with torch.set_grad_enabled(needs_gradient), self.accelerator.autocast():
                # Only the fused head keeps autocast away from an output embedding that is to stay in float32.
                fused = True if self.args.cast_lm_head_to_fp32 else None
                scores = score(model, packed.inputs, packed.shift_labels, self.temperature, fused)
            log_probs.append(packed.unpack(scores[0], lengths[chunk], logits_to_keep))
            if compute_entropy:
                entropies.append(packed.unpack(scores[1], lengths[chunk], logits_to_keep).detach())
        order = torch.cat(chunks).argsort()
        entropy = torch.cat(entropies)[order] if compute_entropy else None
        return torch.cat(log_probs)[order], entropy, None

    def _chunks(self, rows: int, size: int, device: torch.device) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Row numbers of each forward pass, and which rows (rows,) need a gradient; no pass mixes the two kinds.

        With passes of 4 rows:

            row         0  1  2  3 | 4  5
            advantage   +  0  -  0 | 0  +
            chunks      [0 2] [1 3]  [5] [4]        [0 2] and [5] with gradient, [1 3] and [4] without
        """
        chunks = [torch.arange(i, min(i + size, rows), device=device) for i in range(0, rows, size)]
        live = self._has_advantage
        if live is None or live.all():
            return chunks, torch.ones(rows, dtype=torch.bool, device=device)
        if not live.any():
            # One row keeps its gradient, which is 0: the backward pass needs a graph.
            live = torch.arange(rows, device=device) == 0
        return [part for chunk in chunks for part in (chunk[live[chunk]], chunk[~live[chunk]]) if len(part)], live


def _transformer(model: Any) -> PreTrainedModel:
    """The model inside peft's wrapper, with the adapter's layers in it, or the model itself."""
    return model.get_base_model() if is_peft_model(model) else model


def _unpadded(ids: torch.Tensor, mask: torch.Tensor) -> list[Sequence[int]]:
    return [row[seen].tolist() for row, seen in zip(ids, mask, strict=True)]
