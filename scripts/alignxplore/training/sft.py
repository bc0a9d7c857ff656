"""Cold-start supervised fine-tuning: Eq. 8 of the paper through TRL's SFTTrainer."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alignxplore import records
from alignxplore.engines.tokens import encode, opens_thinking
from alignxplore.errors import UserError
from alignxplore.prompts import Prompt, Templates
from alignxplore.training import common
from alignxplore.training.metrics import SFT_METRICS

import torch  # isort: skip
from datasets import Dataset  # isort: skip
from transformers import PreTrainedTokenizerBase  # isort: skip
from trl import SFTConfig, SFTTrainer  # isort: skip

log = logging.getLogger(__name__)

DEFAULTS: dict[str, Any] = {"max_length": None, "shuffle_dataset": False}
FIGURES = {"loss": "loss", "grad_norm": "gradient norm"}


def sequence_mean_loss(log_probs: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Each sequence's mean negative log-likelihood a token, shape (batch,), in nats (the summand of Eq. 8).

    `log_probs` and `mask`, shape (batch, tokens), cover the completion's tokens, |r| + |d|.
    """
    return -(log_probs * mask).sum(1) / mask.sum(1).clamp(min=1)


class ColdStartTrainer(SFTTrainer):
    """SFTTrainer whose loss weighs sequences equally, not tokens, as Eq. 8 asks."""

    loss_is_scaled_for_ga = True

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> torch.Tensor:
        # Eq. 8 averages over sequences: a step's loss is divided by how many its micro-batches hold together,
        # on all processes, where the trainer would count tokens.
        count = torch.tensor(sum(len(batch["input_ids"]) for batch in batch_samples), device=device)
        if self.args.average_tokens_across_devices and self.args.world_size > 1:
            count = self.accelerator.gather(count).sum()
        return count

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> Any:
        labels = torch.nn.functional.pad(inputs["labels"][:, 1:], (0, 1), value=-100)
        features = {name: value for name, value in inputs.items() if name != "labels"}
        if self.model.config._attn_implementation == "sdpa":
            # Padding is on the right, where causal attention never looks; without a mask SDPA takes its fast path.
            features.pop("attention_mask", None)
        log_probs, entropy = common.score(model, features, labels)
        mask = labels != -100
        losses = sequence_mean_loss(log_probs, mask)
        loss = losses.sum() / (len(losses) if num_items_in_batch is None else num_items_in_batch)
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:
            loss = loss * self.accelerator.num_processes  # DDP averages gradients over processes
        metrics = self._metrics["train" if self.model.training else "eval"]
        metrics["completion_length"].append(mask.sum().item() / len(mask))
        metrics["entropy"].append((entropy.sum() / mask.sum().clamp(min=1)).item())
        return (loss, {}) if return_outputs else loss


def tokenise(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt], completions: Sequence[str]
) -> list[dict[str, list[int]]]:
    """Token ids and labels of each sequence: the prompt masked, the completion closed by the end token."""
    rows = []
    opened = opens_thinking(tokenizer)
    for prompt, completion in zip(prompts, completions, strict=True):
        prompt_ids = encode(tokenizer, prompt)
        if opened:
            completion = completion.removeprefix("<think>").lstrip("\n")
        # Tags such as <think> may be tokens; control tokens must not come out of a teacher's text.
        ids = tokenizer(completion, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        ids = [*ids, tokenizer.eos_token_id]
        rows.append({"input_ids": prompt_ids + ids, "labels": [-100] * len(prompt_ids) + ids})
    return rows


def configure(
    settings: Mapping[str, Any], output: Path, kind: type[SFTConfig] = SFTConfig
) -> tuple[common.Settings, SFTConfig]:
    """The checked settings, and the trainer's arguments; UserError says which is wrong."""
    checked = common.check_settings(settings, kind)
    for name in ("packing", "padding_free"):
        if checked.trainer.get(name):
            raise UserError(f"training setting {name!r}: Eq. 8 needs each sequence in a row of its own")
    return checked, common.make_arguments(kind, checked, DEFAULTS, common.partial_directory(output))


def make_trainer(
    settings: Mapping[str, Any], model: str | Path, rows: Sequence[Mapping[str, list[int]]], output: Path
) -> ColdStartTrainer:
    """A trainer of `model` on `rows` of `tokenise`.

    Sequences over `max_length` tokens, or with prompts over `max_prompt_length`, are left out: cut short, they would
    teach the model not to finish.
    """
    checked, arguments = configure(settings, output)
    kept = [row for row in rows if _short_enough(row, checked.max_prompt_length, arguments.max_length)]
    if len(kept) < len(rows):
        log.warning("left out %d of %d sequences that are too long", len(rows) - len(kept), len(rows))
    if not kept:
        raise UserError("training: every sequence is longer than max_prompt_length or max_length allow")
    log.info("training on %d sequences, %.0f tokens each", len(kept), sum(len(r["labels"]) for r in kept) / len(kept))
    return ColdStartTrainer(
        model=common.load_model(Path(model), checked),
        args=arguments,
        train_dataset=Dataset.from_list(list(kept)),
        processing_class=common.load_tokenizer(Path(model), checked),
        callbacks=[common.Progress(FIGURES)],
    )


def train(
    settings: Mapping[str, Any],
    model: str | Path,
    data: str | Path,
    templates: Templates,
    output: str | Path,
    metrics: str | Path,
) -> None:
    """Fine-tune `model` on `data`, D_cold (Eq. 7), save it in `output` and its steps in the Parquet file `metrics`."""
    checked = common.check_settings(settings, SFTConfig)
    examples = records.read(data, records.DEMONSTRATION)
    if examples.is_empty():
        raise UserError(f"{data}: no example to train on; did every one of the teacher's outputs fail verification?")
    prompts = [templates.preference(case) for case in examples.iter_rows(named=True)]
    rows = tokenise(common.load_tokenizer(Path(model), checked), prompts, examples["completion"].to_list())
    trainer = make_trainer(settings, model, rows, Path(output))
    common.complete(
        trainer, common.run_facts("sft", settings, model, data, templates), Path(output), metrics, SFT_METRICS
    )


def _short_enough(row: Mapping[str, list[int]], max_prompt: int | None, max_length: int | None) -> bool:
    prompt = sum(label == -100 for label in row["labels"])
    return (max_prompt is None or prompt <= max_prompt) and (max_length is None or len(row["labels"]) <= max_length)
