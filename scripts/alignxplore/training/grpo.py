"""Reinforcement learning by GRPO: Eq. 9-11 of the paper through TRL's GRPOTrainer."""

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from alignxplore import engines, records
from alignxplore.engines import packing
from alignxplore.engines.tokens import encode, opens_thinking
from alignxplore.errors import UserError
from alignxplore.formats import Parsed, normalise_thinking, parse_completion
from alignxplore.judging.judge import load_judge
from alignxplore.judging.reward import Reward
from alignxplore.prompts import Prompt, Templates
from alignxplore.training import common
from alignxplore.training.metrics import GRPO_METRICS

import torch  # isort: skip
from datasets import Dataset  # isort: skip
from transformers import PreTrainedTokenizerBase  # isort: skip
from trl import GRPOConfig, GRPOTrainer  # isort: skip
from trl.models import unwrap_model_for_generation  # isort: skip

log = logging.getLogger(__name__)

Rewards = Callable[[Sequence[Parsed], Sequence[dict[str, Any]]], Sequence[float]]
"""Reward of each parsed completion for its case (Eq. 3)."""

DEFAULTS: dict[str, Any] = {
    "beta": 0.0,  # no KL term (section 3.3)
    "loss_type": "grpo",  # each sequence's loss divided by its own length (Eq. 9)
    "scale_rewards": "group",  # advantages divided by the group's standard deviation (Eq. 11)
    "mask_truncated_completions": False,  # cut off means out of format: reward 0, which should be learnt
    "max_completion_length": 2048,
    "num_generations": 4,
}
FIGURES = {"reward": "reward", "format_ok": "in format", "completions/mean_length": "tokens", "entropy": "entropy"}


