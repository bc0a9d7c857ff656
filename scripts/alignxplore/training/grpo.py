"""Reinforcement learning by GRPO (Eq. 9-11) with TRL's GRPOTrainer. One step, and where each part of it happens:

    prompts, encoded as at inference       make_trainer, PreferenceTrainer._tokenize_prompts
    G rollouts of each prompt              packed.PackedTrainer._generate_single_turn
    completions, decoded and parsed        reward_function
    reward R_format x R_jud (Eq. 3, 6)     judging.reward.Reward, asked by reward_function
    advantages (Eq. 11), loss (Eq. 9)      TRL, with the DEFAULTS below
    log-probabilities for the loss         packed.PackedTrainer._get_per_token_logps_and_entropies
    every eval_steps: held-out rewards     PreferenceTrainer.evaluate

If the examples are steps of streams, streams.StreamTrainer chooses the batches, carries descriptions on from step to
step, and credits rollouts with the next step's rewards. docs/training.md draws the same step.
"""

import dataclasses
import logging
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import torch
from accelerate.utils import set_seed
from datasets import Dataset
from trl import GRPOConfig
from trl.trainer.utils import RepeatSampler, nanmax, nanmin

from alignxplore import adapters, engines, records
from alignxplore.data.split import check_held_out
from alignxplore.digests import digest
from alignxplore.engines.tokens import ChatTokenizer
from alignxplore.errors import UserError
from alignxplore.formats import Parsed, end_of_stop, parse_completion, without_stop
from alignxplore.judging.judge import load_judge
from alignxplore.judging.reward import Reward
from alignxplore.prompts import Prompt, Templates
from alignxplore.training import loop, lora
from alignxplore.training.checkpoints import partial_directory, run_facts
from alignxplore.training.metrics import GRPO_METRICS
from alignxplore.training.models import load_model, load_tokenizer
from alignxplore.training.packed import PackedTrainer
from alignxplore.training.settings import Settings, check_settings, make_arguments
from alignxplore.training.streams import StreamTrainer, check_credit, find_streams
from alignxplore.workflow.config import OF_EVALUATION

log = logging.getLogger(__name__)

Rewards = Callable[[Sequence[Parsed], Sequence[dict[str, Any]]], Sequence[float]]
"""The reward of each parsed completion for its case (Eq. 3)."""

DEFAULTS: dict[str, Any] = {
    "beta": 0.0,  # no KL term (section 3.3)
    "loss_type": "grpo",  # each sequence's loss is divided by its own length (Eq. 9)
    "scale_rewards": "group",  # advantages are divided by the group's standard deviation (Eq. 11)
    # vLLM's log-probabilities differ a little from the policy's. TRL would drop rollouts whose product of ratios is
    # above 3, which long ones often exceed; Eq. 9 has no such term.
    "vllm_importance_sampling_correction": False,
    "mask_truncated_completions": False,  # a completion that is cut off earns 0, and the policy should learn that
    "max_completion_length": 2048,
    "num_generations": 4,
}
EVALUATION: dict[str, Any] = {"eval_strategy": "steps", "eval_steps": 10, "num_generations_eval": 1}
"""Our defaults if there are held-out examples."""
BEST: dict[str, Any] = {
    "metric_for_best_model": "reward",
    "save_total_limit": 3,  # the best, and the last two as otherwise
}
"""Our defaults if the best checkpoint is wanted."""
FIGURES = {"reward": "reward", "format_ok": "in format", "completions/mean_length": "tokens", "entropy": "entropy"}
"""The figures of each step that the log shows: their names in the trainer's logs, and labels."""


