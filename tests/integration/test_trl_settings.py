"""Every setting of TRL works as in its own trainers, is refused by name, or is declared in docs/training.md.

Our trainers and TRL's train the same model on the same rollouts or sequences, with each group of settings below.
`python tests/integration/test_trl_settings.py` prints what docs/training.md shows of this.
"""

import contextlib
import re
import sys
import tempfile
import warnings
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from alignxplore.errors import UserError
from alignxplore.prompts import Prompt
from alignxplore.training import grpo, lora, scoring, sft
from alignxplore.training.models import load_model, load_tokenizer
from alignxplore.training.settings import REFUSED, check_settings
from architectures import save_random
from datasets import Dataset
from random_models import random_qwen2
from transformers import PrinterCallback, set_seed
from trl import GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

DOCS = Path(__file__).parents[2] / "docs/training.md"
COMMON = {
    "per_device_train_batch_size": 6, "gradient_accumulation_steps": 2, "max_steps": 2, "optim": "sgd",
    "learning_rate": 0.1, "lr_scheduler_type": "constant", "max_grad_norm": 0.0, "seed": 5, "save_strategy": "no",
}  # fmt: skip
GRPO = {**COMMON, "num_generations": 3, "max_completion_length": 6, "temperature": 0.9, "log_rollouts": 0}
SFT = {**COMMON, "per_device_train_batch_size": 3}

