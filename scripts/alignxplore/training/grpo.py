"""Reinforcement learning by GRPO (Eq. 9-11) with TRL's GRPOTrainer. One step, and where each part of it happens:

    prompts, encoded as at inference       make_trainer, PreferenceTrainer._tokenize_prompts
    G rollouts of each prompt              packed.PackedTrainer._generate_single_turn
    completions, decoded and parsed        reward_function
    reward R_format x R_jud (Eq. 3, 6)     judging.reward.Reward, asked by reward_function
    advantages (Eq. 11), loss (Eq. 9)      TRL, with the DEFAULTS below
    log-probabilities for the loss         packed.PackedTrainer._get_per_token_logps_and_entropies

If the examples are steps of streams, streams.StreamTrainer chooses the batches, carries descriptions on from step to
step, and credits rollouts with the next step's rewards. docs/training.md draws the same step.
"""

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from trl import GRPOConfig

from alignxplore import engines, records
from alignxplore.engines.tokens import ChatTokenizer
from alignxplore.errors import UserError
from alignxplore.formats import Parsed, end_of_stop, parse_completion, without_stop
from alignxplore.judging.judge import load_judge
from alignxplore.judging.reward import Reward
from alignxplore.prompts import Prompt, Templates
from alignxplore.training import loop
from alignxplore.training.checkpoints import partial_directory, run_facts
from alignxplore.training.metrics import GRPO_METRICS
from alignxplore.training.models import load_model, load_tokenizer
from alignxplore.training.packed import PackedTrainer
from alignxplore.training.settings import Settings, check_settings, make_arguments
from alignxplore.training.streams import StreamTrainer, check_credit, find_streams

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
FIGURES = {"reward": "reward", "format_ok": "in format", "completions/mean_length": "tokens", "entropy": "entropy"}
"""The figures of each step that the log shows: their names in the trainer's logs, and labels."""


