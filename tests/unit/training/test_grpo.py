"""GRPO computes Eq. 9-11 exactly, packing changes no number, and training raises the reward."""

import math
from pathlib import Path

import polars as pl
import pytest
import small_training
import torch
from alignxplore.engines import packing
from alignxplore.engines.tokens import ChatTokenizer
from alignxplore.errors import UserError
from alignxplore.prompts import Prompt
from alignxplore.training import grpo, loop, scoring
from alignxplore.training.metrics import GRPO_METRICS, from_history
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.generation import TopKLogitsWarper, TopPLogitsWarper
from trl.trainer import grpo_trainer

ROOT = Path(__file__).parents[3]
NAMES = ("preference", "concise", "judge", "respond")
PROMPTS = {name: str(ROOT / f"resources/prompts/{name}.jinja") for name in NAMES}
SETTINGS = {
    "per_device_train_batch_size": 12, "num_generations": 4, "max_completion_length": 6, "learning_rate": 1e-2,
    "temperature": 0.9, "top_p": 0.95, "top_k": 10, "max_steps": 1, "seed": 5, "lr_scheduler_type": "constant",
}  # fmt: skip
QUESTIONS = ["Post: travel", "likes humor, dislikes travel", "Answer the user in a few words; a joke would help", "no"]


def letters(parsed, cases):
    """A reward without a judge: 1 for a preference with an `e`."""
    return [float("e" in item.preference) for item in parsed]


def make(model, output, reward=letters, **settings):
    prompts = [Prompt(text) for text in QUESTIONS]
    return grpo.make_trainer(
        {**SETTINGS, **settings}, model, [{"example_id": prompt.user} for prompt in prompts], prompts, reward, output
    )


@pytest.mark.parametrize("skip_fused", [True, False])
def test_packed_rows_give_the_log_probabilities_of_separate_rows(tiny_model, tmp_path, monkeypatch, skip_fused):
    if not skip_fused:
        monkeypatch.setattr(scoring, "MOST_LOGITS", 0)
    trainer = make(tiny_model, tmp_path / "out")
    prompts = [[5, 6, 7, 8, 9], [5, 6, 7, 8, 9], [11], [5, 6, 7, 8, 9], [12, 13]]
    answers = [[20, 21], [22, 23, 24, 25], [26], [27, 28, 29], [30, 31, 32]]
    width, length = 5, 4
    ids = torch.zeros(5, width + length, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        ids[row, width - len(prompt) : width + len(answer)] = torch.tensor(prompt + answer)
        mask[row, width - len(prompt) : width + len(answer)] = 1
    log_probs, entropy, _ = trainer._get_per_token_logps_and_entropies(
        trainer.model, ids, mask, length, batch_size=3, compute_entropy=True
    )
    exact = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float64)
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        logits = exact(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1] / 0.9
        expected = logits.log_softmax(-1)
        picked = expected.gather(1, torch.tensor(answer)[:, None])[:, 0]
        size = len(answer)
        assert torch.allclose(log_probs[row, :size].double(), picked, atol=1e-5)
        assert torch.allclose(entropy[row, :size].double(), -(expected.exp() * expected).sum(-1), atol=1e-5)
        assert not log_probs[row, size:].any()