REUSE = {"num_iterations": 2, "max_steps": 3, "learning_rate": 0.01}
"""Updates by rollouts of an older policy."""
KL = {"beta": 0.3}
CHECKPOINTING = [
    ({"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}}, {}),
    ({"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}}, {}),
    ({"activation_checkpointing": True, "activation_checkpointing_kwargs": {"use_reentrant": False}}, {}),
]
OPTIMISER = [
    ({"learning_rate": 0.2, "max_steps": 3, "gradient_accumulation_steps": 1}, {}),
    ({"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr": 0.1}, "warmup_steps": 1}, {}),
    ({"optim": "adamw_torch", "adam_beta1": 0.8, "adam_beta2": 0.9, "adam_epsilon": 0.1, "weight_decay": 0.1}, {}),
    ({"max_grad_norm": 0.5}, {}),
]
CASES = {
    ("grpo", "losses"): [
        *(({"loss_type": name}, {}) for name in ("dapo", "bnpo", "dr_grpo", "luspo", "cispo", "vespo")),
        ({"loss_type": "sapo"}, REUSE),
        ({"sapo_temperature_neg": 2.0, "sapo_temperature_pos": 0.5}, {**REUSE, "loss_type": "sapo"}),
        ({"vespo_k_pos": 1.0, "vespo_lambda_pos": 1.0}, {**REUSE, "loss_type": "vespo"}),
        ({"vespo_k_neg": 1.0, "vespo_lambda_neg": 1.0}, {**REUSE, "loss_type": "vespo"}),
    ],
    ("grpo", "batches and reuse of rollouts"): [
        ({"num_generations": 6, "per_device_train_batch_size": 3}, {}),
        ({"steps_per_generation": 4}, {"max_steps": 3}),
        ({"generation_batch_size": 12}, {"gradient_accumulation_steps": 1}),
        ({"num_iterations": 2}, {"max_steps": 3, "learning_rate": 0.01}),
        ({"epsilon": 0.01}, REUSE),
        ({"epsilon_high": 0.05}, REUSE),
        ({"delta": 1.1}, REUSE),
        ({"importance_sampling_level": "sequence"}, REUSE),
        ({"off_policy_mask_threshold": 0.001}, REUSE),
    ],
    ("grpo", "advantages"): [
        ({"scale_rewards": "none"}, {}),
        ({"scale_rewards": "batch"}, {}),
        ({"multi_objective_aggregation": "normalize_then_sum"}, {}),
    ],
    ("grpo", "reference model"): [
        (KL, {}),
        (KL, {"fused": True}),
        (KL, {"fused": True, "model": "untied"}),
        ({"use_bias_correction_kl": False}, KL),
        ({"sync_ref_model": True, "ref_model_mixup_alpha": 0.5, "ref_model_sync_steps": 1}, {**KL, "fused": True}),
    ],
    ("grpo", "masks and entropy"): [
        ({"mask_truncated_completions": True}, {}),
        ({"mask_truncated_completions": True}, {**KL, "fused": True}),
        ({"top_entropy_quantile": 0.5}, {}),
        ({"entropy_coef": 0.1}, {}),
        ({"use_adaptive_entropy": True, "entropy_coef_delta": 0.05, "entropy_target": 9.0}, {"entropy_coef": 0.1}),
        ({"entropy_coef_max": 0.01}, {"use_adaptive_entropy": True, "entropy_target": 9.0, "entropy_coef": 0.1}),
    ],
    ("grpo", "data, noise and experts"): [
        ({"shuffle_dataset": False}, {}),
        ({"seed": 6}, {}),
        ({"neftune_noise_alpha": 5.0}, {}),
        ({"disable_dropout": True}, {"model": "dropout"}),
        ({"router_aux_loss_coef": 2.0}, {"model": "moe"}),
        ({"router_aux_loss_coef": 0.0}, {"model": "moe"}),
    ],
    ("grpo", "rows and memory"): [
        ({"pad_to_multiple_of": 16}, {}),
        ({}, {"fused": True}),
        ({}, {"model": "untied", "fused": True}),
        *CHECKPOINTING,
    ],
    ("grpo", "optimiser"): OPTIMISER,
    ("sft", "data and noise"): [
        ({"shuffle_dataset": True}, {}),
        ({"train_sampling_strategy": "sequential"}, {}),
        ({"train_sampling_strategy": "group_by_length"}, {}),
        ({"data_seed": 9}, {}),
        ({"seed": 6}, {}),
        ({"neftune_noise_alpha": 5.0}, {}),
    ],
    ("sft", "rows and memory"): [
        ({"pad_to_multiple_of": 16}, {}),
        ({}, {"fused": True}),
        ({}, {"model": "untied", "fused": True}),
        *CHECKPOINTING,
        ({"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"selective": True}}, {}),
    ],
    ("sft", "optimiser"): OPTIMISER,
}
"""By stage and topic: settings to try together, and others that they need to matter.

`model` (see `models`) and `fused` are of these tests; `fused` has our trainer use the fused head, as at a real
vocabulary. Settings of "rows and memory" leave the result as it is; all others must change it.
"""

PRECISIONS = [
    ("grpo", {"bf16": True}),
    ("grpo", {"dtype": "bfloat16"}),
    ("grpo", {"bf16": True, "cast_lm_head_to_fp32": True, "model": "untied"}),
    ("sft", {"bf16": True}),
    ("sft", {"dtype": "bfloat16"}),
]

OTHERWISE = {
    "as in TRL: nothing here reads it": """
        accelerator_config auto_find_batch_size data_seed dataloader_drop_last dataloader_in_order
        dataloader_multiprocessing_context dataloader_num_workers dataloader_persistent_workers dataloader_pin_memory
        dataloader_prefetch_factor ddp_backend ddp_bucket_cap_mb ddp_find_unused_parameters ddp_timeout debug
        disable_tqdm do_train entropy_coef_min fp16 full_determinism ignore_data_skip include_num_input_tokens_seen
        length_column_name local_rank log_level log_level_replica log_multimodal log_on_each_node log_unique_prompts
        logging_first_step logging_nan_inf_filter logging_strategy num_completions_to_print num_train_epochs
        optim_args optim_target_modules project report_to restore_callback_states_from_checkpoint run_name
        save_on_each_node save_strategy save_total_limit skip_memory_metrics tf32 torch_compile
        torch_compile_backend torch_compile_mode torch_empty_cache_steps trackio_bucket_id trackio_space_id
        trackio_static_space_id train_sampling_strategy use_cache use_cpu activation_offloading""",
    "as in TRL: its own code samples the rollouts": """
        min_p repetition_penalty generation_kwargs cache_implementation use_transformers_continuous_batching
        use_transformers_paged transformers_continuous_batching_config use_vllm vllm_enable_sleep_mode
        vllm_gpu_memory_utilization vllm_group_port vllm_importance_sampling_cap vllm_importance_sampling_clip_max
        vllm_importance_sampling_clip_min vllm_importance_sampling_correction vllm_importance_sampling_mode
        vllm_max_model_length vllm_mode vllm_model_impl vllm_server_base_url vllm_server_host vllm_server_port
        vllm_server_timeout vllm_structured_outputs_regex vllm_tensor_parallel_size""",
    "rollouts of the same distribution, from other random numbers": "temperature top_p top_k max_completion_length",
    "for several processes: [scale.md](scale.md)": """
        average_tokens_across_devices deepspeed ds3_gather_for_generation fsdp fsdp_config""",
    "different: SFT leaves longer sequences out, TRL cuts them": "max_length",
    "different: the tables of completions end up in models/trained/VARIANT/completions": "log_completions",
    "different: 1 by default, and the last step is always logged": "logging_steps",
    "different: with `load_best_model_at_end`, the same as `eval_steps`": "save_steps",
}
"""How settings work that are not compared here."""

EVALUATION = {
    "GRPO: as in TRL, on [held-out examples](#held-out-examples)": """
        eval_delay eval_on_start load_best_model_at_end metric_for_best_model greater_is_better""",
    "GRPO, different: 10 by default": "eval_steps",
    "GRPO, different: 1 by default": "num_generations_eval",
}
"""The same for settings that SFT refuses."""


def models(directory: Path) -> dict[str, Path]:
    """Tiny random models, by the names in the cases."""
    words = "Infer this person's preferences from their behaviour; likes humor, dislikes travel. Post: Comment:"
    tied = random_qwen2(directory / "tied", words)
    return {
        "tied": tied,
        "untied": save_random("qwen2", tied, directory / "untied", tie_word_embeddings=False),
        "moe": save_random(
            "mixtral", tied, directory / "moe", sliding_window=None, output_router_logits=True, router_aux_loss_coef=0.5
        ),
        "dropout": save_random("gpt_neox", tied, directory / "dropout", hidden_dropout=0.5),
    }


def fixed_rollouts(self, prompt_ids, images, multimodal_fields, num_generations, **kwargs):
    """Random completions, some of them cut off, that differ from batch to batch but not from trainer to trainer."""
    self.batches = getattr(self, "batches", 0) + 1
    random, rows = np.random.default_rng(self.batches), []
    for _ in prompt_ids:
        length = int(random.integers(1, 7))
        tokens = random.integers(10, 200, length).tolist()
        rows.append(tokens if random.random() < 0.4 else [*tokens[:-1], self.eos_token_ids[0]])
    return rows, None


def by_tokens(completion_ids, **kwargs):
    """A reward of 0 or 1, equal within some groups and not within others."""
    return [float(sum(ids) % 2) for ids in completion_ids]


def train_both(stage: str, model: Path, settings: dict, fused: bool, directory: Path) -> list[torch.Tensor]:
    """Parameters before training, after ours, and after TRL's."""
    if stage == "grpo":
        ours, stock = grpo_trainers(model, {**GRPO, **settings}, directory)
    else:
        ours, stock = sft_trainers(model, {**SFT, **settings}, directory)
    before = parameters(ours)
    for trainer in (ours, stock):
        trainer.remove_callback(PrinterCallback)
        set_seed(trainer.args.seed)
        with pytest.MonkeyPatch.context() as patch:
            if fused:
                patch.setattr(scoring, "MOST_LOGITS", 0)
            trainer.train()
    return [before, parameters(ours), parameters(stock)]


def parameters(trainer) -> torch.Tensor:
    return torch.cat([value.detach().float().flatten() for value in trainer.model.parameters()])


class OurGRPO(grpo.PreferenceTrainer):
    _generate_single_turn = fixed_rollouts


class StockGRPO(GRPOTrainer):
    _generate_single_turn = fixed_rollouts

    def _tokenize_prompts(self, prompts):
        return [self.encoded[prompt] for prompt in prompts], None, {}


def grpo_trainers(model: Path, settings: dict, directory: Path):
    words = ["Post: travel", "likes", "dislikes humor; Post", "their", "behaviour", "person's Comment", "from", "Infer"]
    prompts = [Prompt(word) for word in words] * 2
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grpo, "PreferenceTrainer", OurGRPO)
        ours = grpo.make_trainer(settings, model, [{}] * 16, prompts, lambda parsed, cases: [], directory / "ours")
    ours.reward_funcs[0] = by_tokens
    checked, arguments = grpo.configure(settings, directory / "stock")
    chat = load_tokenizer(model, checked)
    set_seed(arguments.seed)  # of an adapter's first weights
    stock = StockGRPO(
        model=load_model(model, checked, chat),
        peft_config=None if checked.lora is None else lora.peft_config(checked.lora),
        reward_funcs=by_tokens,
        args=arguments,
        train_dataset=ours.train_dataset,
        processing_class=chat.tokenizer,
    )
    stock.encoded = ours.encoded
    return ours, stock


def sft_trainers(model: Path, settings: dict, directory: Path):
    """All completions have 5 tokens: then Eq. 8 is TRL's loss."""
    random = np.random.default_rng(1)
    rows = []
    for length in random.integers(2, 9, 24):
        ids = random.integers(10, 200, length + 5).tolist()
        rows.append({"input_ids": ids, "labels": [-100] * int(length) + ids[length:]})
    ours = sft.make_trainer(settings, model, rows, directory / "ours")
    checked, arguments = sft.configure(settings, directory / "stock")
    chat = load_tokenizer(model, checked)
    set_seed(arguments.seed)
    stock = SFTTrainer(
        model=load_model(model, checked, chat),
        peft_config=None if checked.lora is None else lora.peft_config(checked.lora),
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=chat.tokenizer,
    )
    return ours, stock


class Comparison:
    """Trains in both ways, and remembers what has been trained."""

    def __init__(self, directory: Path):
        self.directory, self.models = directory, models(directory)
        self.known: dict[str, list[torch.Tensor]] = {}

    def train(self, stage: str, settings: dict) -> list[torch.Tensor]:
        key = f"{stage} {sorted(settings.items())}"
        if key not in self.known:
            own = {name: value for name, value in settings.items() if name not in ("model", "fused")}
            model, fused = self.models[settings.get("model", "tied")], settings.get("fused", False)
            self.known[key] = train_both(stage, model, own, fused, self.directory)
        return self.known[key]

    def difference(self, stage: str, topic: str, tried: dict, context: dict) -> float:
        """The greatest difference between the parameters of our trainer and TRL's."""
        before, ours, stock = self.train(stage, {**context, **tried})
        assert (ours - before).abs().max() > 1e-3, "nothing was learned"
        if topic != "rows and memory":
            assert (ours - self.train(stage, context)[1]).abs().max() > 3e-5, "the setting has no effect"
        return (ours - stock).abs().max().item()


@pytest.fixture(scope="module")
def comparison(tmp_path_factory) -> Comparison:
    return Comparison(tmp_path_factory.mktemp("settings"))


ALL = [(*group, *case) for group, cases in CASES.items() for case in cases]


@pytest.mark.parametrize(("stage", "topic", "tried", "context"), ALL, ids=lambda value: str(value)[:60])
def test_training_ends_with_the_parameters_of_trls_own_trainer(comparison, stage, topic, tried, context):
    assert comparison.difference(stage, topic, tried, context) <= 1e-5


@pytest.mark.parametrize(("stage", "settings"), [("sft", {"fused": True}), ("grpo", {}), ("grpo", KL)], ids=str)
def test_an_adapter_ends_with_the_parameters_of_trls_own_trainer(comparison, stage, settings):
    before, ours, stock = comparison.train(stage, {**settings, "lora": {"r": 4, "lora_alpha": 32}})
    assert (ours - before).abs().max() > 1e-3, "nothing was learned"
    assert (ours - stock).abs().max() <= 1e-5


@pytest.mark.parametrize(("stage", "settings"), PRECISIONS, ids=str)
def test_reduced_precision_is_as_near_to_float32_as_in_trls_own_trainer(comparison, stage, settings):
    exact = comparison.train(stage, {name: value for name, value in settings.items() if name == "model"})
    _, ours, stock = comparison.train(stage, {**settings, "use_cpu": True})
    assert 0 < (ours - exact[1]).norm() < 1.5 * (stock - exact[2]).norm()


def settings_of(kind) -> set[str]:
    return {field.name for field in fields(kind) if field.init} - {"output_dir"}


@pytest.mark.parametrize(("stage", "kind"), [("sft", SFTConfig), ("grpo", GRPOConfig)])
def test_every_setting_is_compared_refused_or_explained(stage, kind):
    compared = {name for other, _, *case in ALL if other == stage for settings in case for name in settings}
    compared |= {*COMMON, *(name for _, settings in PRECISIONS for name in settings)} - {"save_strategy"}
    refused = set(REFUSED[kind.__name__])
    told = OTHERWISE if stage == "sft" else OTHERWISE | EVALUATION
    explained = {name for names in told.values() for name in names.split()}
    assert settings_of(kind) <= compared | refused | explained
    assert not compared & refused and not explained & refused


@pytest.mark.parametrize("kind", [SFTConfig, GRPOConfig])
def test_a_refused_setting_is_named_with_the_reason(kind):
    def message(name: str, value: object) -> str:
        try:
            check_settings({name: value}, kind)
        except UserError as error:
            return str(error)
        return ""

    for name, reason in REFUSED[kind.__name__].items():
        if name in settings_of(kind):
            told = [message(name, value) for value in (True, False, 2, "other", {"key": 1})]
            assert any(repr(name) in text and reason in text for text in told), name


def page(differences: dict[tuple[str, str], float]) -> str:
    """The tables of docs/training.md."""

    def listed(names: Iterable[str]) -> str:
        return ", ".join(f"`{name}`" for name in dict.fromkeys(names))

    rows = ["| stage | same result as TRL's own trainer | greatest difference |", "| --- | --- | --- |"]
    for (stage, topic), cases in CASES.items():
        names = [name for settings, _ in cases for name in settings]
        rows.append(f"| {stage.upper()} | {topic}: {listed(names)} | {differences[stage, topic]:.0e} |")
    rows.append(
        "| GRPO, SFT | reduced precision: `bf16`, `cast_lm_head_to_fp32` (GRPO) | as near to float32 as TRL's |"
    )
    rows += ["", "| refused | why |", "| --- | --- |"]
    for kind in (GRPOConfig, SFTConfig):
        for reason in dict.fromkeys(REFUSED[kind.__name__].values()):
            if kind is GRPOConfig or reason not in REFUSED["GRPOConfig"].values():
                names = [
                    name for name, why in {**REFUSED["SFTConfig"], **REFUSED[kind.__name__]}.items() if why == reason
                ]
                rows.append(f"| {listed(names)} | {'' if kind is GRPOConfig else 'SFT: '}{reason} |")
    rows += ["", "| not compared | how it works |", "| --- | --- |"]
    rows += [f"| {listed(names.split())} | {how} |" for how, names in (OTHERWISE | EVALUATION).items()]
    return "\n".join(rows)


def test_the_page_on_training_shows_this():
    shown = re.sub(r"\d+e[-+]\d+", "0e+00", DOCS.read_text(encoding="utf-8"))
    assert page(dict.fromkeys(CASES, 0.0)) in shown


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as name, contextlib.redirect_stdout(sys.stderr):
        runner, found = Comparison(Path(name)), dict.fromkeys(CASES, 0.0)
        for group, (tried, context) in ((group, case) for group, cases in CASES.items() for case in cases):
            found[group] = max(found[group], runner.difference(*group, tried, context))
    print(page(found))
