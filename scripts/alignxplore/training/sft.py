"""Cold-start supervised fine-tuning (Eq. 8) with TRL's SFTTrainer."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from alignxplore import records
from alignxplore.engines.tokens import ChatTokenizer
from alignxplore.errors import UserError
from alignxplore.prompts import Prompt, Templates
from alignxplore.training import loop
from alignxplore.training.checkpoints import partial_directory, run_facts
from alignxplore.training.metrics import SFT_METRICS
from alignxplore.training.models import load_model, load_tokenizer
from alignxplore.training.scoring import check_fused_head, score
from alignxplore.training.settings import Settings, check_settings, make_arguments

log = logging.getLogger(__name__)

DEFAULTS: dict[str, Any] = {"max_length": None, "shuffle_dataset": False}
FIGURES = {"loss": "loss", "grad_norm": "gradient norm"}


def sequence_mean_loss(log_probs: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean negative log-likelihood per token of each sequence, (batch,), in nats: the summand of Eq. 8.

    `mask`, (batch, tokens), is true at the |r| + |d| tokens of the completion; `log_probs` has the same shape.
    """
    return -(log_probs * mask).sum(1) / mask.sum(1).clamp(min=1)


class ColdStartTrainer(SFTTrainer):
    """SFTTrainer whose loss gives each sequence the same weight (Eq. 8); TRL gives it to each token."""

    loss_is_scaled_for_ga = True
    _head_is_checked = False

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> torch.Tensor:
        # TRL divides a step's loss by the number of its tokens. Eq. 8 wants the number of its sequences, over all
        # micro-batches and processes.
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
        if not self._head_is_checked:
            check_fused_head(model)
            self._head_is_checked = True
        labels = torch.nn.functional.pad(inputs["labels"][:, 1:], (0, 1), value=-100)
        features = {name: value for name, value in inputs.items() if name != "labels"}
        if self.model.config._attn_implementation == "sdpa":
            # Padding is on the right, where causal attention never looks. Without a mask SDPA takes its fast path.
            features.pop("attention_mask", None)
        log_probs, entropy = score(model, features, labels)
        mask = labels != -100
        losses = sequence_mean_loss(log_probs, mask)
        loss = losses.sum() / (len(losses) if num_items_in_batch is None else num_items_in_batch)
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:
            loss = loss * self.accelerator.num_processes  # DDP averages gradients over processes
        metrics = self._metrics["train" if self.model.training else "eval"]
        metrics["completion_length"].append(mask.sum().item() / len(mask))
        metrics["entropy"].append((entropy.sum() / mask.sum().clamp(min=1)).item())
        return (loss, {}) if return_outputs else loss


def tokenise(chat: ChatTokenizer, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[dict[str, list[int]]]:
    """Token ids and labels of each sequence, for example

        input_ids    u    s    e    r  <think> ... </answer> end
        labels     -100 -100 -100 -100 <think> ... </answer> end

    Only the completion counts in the loss. The end token is part of it.
    """
    rows = []
    for prompt, completion in zip(prompts, completions, strict=True):
        ids, start = chat.encode_completed(prompt, completion)
        rows.append({"input_ids": ids, "labels": [-100] * start + ids[start:]})
    return rows


def configure(
    settings: Mapping[str, Any], output: Path, kind: type[SFTConfig] = SFTConfig
) -> tuple[Settings, SFTConfig]:
    """The checked settings, and the trainer's arguments; UserError says which setting is wrong."""
    checked = check_settings(settings, kind)
    return checked, make_arguments(kind, checked, DEFAULTS, partial_directory(output))


def make_trainer(
    settings: Mapping[str, Any], model: str | Path, rows: Sequence[Mapping[str, list[int]]], output: Path
) -> ColdStartTrainer:
    """A trainer of `model` on `rows` from `tokenise`.

    Sequences longer than `max_length` tokens, or with a prompt longer than `max_prompt_length`, are left out. Cut
    short, they would teach the model not to finish.
    """
    checked, arguments = configure(settings, output)
    kept = [row for row in rows if _short_enough(row, checked.max_prompt_length, arguments.max_length)]
    if len(kept) < len(rows):
        log.warning("left out %d of %d sequences that are too long", len(rows) - len(kept), len(rows))
    if not kept:
        raise UserError("training: every sequence is longer than max_prompt_length or max_length allows")
    tokens = sum(len(row["labels"]) for row in kept) / len(kept)
    log.info("training on %d sequences of %.0f tokens on average", len(kept), tokens)
    chat = load_tokenizer(Path(model), checked)
    return ColdStartTrainer(
        model=load_model(Path(model), checked, chat),
        args=arguments,
        train_dataset=Dataset.from_list(list(kept)),
        processing_class=chat.tokenizer,
        callbacks=[loop.Progress(FIGURES)],
    )


def train(
    settings: Mapping[str, Any],
    model: str | Path,
    data: str | Path,
    templates: Templates,
    output: str | Path,
    metrics: str | Path,
) -> None:
    """Fine-tune `model` on D_cold (Eq. 7), `data`; save it in `output`, and its steps in the Parquet file `metrics`.

    With the template `concise` instead of `preference`, `data` are examples, whose golden preferences it learns.
    """
    checked = check_settings(settings, SFTConfig)
    read = _demonstrations if "preference" in templates.texts else _golden_preferences
    rows = tokenise(load_tokenizer(Path(model), checked), *read(data, templates))
    trainer = make_trainer(settings, model, rows, Path(output))
    facts = run_facts("sft", settings, model, data, templates)
    loop.complete(trainer, facts, Path(output), metrics, SFT_METRICS)


def _demonstrations(data: str | Path, templates: Templates) -> tuple[list[Prompt], list[str]]:
    """Prompts and completions of D_cold."""
    examples = records.read(data, records.DEMONSTRATION)
    if examples.is_empty():
        raise UserError(f"{data}: no example to train on; did all of the teacher's generations fail verification?")
    prompts = [
        templates.update(row, row["past"]) if row["chunks"] else templates.preference(row)
        for row in examples.iter_rows(named=True)
    ]
    return prompts, examples["completion"].to_list()


def _golden_preferences(data: str | Path, templates: Templates) -> tuple[list[Prompt], list[str]]:
    """Prompts of examples, and their golden preferences as completions."""
    examples = records.read(data, records.EXAMPLE)
    golden = examples["golden_preference"].to_list()
    if not golden or not all(golden):
        raise UserError(f"{data}: {golden.count('')} of {len(golden)} examples have no golden preference to train on")
    return [templates.concise(case) for case in examples.iter_rows(named=True)], golden


def _short_enough(row: Mapping[str, list[int]], max_prompt: int | None, max_length: int | None) -> bool:
    prompt = sum(label == -100 for label in row["labels"])
    return (max_prompt is None or prompt <= max_prompt) and (max_length is None or len(row["labels"]) <= max_length)