class PreferenceTrainer(GRPOTrainer):
    """GRPOTrainer over tokenised prompts, which computes a prompt once for all of its rollouts where it can.

    The dataset's `prompt` is a key of `encoded`, its token ids as inference would see them.
    """

    def __init__(self, *args: Any, encoded: Mapping[str, list[int]], **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.encoded = encoded
        plain_sampling = self.min_p is None and self.repetition_penalty == 1 and not self.args.generation_kwargs
        backend = self.use_vllm or self.use_transformers_continuous_batching
        sharded = self.is_deepspeed_enabled or self.is_fsdp_enabled
        self._share = packing.supports(self.accelerator.unwrap_model(self.model))
        self._share_rollouts = self._share and plain_sampling and not backend and not sharded
        # Sharded parameters are gathered at every forward pass, so that all processes must make equally many.
        self._skip_without_signal = not sharded
        self._signal: torch.Tensor | None = None

    def _get_train_sampler(self, dataset: Dataset | None = None) -> Any:
        # TRL's sampler draws each epoch's order from the one before; a resumed run must know that of its own epoch.
        sampler = super()._get_train_sampler(dataset)
        sampler.set_epoch = lambda epoch: sampler.generator.manual_seed(self.args.seed + epoch)
        return sampler

    def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
        return [self.encoded[prompt] for prompt in prompts], None, {}

    def _generate_single_turn(
        self, prompt_ids: list[list[int]], images: Any, multimodal_fields: Any, num_generations: int, **kwargs: Any
    ) -> tuple[list[list[int]], Any]:
        groups = [prompt_ids[i : i + num_generations] for i in range(0, len(prompt_ids), num_generations)]
        # With several processes a batch may begin or end within a group.
        whole = all(len(group) == num_generations and group.count(group[0]) == len(group) for group in groups)
        if not self._share_rollouts or not whole:
            return super()._generate_single_turn(prompt_ids, images, multimodal_fields, num_generations, **kwargs)
        with unwrap_model_for_generation(
            self.model_wrapped, self.accelerator, gather_deepspeed3_params=self.args.ds3_gather_for_generation
        ) as model:
            rollouts = packing.rollout(
                model,
                [group[0] for group in groups],
                num_generations,
                self.max_completion_length,
                self.eos_token_ids,
                self.temperature,
                self.top_p,
                self.top_k,
            )
        return [tokens for tokens, _ in rollouts], None

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        # Without a KL or entropy term, a rollout without advantage adds nothing to the gradient.
        if (
            self._skip_without_signal
            and self.beta == 0
            and not self._entropy_bonus_enabled
            and inputs["advantages"].dim() == 1
        ):
            self._signal = inputs["advantages"] != 0
        try:
            return super()._compute_loss(model, inputs)
        finally:
            self._signal = None

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
        stock = not self._share or compute_aux_loss or self._entropy_bonus_enabled
        if stock or any(value is not None for value in kwargs.values()):
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
        rows, device = len(input_ids), input_ids.device
        size = batch_size or rows
        chunks = [torch.arange(i, min(i + size, rows), device=device) for i in range(0, rows, size)]
        if self._signal is not None and not self._signal.all():
            # One rollout at least keeps its gradient, zero as it is: the backward pass needs a graph.
            live = self._signal if self._signal.any() else torch.arange(rows, device=device) == 0
            chunks = [part for chunk in chunks for part in (chunk[live[chunk]], chunk[~live[chunk]]) if len(part)]
        else:
            live = torch.ones(rows, dtype=torch.bool, device=device)
        mask = attention_mask.bool()
        split = input_ids.shape[1] - logits_to_keep
        prompts = [ids[seen].tolist() for ids, seen in zip(input_ids[:, :split], mask[:, :split], strict=True)]
        answers = [ids[seen].tolist() for ids, seen in zip(input_ids[:, split:], mask[:, split:], strict=True)]
        lengths = mask[:, split:].sum(1)
        log_probs, entropies = [], []
        for chunk in chunks:
            members = chunk.tolist()
            packed = packing.pack([prompts[i] for i in members], [answers[i] for i in members], device)
            with torch.set_grad_enabled(torch.is_grad_enabled() and bool(live[chunk[0]])), self.accelerator.autocast():
                scores = common.score(model, packed.inputs, packed.shift_labels, self.temperature)
            log_probs.append(packed.unpack(scores[0], lengths[chunk], logits_to_keep))
            entropies.append(packed.unpack(scores[1], lengths[chunk], logits_to_keep))
        order = torch.cat(chunks).argsort()
        entropy = torch.cat(entropies)[order] if compute_entropy else None
        return torch.cat(log_probs)[order], entropy, None


def reward_function(
    reward: Rewards,
    cases: Sequence[dict[str, Any]],
    tokenizer: PreTrainedTokenizerBase,
    end_tokens: Collection[int],
    opened: bool,
    synthesis_phrases: Sequence[str],
) -> Callable[..., list[float]]:
    """TRL's form of `reward`: a completion that does not end in one of `end_tokens` was cut off.

    `opened` says that the chat template opens the reasoning itself. Logs the shares of completions in format, and of
    those whose reasoning has one of `synthesis_phrases`, whatever its case.
    """

    phrases = [phrase.lower() for phrase in synthesis_phrases]

    def preference_reward(
        completion_ids: Sequence[Sequence[int]],
        row: Sequence[int],
        log_metric: Callable[[str, float], None],
        **kwargs: Any,
    ) -> list[float]:
        parsed = []
        for ids in completion_ids:
            finished = ids[-1] in end_tokens
            # As the engines decode: control tokens stay visible, so that a completion with one is out of format.
            text = tokenizer.decode(ids[:-1] if finished else ids, skip_special_tokens=False)
            text = normalise_thinking(text, opened=opened)
            parsed.append(parse_completion(text, "stop" if finished else "length"))
        log_metric("format_ok", sum(p.format_ok for p in parsed) / len(parsed))
        synthesising = [any(phrase in p.reasoning.lower() for phrase in phrases) for p in parsed]
        log_metric("synthesis", sum(synthesising) / len(parsed))
        return [float(value) for value in reward(parsed, [cases[index] for index in row])]

    return preference_reward


def configure(
    settings: Mapping[str, Any], output: Path, kind: type[GRPOConfig] = GRPOConfig
) -> tuple[common.Settings, GRPOConfig]:
    """The checked settings, and the trainer's arguments; UserError says which is wrong."""
    checked = common.check_settings(settings, kind)
    return checked, common.make_arguments(kind, checked, DEFAULTS, common.partial_directory(output))


def make_trainer(
    settings: Mapping[str, Any],
    model: str | Path,
    cases: Sequence[dict[str, Any]],
    prompts: Sequence[Prompt],
    reward: Rewards,
    output: Path,
) -> PreferenceTrainer:
    """A trainer of `model` on `prompts`, one for each of `cases`; the rewards of Eq. 3 come from `reward`."""
    checked, arguments = configure(settings, output)
    network, tokenizer = common.load_model(Path(model), checked), common.load_tokenizer(Path(model), checked)
    encoded = {str(index): encode(tokenizer, prompt) for index, prompt in enumerate(prompts)}
    limit = checked.max_prompt_length
    kept = [i for i in range(len(prompts)) if limit is None or len(encoded[str(i)]) <= limit]
    if len(kept) < len(prompts):
        log.warning("left out %d of %d prompts longer than %d tokens", len(prompts) - len(kept), len(prompts), limit)
    if not kept:
        raise UserError(f"training setting 'max_prompt_length': no prompt has {limit} tokens or fewer")
    groups = arguments.generation_batch_size // arguments.num_generations
    if len(kept) < groups:
        raise UserError(f"{len(kept)} prompts to train on are fewer than the {groups} of one step")
    tokens = sum(len(encoded[str(i)]) for i in kept) / len(kept)
    log.info("training on %d prompts, %.0f tokens each, %d a step", len(kept), tokens, groups)
    ends: set[int] = set()  # known once the trainer has read the model's generation config
    trainer = PreferenceTrainer(
        model=network,
        reward_funcs=reward_function(
            reward, cases, tokenizer, ends, opens_thinking(tokenizer), checked.synthesis_phrases
        ),
        args=arguments,
        train_dataset=Dataset.from_dict({"prompt": [str(i) for i in kept], "row": kept}),
        processing_class=tokenizer,
        callbacks=[common.Progress(FIGURES)],
        encoded=encoded,
    )
    ends.update(trainer.eos_token_ids)
    return trainer


def train(
    settings: Mapping[str, Any],
    model: str | Path,
    data: str | Path,
    templates: Templates,
    judge: Mapping[str, Any],
    journal: str | Path,
    output: str | Path,
    metrics: str | Path,
) -> None:
    """Train `model` on the examples of `data`, save it in `output` and its steps in the Parquet file `metrics`.

    `judge` is an entry as `load_judge` takes it; the judge is loaded in this process, and what it says is kept in the
    directory `journal`.
    """
    output = Path(output)
    common.check_settings(settings, GRPOConfig)
    cases = records.read(data, records.EXAMPLE).to_dicts()
    if not cases:
        raise UserError(f"{data}: no example to train on")
    reward = Reward(load_judge(judge, templates, journal))
    prompts = [templates.preference(case) for case in cases]
    trainer = make_trainer(settings, model, cases, prompts, reward, output)
    facts = common.run_facts(
        "grpo", settings, model, data, templates, judge={**judge, "model": engines.identity(judge["model"])}
    )
    common.complete(trainer, facts, output, metrics, GRPO_METRICS)