def test_greedy_rollouts_match_unbatched_argmax(tiny_model):
    model = AutoModelForCausalLM.from_pretrained(tiny_model).eval()
    prompts = [[5, 6, 7, 8, 9, 10, 11], [11], [12, 13, 14]]
    completions = packing.rollout(model, prompts, 3, 8, {2}, temperature=1.0, top_p=1.0, top_k=1)
    assert len(completions) == 9
    for index, (completion, logprobs) in enumerate(completions):
        ids = list(prompts[index // 3])
        for token, logprob in zip(completion, logprobs, strict=True):
            logits = model(torch.tensor([ids])).logits[0, -1]
            assert token == logits.argmax()
            assert logprob == pytest.approx(logits.log_softmax(-1)[token].item(), abs=1e-4)
            ids.append(token)
        assert len(completion) == 8 or completion[-1] == 2
        assert 2 not in completion[:-1]


def test_rollout_stops_after_its_end_token(tiny_model):
    model = AutoModelForCausalLM.from_pretrained(tiny_model).eval()
    ((greedy, _),) = packing.rollout(model, [[5, 6, 7]], 1, 8, set(), temperature=1.0, top_p=1.0, top_k=1)
    end = greedy[3]
    ((stopped, _),) = packing.rollout(model, [[5, 6, 7]], 1, 8, {end}, temperature=1.0, top_p=1.0, top_k=1)
    assert stopped == greedy[: greedy.index(end) + 1]


@pytest.mark.parametrize("top_p, top_k", [(0.95, 10), (0.6, 0), (1.0, 3), (0.3, 5), (1.0, 0)])
def test_sampling_matches_the_distribution_of_transformers(top_p, top_k):
    torch.manual_seed(0)
    logits = torch.randn(1, 40) * 2
    expected = logits / 0.9
    if top_k:
        expected = TopKLogitsWarper(top_k)(None, expected)
    if top_p < 1:
        expected = TopPLogitsWarper(top_p)(None, expected)
    expected = expected.softmax(-1)[0]
    n = 40_000
    for uniforms in (None, torch.rand(n, dtype=torch.float64)):
        drawn = packing.sample(logits.expand(n, -1), 0.9, top_p, top_k, uniforms)
        observed = torch.bincount(drawn, minlength=40) / n
        assert not observed[expected == 0].any()
        assert (observed - expected).abs().max() < 4 * math.sqrt(0.25 / n)


def captured(trainer):
    """A list that receives the rollouts of each step with their advantages, before TRL shuffles them."""
    batches = []
    original = trainer._generate_and_score_completions

    def capture(inputs):
        batches.append(original(inputs))
        return dict(batches[-1])

    trainer._generate_and_score_completions = capture
    return batches


@pytest.mark.parametrize("batch, accumulation", [(12, 1), (6, 2), (4, 3)])
def test_update_matches_the_float64_gradient_of_eq_9_to_11(ending_model, tmp_path, batch, accumulation):
    given = []

    def reward(parsed, cases):
        given.extend(letters(parsed, cases))
        return given

    trainer = make(
        ending_model, tmp_path / "out", reward, per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulation, optim="sgd", learning_rate=1.0, max_grad_norm=0.0,
    )  # fmt: skip
    batches = captured(trainer)
    before = {name: value.detach().clone() for name, value in trainer.model.named_parameters()}
    loop.run(trainer)

    rewards = torch.tensor(given, dtype=torch.float64).view(3, 4)
    assert (rewards.std(1) > 0).any(), "the test needs a group with signal"
    # TRL adds 1e-4 to the standard deviation, because it is 0 if all rewards of a group are equal.
    advantages = ((rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-4)).flatten()
    rollouts = batches[0]
    assert torch.allclose(rollouts["advantages"].double(), advantages, atol=1e-6)

    exact = AutoModelForCausalLM.from_pretrained(ending_model, dtype=torch.float64)
    lengths = set()
    terms = []
    for row in range(12):
        prompt = rollouts["prompt_ids"][row][rollouts["prompt_mask"][row].bool()]
        answer = rollouts["completion_ids"][row][rollouts["completion_mask"][row].bool()]
        logits = exact(torch.cat([prompt, answer])[None]).logits[0, len(prompt) - 1 : -1] / 0.9
        log_probs = logits.log_softmax(-1).gather(1, answer[:, None])[:, 0]
        ratio = (log_probs - log_probs.detach()).exp()
        terms.append(-torch.min(ratio * advantages[row], ratio.clamp(0.8, 1.2) * advantages[row]).mean())
        lengths.add((len(prompt), len(answer)))
    assert len({p for p, _ in lengths}) > 1 and len({a for _, a in lengths}) > 2
    torch.stack(terms).mean().backward()
    after = dict(trainer.model.named_parameters())
    for name, value in exact.named_parameters():
        moved = before[name].double() - after[name].detach().double()
        assert torch.allclose(moved, value.grad, rtol=1e-3, atol=2e-6), name


def test_groups_with_equal_rewards_change_no_weight(tiny_model, tmp_path):
    trainer = make(tiny_model, tmp_path / "out", lambda parsed, cases: [1.0] * len(parsed), max_steps=2)
    batches = captured(trainer)
    before = {name: value.detach().clone() for name, value in trainer.model.named_parameters()}
    loop.run(trainer)
    assert all(not batch["advantages"].any() for batch in batches)
    assert all(torch.equal(before[name], value) for name, value in trainer.model.named_parameters())
    frame = from_history(trainer.state.log_history, GRPO_METRICS)
    assert frame["frac_reward_zero_std"].to_list() == [1.0, 1.0]
    assert frame["grad_norm"].to_list() == [0.0, 0.0]
    absent = [name for name in frame.columns if frame[name].is_nan().any()]
    assert absent == ["kl", "sampling_difference", "sampling_ratio"]
    assert [name for name in frame.columns if frame[name].null_count()] == [
        "held_out_reward", "held_out_format_ok", "held_out_length",
    ]  # fmt: skip


def test_what_trl_reports_of_vllm_is_among_the_metrics():
    logs = {"sampling/sampling_logp_difference/mean": 0.01, "sampling/importance_sampling_ratio/mean": 1.2}
    frame = from_history([{"step": 1, "grad_norm": 0.5, **logs}], GRPO_METRICS)
    assert (frame["sampling_difference"].item(), frame["sampling_ratio"].item()) == (0.01, 1.2)


def test_training_raises_reward_and_is_reproducible_by_seed(tiny_model, tmp_path):
    def learn(name, seed):
        trainer = make(tiny_model, tmp_path / name, max_steps=25, seed=seed)
        loop.run(trainer)
        return from_history(trainer.state.log_history, GRPO_METRICS), trainer.model.state_dict()

    curve, weights = learn("first", 5)
    again, same_weights = learn("again", 5)
    _, other_weights = learn("other", 6)
    assert curve["reward"][-5:].mean() > curve["reward"][:5].mean() + 0.2
    assert curve["step"].to_list() == list(range(1, 26))
    assert curve.equals(again)
    assert all(torch.equal(weights[name], same_weights[name]) for name in weights)
    assert not all(torch.equal(weights[name], other_weights[name]) for name in weights)


def logs(metrics):
    """What TRL gives a reward function to log with: metrics go to the dictionary, columns of rollouts nowhere."""
    return {"log_metric": metrics.__setitem__, "log_extra": lambda name, values: None}


def test_reward_function_parses_completions_as_at_inference(tiny_model):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    seen = []

    def reward(parsed, cases):
        seen.extend(zip(parsed, cases, strict=True))
        return [1.0] * len(parsed)

    good = "<think>\nPutting it together: a\n</think>\n<answer>\nb\n</answer>"
    end = tokenizer.eos_token_id
    rows = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in (good, good, good + "<|im_start|>")]
    ids = [[*rows[0], end], rows[1], [*rows[2], end]]
    logged = {}
    chat = ChatTokenizer(tokenizer)
    function = grpo.reward_function(reward, [{"example_id": "x"}, {"example_id": "y"}], chat, {end}, ["putting"])
    values = function(
        completion_ids=ids,
        row=[1, 0, 0],
        **logs(logged),
        completions=["", "", ""],
    )
    assert values == [1.0, 1.0, 1.0] and logged == {
        "format_ok": pytest.approx(1 / 3), "synthesis": 1.0, "clipped_ratio": pytest.approx(1 / 3),
    }  # fmt: skip
    assert [item.format_ok for item, _ in seen] == [True, False, False], "cut off; control token inside"
    assert seen[0][0].preference == "b"
    assert [case["example_id"] for _, case in seen] == ["y", "x", "x"]
    # A policy with marks of its own is read by them.
    text = "[THINK]\nPutting it together: a\n[/THINK]\n<answer>\nb\n</answer>"
    marked = [[*tokenizer(text, add_special_tokens=False)["input_ids"], end]]
    for thoughts, in_format in (("mistral", True), ("think", False)):
        chat = ChatTokenizer(tokenizer, thoughts=thoughts)
        function = grpo.reward_function(reward, [{"example_id": "x"}], chat, {end}, ["putting"])
        function(
            completion_ids=marked,
            row=[0],
            **logs(logged),
            completions=[""],
        )
        assert logged["format_ok"] == in_format


STOPS = ["</answer>", "User:", "<|im_start|>"]


@pytest.mark.parametrize("stop", [[], STOPS])
def test_a_completion_that_a_stop_text_ends_is_finished_and_lacks_it(tiny_model, stop):
    chat = ChatTokenizer(AutoTokenizer.from_pretrained(tiny_model))
    good = "<think>\na\n</think>\n<answer>\nb\n</answer>"
    texts = [good, good + "\nUser: more", "<think>\na\n</think>\n<answer>\nb<|im_start|>", "<think>a"]
    seen, logged = [], {}
    function = grpo.reward_function(
        lambda parsed, cases: seen.extend(parsed) or [0.0] * 4, [{"example_id": "x"}], chat, {2}, [], stop
    )
    ids = [chat.tokenizer.encode(text, add_special_tokens=False) for text in texts]
    function(completion_ids=ids, row=[0] * 4, **logs(logged))
    assert [item.format_ok for item in seen] == [bool(stop), bool(stop), False, False]
    assert logged["clipped_ratio"] == (0.25 if stop else 1.0)
    assert seen[2].preference == ("b" if stop else "b<|im_start|>")


@pytest.mark.parametrize("packed", [True, False])
def test_rollouts_end_with_the_token_that_completes_a_stop_text(tiny_model, tmp_path, packed):
    stop = ["er", "re", "es", "in", "is", "e ", " a"]
    stopped = make(tiny_model, tmp_path / "stopped", max_completion_length=40, stop=stop)
    stopped._may_pack_rollouts = packed
    decode = stopped.processing_class.decode
    batches = captured(stopped)
    loop.run(stopped)
    ends = 0
    for ids, seen in zip(batches[0]["completion_ids"], batches[0]["completion_mask"].bool(), strict=True):
        row = ids[seen].tolist()
        assert not any(text in decode(row[:-1]) for text in stop)
        ends += any(text in decode(row) for text in stop)
        assert any(text in decode(row) for text in stop) or len(row) == 40 or row[-1] in stopped.eos_token_ids
    assert ends >= 2
    frame = from_history(stopped.state.log_history, GRPO_METRICS)
    assert frame["clipped_ratio"].item() <= (12 - ends) / 12


def test_vllm_is_told_the_stop_texts(tiny_model, tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(grpo, "PreferenceTrainer", lambda **options: told.append(options))
    make(tiny_model, tmp_path / "out", stop=STOPS, use_vllm=True)
    make(tiny_model, tmp_path / "out", stop=STOPS)
    assert [options["args"].generation_kwargs for options in told] == [{"stop": STOPS}, None]


def test_rollout_prompts_are_encoded_as_at_inference(tiny_model, tmp_path):
    trainer = make(tiny_model, tmp_path / "out")
    batches = captured(trainer)
    loop.run(trainer)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    chat = ChatTokenizer(tokenizer)
    expected = {tuple(chat.encode(Prompt(text))) for text in QUESTIONS}
    ids, mask = batches[0]["prompt_ids"], batches[0]["prompt_mask"].bool()
    assert {tuple(row[seen].tolist()) for row, seen in zip(ids, mask, strict=True)} <= expected


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"num_generation": 4}, "'num_generation' is unknown.*did you mean 'num_generations'"),
        ({"num_generations": 5}, "training settings: .*divisible"),
        ({"max_prompt_length": 2}, "'max_prompt_length'"),
        ({"per_device_train_batch_size": 64}, "one step needs 16 prompts, but there are only 4"),
        ({"stop": ["User:"], "mask_truncated_completions": True}, "'mask_truncated_completions'"),
        ({"temperature": "hot"}, "'temperature' must be float"),
        ({"temperature": 0.0}, "'temperature' must be above 0"),
        ({"max_steps": None}, "'max_steps' must be int"),
        ({"eval_strategy": "steps"}, "'eval_strategy' cannot be 'steps': training.held_out turns"),
    ],
)
def test_error_names_the_bad_setting(tiny_model, tmp_path, settings, message):
    with pytest.raises(UserError, match=message):
        make(tiny_model, tmp_path / "out", **settings)