class PreferenceTrainer(PackedTrainer):
    """Trains on prompts that are already token ids: the dataset's `prompt` is a key of `encoded`.

    Keeps the first `log_rollouts` rollouts of each step and each evaluation, in files beside the checkpoints.
    """

    def __init__(self, *args: Any, encoded: dict[str, list[int]], log_rollouts: int = 0, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.encoded, self.log_rollouts = encoded, log_rollouts
        self._held_out: list[pl.DataFrame] = []
        self._kept_step = 0

    def _get_train_sampler(self, dataset: Dataset | None = None) -> Any:
        # TRL's sampler shuffles each epoch with the generator that the epoch before left behind. A resumed run starts
        # in the middle, so each epoch gets a seed of its own.
        sampler = super()._get_train_sampler(dataset)
        if self.shuffle_dataset:
            sampler.set_epoch = lambda epoch: sampler.generator.manual_seed(self.args.seed + epoch)
        return sampler

    def _get_eval_sampler(self, eval_dataset: Dataset) -> Any:
        # In the order of their file, so that the same ones are kept each time.
        return RepeatSampler(eval_dataset, mini_repeat_count=self.num_generations_eval, shuffle=False)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate on held-out examples, sampled from the same random state each time; the training keeps its own."""
        states, tables = loop.random_states(), self.log_completions
        set_seed(self.args.seed, device_specific=True)
        self.log_completions = False  # TRL would write it over the table of the step's rollouts
        try:
            return super().evaluate(*args, **kwargs)
        finally:
            self._held_out = []
            self.log_completions = tables
            loop.restore_random_states(states)

    def prediction_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> tuple[None, None, None]:
        """Sample rollouts of a batch and ask for their rewards. A GRPO loss says nothing about held-out examples."""
        self._prepare_inputs(inputs)
        return None, None, None

    def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> Any:
        found = super()._get_per_token_logps_and_entropies(*args, **kwargs)
        self._log_probs = found[0].detach()
        return found

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        """The loss of a micro-batch; notes the ratios q of its tokens (Eq. 9)."""
        loss = super()._compute_loss(model, inputs)
        old = inputs.get("old_per_token_logps")
        found = [1.0, 1.0, 1.0]  # the policy that sampled is the one that is updated
        if old is not None:
            ratios = (self._log_probs - old).exp().masked_fill(inputs["completion_mask"] == 0, math.nan).flatten()
            local = torch.stack([ratios.nanmean(), nanmin(ratios), nanmax(ratios)])
            means, least, most = self.accelerator.gather(local).view(-1, 3).unbind(1)
            found = [means.nanmean().item(), nanmin(least).item(), nanmax(most).item()]
        for name, value in zip(("ratio", "ratio_min", "ratio_max"), found, strict=True):
            self._metrics["train"][name].append(value)
        return loss

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        output = super()._generate_and_score_completions(inputs)
        step = self.state.global_step + 1
        if not self.model.training:
            self._held_out.append(self._last_rollouts(len(inputs)))
        elif step != self._kept_step:  # a step may sample several times
            self._keep(self._last_rollouts(len(inputs)), step)
            self._kept_step = step
        return output

    def _last_rollouts(self, batch: int) -> pl.DataFrame:
        """The rollouts of the last `batch` of all processes."""
        columns = dict(self._logs["extra"]) | {"advantage": self._logs["advantages"]}
        count = batch * self.accelerator.num_processes
        return pl.DataFrame({name: list(values)[-count:] for name, values in columns.items()})

    def _keep(self, rollouts: pl.DataFrame, step: int, held_out: bool = False) -> None:
        """Write the first of the rollouts, for `loop.complete` to gather."""
        if self.log_rollouts and self.accelerator.is_main_process:
            advantage = pl.lit(None, pl.Float64) if held_out else pl.col("advantage")
            rows = rollouts.head(self.log_rollouts).with_columns(
                advantage=advantage, step=pl.lit(step), held_out=pl.lit(held_out)
            )
            name = f"{step:08}{'-held-out' if held_out else ''}.parquet"
            records.write(rows, Path(self.args.output_dir, loop.ROLLOUTS, name), records.ROLLOUT)

    def _note_held_out(self) -> None:
        """Put the means over the held-out rollouts where TRL has those over batches, which differ in size.

        With several processes, the last batch is filled up with examples from the start, which count once.
        """
        rollouts = pl.concat(self._held_out).head(len(self.eval_dataset) * self.num_generations_eval)
        figures = {
            "reward": rollouts["reward"].mean(),
            "format_ok": rollouts["format_ok"].mean(),
            "completions/mean_length": rollouts["completion_tokens"].mean(),
            "clipped_ratio": (rollouts["finish_reason"] == "length").mean(),
        }
        self._metrics["eval"].clear()
        self._metrics["eval"].update({name: [value] for name, value in figures.items()})
        self._keep(rollouts, self.state.global_step, held_out=True)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log a step or an evaluation; `log_completions` shows the prompts' text, not the keys of `encoded`."""
        if self._held_out:
            self._note_held_out()
        # Those of the step, where TRL has the mean over its micro-batches.
        for name, extreme in (("ratio_min", min), ("ratio_max", max)):
            if values := self._metrics["train"][name]:
                self._metrics["train"][name] = [extreme(values)]
        if not self.log_completions:
            return super().log(logs, start_time)
        Path(self.args.output_dir, "completions").mkdir(parents=True, exist_ok=True)
        keys = self._logs["prompt"]
        self._logs["prompt"] = self.processing_class.batch_decode([self.encoded[key] for key in keys])
        super().log(logs, start_time)
        self._logs["prompt"] = keys

    def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
        return [self.encoded[prompt] for prompt in prompts], None, {}


class PreferenceStreamTrainer(StreamTrainer, PreferenceTrainer):
    """Trains over the steps of streams."""


def rollout_text(
    ids: Sequence[int], chat: ChatTokenizer, end_tokens: Collection[int], stop: Sequence[str]
) -> tuple[str, str]:
    """A rollout as engines return it, and its finish reason: "length" if it ends in none of `end_tokens` and `stop`."""
    ended = ids[-1] in end_tokens
    # As the engines decode: control tokens stay visible and break the format.
    text = chat.decode(ids[:-1] if ended else ids)
    end = end_of_stop(text, stop)
    return without_stop(chat.normalised(text[:end]), stop), "stop" if ended or end is not None else "length"


def reward_function(
    reward: Rewards,
    cases: Sequence[dict[str, Any]],
    chat: ChatTokenizer,
    end_tokens: Collection[int],
    synthesis_phrases: Sequence[str],
    stop: Sequence[str] = (),
) -> Callable[..., list[float]]:
    """`reward` in the form that TRL calls. A completion that ends in none of `end_tokens` and `stop` was cut off.

    Each call logs the share of completions in format, the share cut off, and the share whose reasoning contains one of
    `synthesis_phrases`, ignoring case; and of each completion, fields of records.ROLLOUT.
    """
    phrases = [phrase.lower() for phrase in synthesis_phrases]

    def preference_reward(
        completion_ids: Sequence[Sequence[int]],
        row: Sequence[int],
        log_metric: Callable[[str, float], None],
        log_extra: Callable[[str, list[Any]], None],
        **kwargs: Any,
    ) -> list[float]:
        rollouts = [rollout_text(ids, chat, end_tokens, stop) for ids in completion_ids]
        texts, finishes = zip(*rollouts, strict=True)
        parsed = [parse_completion(text, finish) for text, finish in rollouts]
        log_metric("clipped_ratio", finishes.count("length") / len(parsed))
        log_metric("format_ok", sum(p.format_ok for p in parsed) / len(parsed))
        synthesising = [any(phrase in p.reasoning.lower() for phrase in phrases) for p in parsed]
        log_metric("synthesis", sum(synthesising) / len(parsed))
        chosen = [cases[index] for index in row]
        log_extra("example_id", [case["example_id"] for case in chosen])
        log_extra("completion", texts)
        log_extra("reasoning", [p.reasoning for p in parsed])
        log_extra("preference", [p.preference for p in parsed])
        log_extra("format_ok", [p.format_ok for p in parsed])
        log_extra("finish_reason", finishes)
        log_extra("completion_tokens", [len(ids) for ids in completion_ids])
        rewards = [float(value) for value in reward(parsed, chosen)]
        log_extra("reward", rewards)
        return rewards

    return preference_reward


def configure(
    settings: Mapping[str, Any], output: Path, kind: type[GRPOConfig] = GRPOConfig, held_out: bool = False
) -> tuple[Settings, GRPOConfig]:
    """The checked settings, and the trainer's arguments; UserError says which setting is wrong.

    `held_out` says whether there are held-out examples.
    """
    checked = check_settings(settings, kind)
    check_credit(checked.credit)
    if checked.stop and checked.trainer.get("mask_truncated_completions"):
        raise UserError(
            "training setting 'mask_truncated_completions': TRL would mask rollouts that end at a stop text of the"
            " model's entry"
        )
    defaults = DEFAULTS | EVALUATION if held_out else dict(DEFAULTS)
    if lost := [name for name in OF_EVALUATION if name in settings and not held_out]:
        raise UserError(f"training setting {lost[0]!r} needs held_out, the examples to evaluate on")
    # A process samples the rollouts of an example together; `make_trainer` knows how many examples there are.
    together = settings.get("num_generations_eval", EVALUATION["num_generations_eval"])
    defaults["per_device_eval_batch_size"] = together
    if settings.get("load_best_model_at_end"):
        # Each evaluated model is then a checkpoint, which may be the best.
        every = settings.get("eval_steps", EVALUATION["eval_steps"])
        checked = dataclasses.replace(checked, trainer={**BEST, **checked.trainer, "save_steps": every})
    arguments = make_arguments(kind, checked, defaults, partial_directory(output))
    # TRL keeps as many rollouts of an evaluation as a process samples for an update.
    at_once = arguments.per_device_train_batch_size * arguments.steps_per_generation
    if held_out and not 1 <= together <= at_once:
        raise UserError(
            f"training setting 'num_generations_eval' must be from 1 to {at_once}, the rollouts that a process samples"
            f" at once, not {together}"
        )
    if arguments.load_best_model_at_end and arguments.save_total_limit == 1:
        raise UserError(
            "training setting 'save_total_limit' must be at least 2 with load_best_model_at_end: with 1, only the best"
            " checkpoint stays, and an interrupted run has no newer one to resume from"
        )
    if arguments.temperature <= 0:
        raise UserError(f"training setting 'temperature' must be above 0, not {arguments.temperature}")
    if checked.lora is not None and "quantize" in checked.lora and arguments.use_vllm:
        raise UserError("training setting 'lora.quantize': vLLM cannot take quantised weights; set use_vllm: false")
    return checked, arguments


def make_trainer(
    settings: Mapping[str, Any],
    model: str | Path,
    cases: Sequence[dict[str, Any]],
    prompts: Sequence[Prompt],
    reward: Rewards,
    output: Path,
    *,
    held_out: int = 0,
    update: Callable[[Mapping[str, Any], str], Prompt] | None = None,
) -> PreferenceTrainer:
    """A trainer of `model` on `prompts`, one for each of `cases`, with the rewards (Eq. 3) that `reward` gives.

    The last `held_out` of the cases are not trained on, but evaluated. If the cases are steps of streams, `update`
    gives the prompt of one with its past; `prompts` have no past yet.
    """
    checked, arguments = configure(settings, output, held_out=bool(held_out))
    if checked.revision:
        arguments.model_init_kwargs = {"revision": checked.revision}  # of the reference model, which TRL loads
    chat = load_tokenizer(Path(model), checked)
    network = load_model(Path(model), checked, chat)
    ends = chat.end_tokens(network.generation_config)
    network.generation_config.eos_token_id = sorted(ends)  # rollouts end where the engines' completions do
    if arguments.beta and checked.lora is None and adapters.source(model, adapter=checked.adapter).adapter:
        raise UserError(
            f"training setting 'beta': TRL loads the reference model from files, and {model} is an adapter; make it"
            " with lora.merge: true, or give this training lora too"
        )
    encoded = {str(index): chat.encode(prompt) for index, prompt in enumerate(prompts)}
    limit = checked.max_prompt_length
    kept = [i for i in range(len(prompts)) if limit is None or len(encoded[str(i)]) <= limit]
    if len(kept) < len(prompts):
        log.warning("left out %d of %d prompts longer than %d tokens", len(prompts) - len(kept), len(prompts), limit)
    trained = len(prompts) - held_out
    kept, evaluated = [i for i in kept if i < trained], [i for i in kept if i >= trained][: checked.max_held_out]
    if not kept or (held_out and not evaluated):
        raise UserError(f"training setting 'max_prompt_length': no prompt has {limit} tokens or fewer")
    if checked.stop and arguments.use_vllm:
        arguments.generation_kwargs = {"stop": list(checked.stop), **checked.trainer.get("generation_kwargs", {})}
    groups = arguments.generation_batch_size // arguments.num_generations
    if len(kept) < groups:
        raise UserError(f"one step needs {groups} prompts, but there are only {len(kept)} to train on")
    tokens = sum(len(encoded[str(i)]) for i in kept) / len(kept)
    log.info("training on %d prompts of %.0f tokens on average, %d per step", len(kept), tokens, groups)
    if held_out:
        together = arguments.num_generations_eval
        at_once = arguments.per_device_train_batch_size * arguments.steps_per_generation // together
        share = math.ceil(len(evaluated) / arguments.world_size)
        arguments.per_device_eval_batch_size = together * min(max(1, at_once), share)
        log.info("evaluating on %d held-out examples every %s steps", len(evaluated), arguments.eval_steps)
    kind: type[PreferenceTrainer] = PreferenceTrainer
    own: dict[str, Any] = {"train_dataset": _dataset(kept)}
    if update is not None:
        kind = PreferenceStreamTrainer
        own = {
            "train_dataset": _dataset(range(len(cases))),
            "cases": cases,
            "streams": find_streams(cases, kept),
            "credit": checked.credit,
            "update": update,
            "parse": lambda ids: parse_completion(*rollout_text(ids, chat, ends, checked.stop)),
            "chat": chat,
        }
    return lora.make_trainer(
        kind,
        network,
        arguments,
        checked.lora,
        reward_funcs=reward_function(reward, cases, chat, ends, checked.synthesis_phrases, checked.stop),
        eval_dataset=_dataset(evaluated) if held_out else None,
        processing_class=chat.tokenizer,
        callbacks=[loop.Progress(FIGURES)],
        encoded=encoded,
        log_rollouts=checked.log_rollouts,
        stop=checked.stop,
        **own,
    )


def _dataset(rows: Sequence[int]) -> Dataset:
    return Dataset.from_dict({"prompt": [str(row) for row in rows], "row": list(rows)})


def train(
    settings: Mapping[str, Any],
    model: str | Path,
    data: str | Path,
    templates: Templates,
    judge: Mapping[str, Any],
    journal: str | Path,
    output: str | Path,
    metrics: str | Path,
    rollouts: str | Path,
    held_out: str | Path | None = None,
) -> None:
    """Train `model` on the examples of `data`; save it in `output`, and its steps in the Parquet file `metrics`.

    If the examples are steps of streams, training goes over the steps (training/streams.py).

    Some of its rollouts are kept in the Parquet file `rollouts`. `judge` is a judge's entry as `load_judge` takes it.
    The judge runs in this process, and its answers are kept in the directory `journal`. The model is evaluated on the
    examples of `held_out` while it trains; UserError if it would also be trained on some of them, or if they or the
    examples are steps of streams.
    """
    check_settings(settings, GRPOConfig)
    examples = records.read(data, records.EXAMPLE)
    if examples.is_empty():
        raise UserError(f"{data}: no example to train on")
    evaluated = records.read(held_out, records.EXAMPLE) if held_out else examples.clear()
    if held_out and evaluated.is_empty():
        raise UserError(f"{held_out}: no example to evaluate on")
    check_held_out(evaluated, examples, str(held_out))
    cases = [*examples.to_dicts(), *evaluated.to_dicts()]
    reward = Reward(load_judge(judge, templates, journal))
    steps = sum(bool(case["chunks"]) for case in cases)
    if 0 < steps < len(cases):
        raise UserError(
            f"{data}: {steps} of {len(cases)} examples are steps of streams; train on one or the other kind"
        )
    if steps and held_out:
        raise UserError(f"{held_out}: training over the steps of streams cannot be evaluated; set held_out: false")
    prompts = [templates.update(case, "") if steps else templates.preference(case) for case in cases]
    update = templates.update if steps else None
    trainer = make_trainer(
        settings, model, cases, prompts, reward, Path(output), held_out=evaluated.height, update=update
    )
    asked = {**judge, "model": engines.identity(judge["model"])}
    more = {"held_out": str(held_out), "held_out_content": digest(held_out)} if held_out else {}
    facts = run_facts("grpo", settings, model, data, templates, judge=asked, **more)
    loop.complete(trainer, facts, Path(output), metrics, GRPO_METRICS, rollouts)