class PreferenceTrainer(PackedTrainer):
    """Trains on prompts that are already token ids: the dataset's `prompt` is a key of `encoded`."""

    def __init__(self, *args: Any, encoded: dict[str, list[int]], **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.encoded = encoded

    def _get_train_sampler(self, dataset: Dataset | None = None) -> Any:
        # TRL's sampler shuffles each epoch with the generator that the epoch before left behind. A resumed run starts
        # in the middle, so each epoch gets a seed of its own.
        sampler = super()._get_train_sampler(dataset)
        if self.shuffle_dataset:
            sampler.set_epoch = lambda epoch: sampler.generator.manual_seed(self.args.seed + epoch)
        return sampler

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log a step; `log_completions` shows the prompts' text, not the keys of `encoded`."""
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
    `synthesis_phrases`, ignoring case.
    """
    phrases = [phrase.lower() for phrase in synthesis_phrases]

    def preference_reward(
        completion_ids: Sequence[Sequence[int]],
        row: Sequence[int],
        log_metric: Callable[[str, float], None],
        **kwargs: Any,
    ) -> list[float]:
        rollouts = [rollout_text(ids, chat, end_tokens, stop) for ids in completion_ids]
        parsed = [parse_completion(text, finish) for text, finish in rollouts]
        log_metric("clipped_ratio", sum(finish == "length" for _, finish in rollouts) / len(parsed))
        log_metric("format_ok", sum(p.format_ok for p in parsed) / len(parsed))
        synthesising = [any(phrase in p.reasoning.lower() for phrase in phrases) for p in parsed]
        log_metric("synthesis", sum(synthesising) / len(parsed))
        return [float(value) for value in reward(parsed, [cases[index] for index in row])]

    return preference_reward


def configure(
    settings: Mapping[str, Any], output: Path, kind: type[GRPOConfig] = GRPOConfig
) -> tuple[Settings, GRPOConfig]:
    """The checked settings, and the trainer's arguments; UserError says which setting is wrong."""
    checked = check_settings(settings, kind)
    check_credit(checked.credit)
    if checked.stop and checked.trainer.get("mask_truncated_completions"):
        raise UserError(
            "training setting 'mask_truncated_completions': TRL would mask rollouts that end at a stop text of the"
            " model's entry"
        )
    arguments = make_arguments(kind, checked, DEFAULTS, partial_directory(output))
    if arguments.temperature <= 0:
        raise UserError(f"training setting 'temperature' must be above 0, not {arguments.temperature}")
    return checked, arguments


def make_trainer(
    settings: Mapping[str, Any],
    model: str | Path,
    cases: Sequence[dict[str, Any]],
    prompts: Sequence[Prompt],
    reward: Rewards,
    output: Path,
    update: Callable[[Mapping[str, Any], str], Prompt] | None = None,
) -> PreferenceTrainer:
    """A trainer of `model` on `prompts`, one for each of `cases`, with the rewards (Eq. 3) that `reward` gives.

    If the cases are steps of streams, `update` gives the prompt of one with its past; `prompts` have no past yet.
    """
    checked, arguments = configure(settings, output)
    if checked.revision:
        arguments.model_init_kwargs = {"revision": checked.revision}  # of the reference model, which TRL loads
    chat = load_tokenizer(Path(model), checked)
    network = load_model(Path(model), checked, chat)
    ends = chat.end_tokens(network.generation_config)
    network.generation_config.eos_token_id = sorted(ends)  # rollouts end where the engines' completions do
    encoded = {str(index): chat.encode(prompt) for index, prompt in enumerate(prompts)}
    limit = checked.max_prompt_length
    kept = [i for i in range(len(prompts)) if limit is None or len(encoded[str(i)]) <= limit]
    if len(kept) < len(prompts):
        log.warning("left out %d of %d prompts longer than %d tokens", len(prompts) - len(kept), len(prompts), limit)
    if not kept:
        raise UserError(f"training setting 'max_prompt_length': no prompt has {limit} tokens or fewer")
    if checked.stop and arguments.use_vllm:
        arguments.generation_kwargs = {"stop": list(checked.stop), **checked.trainer.get("generation_kwargs", {})}
    groups = arguments.generation_batch_size // arguments.num_generations
    if len(kept) < groups:
        raise UserError(f"one step needs {groups} prompts, but there are only {len(kept)} to train on")
    tokens = sum(len(encoded[str(i)]) for i in kept) / len(kept)
    log.info("training on %d prompts of %.0f tokens on average, %d per step", len(kept), tokens, groups)
    options: dict[str, Any] = {
        "model": network,
        "reward_funcs": reward_function(reward, cases, chat, ends, checked.synthesis_phrases, checked.stop),
        "args": arguments,
        "processing_class": chat.tokenizer,
        "callbacks": [loop.Progress(FIGURES)],
        "encoded": encoded,
        "stop": checked.stop,
    }
    if update is None:
        return PreferenceTrainer(
            train_dataset=Dataset.from_dict({"prompt": [str(i) for i in kept], "row": kept}), **options
        )
    rows = range(len(cases))
    return PreferenceStreamTrainer(
        train_dataset=Dataset.from_dict({"prompt": [str(i) for i in rows], "row": rows}),
        cases=cases,
        streams=find_streams(cases, kept),
        credit=checked.credit,
        update=update,
        parse=lambda ids: parse_completion(*rollout_text(ids, chat, ends, checked.stop)),
        chat=chat,
        **options,
    )


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
    """Train `model` on the examples of `data`; save it in `output`, and its steps in the Parquet file `metrics`.

    If the examples are steps of streams, training goes over the steps (training/streams.py).

    `judge` is a judge's entry as `load_judge` takes it. The judge runs in this process, and its answers are kept in
    the directory `journal`.
    """
    check_settings(settings, GRPOConfig)
    cases = records.read(data, records.EXAMPLE).to_dicts()
    if not cases:
        raise UserError(f"{data}: no example to train on")
    reward = Reward(load_judge(judge, templates, journal))
    steps = sum(bool(case["chunks"]) for case in cases)
    if 0 < steps < len(cases):
        raise UserError(
            f"{data}: {steps} of {len(cases)} examples are steps of streams; train on one or the other kind"
        )
    prompts = [templates.update(case, "") if steps else templates.preference(case) for case in cases]
    update = templates.update if steps else None
    trainer = make_trainer(settings, model, cases, prompts, reward, Path(output), update)
    asked = {**judge, "model": engines.identity(judge["model"])}
    facts = run_facts("grpo", settings, model, data, templates, judge=asked)
    loop.complete(trainer, facts, Path(output), metrics, GRPO_METRICS)