def test_logged_completions_show_the_text_of_prompts(tiny_model, tmp_path):
    small_training.train(tiny_model, tmp_path / "out", log_completions=True, max_steps=2, logging_steps=10)
    table = pl.read_parquet(tmp_path / "out/completions/completions_00002.parquet")
    assert table.height == 12
    assert all(any(question in prompt for question in small_training.QUESTIONS) for prompt in table["prompt"])


def test_metrics_reach_the_last_step_if_it_is_not_a_logging_step(tiny_model, tmp_path):
    small_training.train(tiny_model, tmp_path / "out", max_steps=3, logging_steps=2)
    assert pl.read_parquet(tmp_path / "out.parquet")["step"].to_list() == [2, 3]


def test_rollouts_are_sampled_in_the_precision_of_the_update(tiny_model, tmp_path):
    trainer = make(tiny_model, tmp_path / "out", bf16=True, use_cpu=True)
    precisions = {}

    def note(module, inputs, output):
        if module.training:  # not while the layout is tried
            precisions.setdefault(torch.is_grad_enabled(), set()).add(output.dtype)

    trainer.model.model.layers[0].mlp.register_forward_hook(note)
    loop.run(trainer)
    assert trainer._packs
    assert precisions == {False: {torch.bfloat16}, True: {torch.bfloat16}}


def test_the_reference_model_has_the_revision_of_the_policy(tiny_model, tmp_path, monkeypatch):
    loaded = []
    load = grpo_trainer.create_model_from_path
    monkeypatch.setattr(
        grpo_trainer, "create_model_from_path", lambda path, **options: loaded.append(options) or load(path, **options)
    )
    make(tiny_model, tmp_path / "out", beta=0.1, revision="pinned")
    assert [options["revision"] for options in loaded] == ["pinned"]
