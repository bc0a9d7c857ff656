"""GRPO over the steps of streams: batches, what is carried on, credit, the update, and resuming."""

import os
import random
import signal

import polars as pl
import pytest
import torch
from alignxplore import records
from alignxplore.engines.transformers import TransformersBackend
from alignxplore.errors import UserError
from alignxplore.formats import Parsed
from alignxplore.prompts import Templates
from alignxplore.training import grpo, loop, sft
from alignxplore.training.metrics import GRPO_METRICS, from_history
from alignxplore.training.packed import PackedTrainer
from alignxplore.training.streams import StreamSampler, credited, find_streams, side_by_side, whole
from demonstrations import demonstration
from small_streams import SETTINGS, SHARES, letters, make, train
from small_training import outcome
from transformers import AutoModelForCausalLM

RULES = pytest.mark.parametrize("credit", ["own", SHARES], ids=["own", "next"])


def cut(pattern: str) -> list[list[int]]:
    """Streams of these lengths, such as `3 2`; the tens of a row are its stream, the ones its step."""
    return [[10 * number + step for step in range(int(size))] for number, size in enumerate(pattern.split())]


@pytest.mark.parametrize(
    ("pattern", "size", "batches"),
    [
        ("2 2 2 2 2", 2, [[0, 10], [1, 11], [20, 30], [21, 31]]),
        ("3 2 2 3", 2, [[0, 10], [1, 11], [2, 20], [30, 21]]),
        ("1 1 1", 3, [[0, 10, 20]]),
        ("3 3", 3, []),
    ],
)
def test_streams_advance_side_by_side(pattern, size, batches):
    assert list(side_by_side(cut(pattern), size)) == batches


@pytest.mark.parametrize(
    ("pattern", "size", "batches"),
    [
        ("2 2 2 2 2", 4, [[0, 1, 10, 11], [20, 21, 30, 31]]),
        ("3 2 1 2", 4, [[0, 1, 2, 20], [10, 11, 30, 31]]),
        ("3 3 2", 4, [[0, 1, 2, 10], [11, 12, 20, 21]]),  # the second is cut, and goes on at once
        ("5 1 1 1", 2, [[10, 20], [30, 0], [1, 2], [3, 4]]),
        ("3", 4, []),
    ],
)
def test_whole_streams_fill_batches(pattern, size, batches):
    assert list(whole(cut(pattern), size)) == batches


@pytest.mark.parametrize("batches", [side_by_side, whole])
def test_an_epoch_has_each_step_once_after_the_one_before_it(batches):
    """All epochs have equally many batches, or a resumed run would lose its place in the data."""
    streams = cut("3 1 2 2 4 1 3 2 1")
    sampler = StreamSampler(streams, 3, batches, 2, 3, 7)
    orders = []
    for epoch in range(4):
        sampler.set_epoch(epoch)
        planned, rows = sampler.planned(), list(sampler)
        assert len(rows) == len(sampler) == len(planned) * 3 * 2 * 3
        assert rows[:18] == [row for row in planned[0] for _ in range(2)] * 3
        seen = [row for batch in planned for row in batch]
        assert len(set(seen)) == len(seen) and len(seen) >= 19 - 4
        for stream in streams:
            places = [seen.index(row) for row in stream if row in seen]
            assert places == sorted(places) and set(seen) & set(stream) == set(stream[: len(places)])
        for earlier, later in zip(planned, planned[1:], strict=False):
            begun = {row + 1 for row in earlier if any(row + 1 in stream for stream in streams)} - set(earlier)
            assert begun <= set(later), "a stream that has begun goes on in the next batch"
        orders.append(seen)
    assert len({len(seen) for seen in orders}) == 1 and len(set(map(tuple, orders))) == 4
    assert list(StreamSampler(streams, 3, batches, 2, 3, 7)) != list(StreamSampler(streams, 3, batches, 2, 3, 8))
    assert StreamSampler(streams, 3, batches, 1, 1, None).planned() == list(batches(streams, 3))


def test_epochs_are_equally_long_whatever_the_order():
    """A long stream at the end would leave more steps out than one at the beginning."""
    sampler = StreamSampler(cut("5 1 1 1 1 1"), 2, side_by_side, 1, 1, 7)
    lengths, starts = set(), set()
    for epoch in range(8):
        sampler.set_epoch(epoch)
        lengths.add(len(sampler))
        starts.add(tuple(sampler))
    assert len(lengths) == 1 and len(starts) > 1


def test_a_stream_ends_before_a_step_that_is_left_out():
    cases = [{"stream": name, "chunks": [1] * count} for name, count in [("a", 2), ("b", 1), ("a", 1), ("a", 3)]]
    assert find_streams(cases, [0, 1, 2, 3]) == [[1], [2, 0, 3]]
    assert find_streams(cases, [1, 2, 3]) == [[1], [2]]
    assert find_streams(cases, [0, 1, 3]) == [[1]]


def test_credit_of_the_next_step_by_hand():
    own = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 1.0], [1.0, 0.0]])
    # Group 0 goes on in 3, that in 2, and that in 1. Each gives what is its own: one half, 1, and one half.
    found = credited(own, [3, None, 1, 2], [1, 0, 0, 0], {"carried": 0.9, "others": 0.45})
    assert torch.allclose(found, torch.tensor([[1.225, 0.45], [1.0, 0.0], [1.45, 1.225], [1.9, 0.45]]))


class Rollouts:
    """Plays the sampler: rollouts in format, whose description tells the prompt's number; notes what was asked."""

    def __init__(self, monkeypatch):
        self.calls = []
        monkeypatch.setattr(PackedTrainer, "_generate_single_turn", lambda trainer, ids, *rest: self(trainer, ids))

    def __call__(self, trainer, prompt_ids):
        tokenizer, group = trainer.processing_class, trainer.num_generations
        first = sum(len(call) for call in self.calls)
        self.calls.append([tokenizer.decode(ids) for ids in prompt_ids])
        texts = [f"d{first + place} e" if place % group else f"d{first + place}" for place in range(len(prompt_ids))]
        return [[*tokenizer.encode(text), trainer.eos_token_ids[0]] for text in texts], None


def drawn_of(trainer, stream: str, step: int, epoch: int = 0) -> int:
    return random.Random(f"{trainer.args.seed} {stream} {step} {epoch}").randrange(trainer.num_generations)


@RULES
def test_one_rollout_is_drawn_whatever_its_reward_and_becomes_the_past(tiny_model, tmp_path, monkeypatch, credit):
    rollouts = Rollouts(monkeypatch)
    seen = []

    def reward(parsed, cases):
        seen.append([case["text"] for case in cases])
        return [0.0] * len(parsed)

    topics = {"a": 2, "b": 2, "c": 2, "d": 2}
    trainer = make(tiny_model, tmp_path / "out", reward, topics, credit=credit, max_steps=4, shuffle_dataset=False)
    loop.run(trainer)
    # With 4 prompts a batch: 4 streams a step, or 2 streams with both of their steps, in two rounds.
    if credit == "own":
        assert [len(call) for call in rollouts.calls] == [12] * 4
        assert seen == [[f"{name} {step}" for name in "abcd" for _ in range(3)] for step in (1, 2, 1, 2)]
    else:
        assert [len(call) for call in rollouts.calls] == [6] * 8
        assert (
            seen == [[f"{n} {step}" for n in names for step in (1, 2) for _ in range(3)] for names in ("ab", "cd")] * 2
        )
    width = len(rollouts.calls[0])
    for number in range(0, len(rollouts.calls), 2):
        first, second = rollouts.calls[number : number + 2]
        assert all("likes  " not in text and "likes d" not in text for text in first), "a first step has no past"
        for place in range(0, width, 3):
            stream = first[place].partition("Post: ")[2][0]
            epoch = number * 2 // len(rollouts.calls) if credit != "own" else number // 2
            rollout = drawn_of(trainer, stream, 1, epoch)
            text = f"d{number * width + place + rollout}"
            assert all(
                f"Post: {stream} 2 likes {text}{' e' if rollout else ''}" in t for t in second[place : place + 3]
            )


def test_a_rollout_out_of_format_leaves_the_past_as_it_was(tiny_model, tmp_path, monkeypatch):
    rollouts = Rollouts(monkeypatch)
    topics = dict.fromkeys("abcd", 3)
    trainer = make(tiny_model, tmp_path / "out", topics=topics, max_steps=3, shuffle_dataset=False)
    parse = trainer.parse
    trainer.parse = lambda ids: Parsed("", parse(ids).preference, len(rollouts.calls) != 2)
    loop.run(trainer)
    pasts = [[text.partition("likes ")[2].partition("<")[0] for text in call] for call in rollouts.calls]
    assert pasts[1] == pasts[2] and len(set(pasts[1])) == 4


def reference(rewards, following, drawn, shares):
    """Credited rewards and advantages in float64, rollout by rollout (Eq. 11)."""
    credit, advantages = [], []
    for group, own in enumerate(rewards):
        after = following[group]
        mean = sum(rewards[after]) / len(own) if after is not None else 0.0
        share = [shares["carried"] if place == drawn[group] else shares["others"] for place in range(len(own))]
        credit.append([reward + part * mean for reward, part in zip(own, share, strict=True)])
    for values in torch.tensor(credit, dtype=torch.float64):
        advantages.append((values - values.mean()) / (values.std() + 1e-4))
    return torch.cat(advantages)


@RULES
def test_update_matches_a_float64_reference(ending_model, tmp_path, credit):
    """Rewards, advantages, and the loss's gradient (Eq. 9) of one update through the trainer."""
    given = []

    def reward(parsed, cases):
        given.extend(letters(parsed, cases))
        return given

    trainer = make(
        ending_model, tmp_path / "out", reward, {"travel": 2, "humor": 2, "a joke": 2, "quick": 2}, credit=credit,
        max_steps=1, per_device_train_batch_size=24, num_generations=6, gradient_accumulation_steps=1, optim="sgd",
        learning_rate=1.0, max_grad_norm=0.0, lr_scheduler_type="constant", shuffle_dataset=False,
    )  # fmt: skip
    batches = []
    original = trainer._generate_and_score_completions
    trainer._generate_and_score_completions = lambda inputs: batches.append(original(inputs)) or dict(batches[-1])
    before = {name: value.detach().clone() for name, value in trainer.model.named_parameters()}
    loop.run(trainer)

    rewards = torch.tensor(given, dtype=torch.float64).view(4, 6).tolist()
    following = [None] * 4 if credit == "own" else [1, None, 3, None]
    streams = ["travel", "humor", "a joke", "quick"] if credit == "own" else ["travel", "", "humor", ""]
    drawn = [drawn_of(trainer, stream, 1) for stream in streams]
    advantages = reference(rewards, following, drawn, SHARES)
    assert len({round(value, 6) for value in advantages.tolist()}) > (2 if credit == "own" else 4)
    assert torch.allclose(batches[0]["advantages"].double(), advantages, atol=1e-5)
    history = from_history(trainer.state.log_history, GRPO_METRICS)
    assert history["reward"].item() == pytest.approx(sum(given) / 24), "the step's own"

    exact = AutoModelForCausalLM.from_pretrained(ending_model, dtype=torch.float64)
    terms = []
    for row, advantage in enumerate(advantages):
        prompt = batches[0]["prompt_ids"][row][batches[0]["prompt_mask"][row].bool()]
        answer = batches[0]["completion_ids"][row][batches[0]["completion_mask"][row].bool()]
        logits = exact(torch.cat([prompt, answer])[None]).logits[0, len(prompt) - 1 : -1] / 0.9
        log_probs = logits.log_softmax(-1).gather(1, answer[:, None])[:, 0]
        terms.append(-((log_probs - log_probs.detach()).exp() * advantage).mean())
    torch.stack(terms).mean().backward()
    after = dict(trainer.model.named_parameters())
    for name, value in exact.named_parameters():
        moved = before[name].double() - after[name].detach().double()
        assert torch.allclose(moved, value.grad, rtol=1e-3, atol=3e-6), name


@RULES
def test_training_raises_the_reward(tiny_model, tmp_path, credit):
    def reward(parsed, cases):
        return [float("p" in item.preference) for item in parsed]

    trainer = make(tiny_model, tmp_path / "out", reward, credit=credit, max_steps=25, save_strategy="no")
    loop.run(trainer)
    curve = from_history(trainer.state.log_history, GRPO_METRICS)["reward"]
    assert curve[-5:].mean() > curve[:5].mean() + 0.2


@pytest.fixture(scope="module", params=["own", SHARES], ids=["own", "next"])
def undisturbed(request, ending_model, tmp_path_factory):
    """A rule of credit, and what a training by it ends with."""
    output = tmp_path_factory.mktemp("undisturbed") / "policy"
    train(ending_model, output, credit=request.param)
    return request.param, outcome(output)


def interrupted(at: int, stop):
    """A reward that calls `stop` when it is asked for the `at`-th time."""
    asked = []

    def reward(parsed, cases):
        asked.append(len(parsed))
        if len(asked) == at:
            stop()
        return letters(parsed, cases)

    return reward


def raises(error: Exception):
    def stop():
        raise error

    return stop


@pytest.mark.parametrize(
    ("at", "stop", "saved"),
    [
        (5, lambda: os.kill(os.getpid(), signal.SIGTERM), 5),
        (8, raises(UserError("the judge is down")), 7),
        (9, raises(RuntimeError("killed")), 6),  # nothing is saved: the last regular checkpoint has to do
        (10, raises(RuntimeError("killed")), 9),
    ],
    ids=["sigterm", "judge", "killed", "killed after a checkpoint"],
)
def test_a_resumed_run_ends_with_the_same_bytes(ending_model, undisturbed, tmp_path, at, stop, saved):
    credit, expected = undisturbed
    output = tmp_path / "policy"
    with pytest.raises((UserError, RuntimeError)):
        train(ending_model, output, interrupted(at, stop), credit=credit)
    asked = []
    train(ending_model, output, lambda parsed, cases: asked.append(1) or letters(parsed, cases), credit=credit)
    assert len(asked) == SETTINGS["max_steps"] - saved
    assert outcome(output) == expected


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"credit": "next"}, "'credit' must be 'own' or two numbers"),
        ({"credit": {"carried": 0.9}}, "'credit' must be 'own' or two numbers"),
        ({"credit": {"carried": "0.9", "others": 0.45}}, "'credit' must be 'own' or two numbers"),
        ({"steps_per_generation": 1}, "'gradient_accumulation_steps': with credit 'own'"),
        ({"topics": {"a": 3, "b": 3, "c": 3}}, "one step needs 4 prompts, but there are only 3 streams"),
    ],
)
def test_error_names_the_bad_setting(tiny_model, tmp_path, settings, message):
    with pytest.raises(UserError, match=message):
        make(tiny_model, tmp_path / "out", **settings)


@pytest.mark.parametrize("reuse", [{"num_iterations": 2}, {"steps_per_generation": 4}])
def test_rollouts_that_are_used_for_several_updates_stay_with_their_step(tiny_model, tmp_path, monkeypatch, reuse):
    rollouts = Rollouts(monkeypatch)
    topics = dict.fromkeys("abcdefgh", 2)
    trainer = make(tiny_model, tmp_path / "out", topics=topics, max_steps=4, shuffle_dataset=False, **reuse)
    loop.run(trainer)
    first, second = rollouts.calls
    assert len(first) == len(second) == (12 if "num_iterations" in reuse else 24)
    assert all(" 1 likes" in text for text in first) and all(" 2 likes d" in text for text in second)


def test_a_stream_that_is_cut_is_told(tiny_model, tmp_path, caplog):
    make(tiny_model, tmp_path / "out", topics=dict.fromkeys("abcd", 3), credit=SHARES)
    assert "2 steps per epoch get no credit of the next one" in caplog.text


def test_sft_grpo_and_inference_ask_the_same_tokens(tiny_model, tmp_path):
    names = ("preference", "update", "judge")
    templates = Templates(**{name: f"resources/prompts/{name}.jinja" for name in names})
    row = demonstration(1, "<think>\na\n</think>\n<answer>\nb\n</answer>")
    pairs = [{**row["pairs"][0], "chosen": text} for text in ("likes humor", "a passport")]
    past = "likes <|im_end|>"
    step = {**row, "pairs": pairs, "stream": "u", "chunks": [1, 1], "past": past}
    asked = TransformersBackend(str(tiny_model)).chat
    inferred = asked.encode(templates.preference({**step, "pairs": pairs[1:]}, template="update", past=past))
    (learned,) = sft.tokenise(asked, [templates.update(step, step["past"])], ["x"])
    assert learned["input_ids"][: len(inferred)] == inferred
    cases = [{**step, "chunks": [1]}, step]
    trainer = grpo.make_trainer(
        {**SETTINGS, "per_device_train_batch_size": 3, "gradient_accumulation_steps": 1}, tiny_model, cases,
        [templates.update(case, "") for case in cases], letters, tmp_path / "out",
        update=templates.update,
    )  # fmt: skip
    trainer.pasts["1"] = past
    rollouts = trainer._generate_and_score_completions([{"prompt": "1", "row": 1}] * 3)
    for ids, kept in zip(rollouts["prompt_ids"], rollouts["prompt_mask"].bool(), strict=True):
        assert ids[kept].tolist() == inferred


def test_a_mixture_of_steps_and_examples_is_refused(tiny_model, tmp_path):
    rows = [{name: demonstration(1, "")[name] for name in records.EXAMPLE} for _ in range(2)]
    rows[1] |= {"stream": "u", "chunks": [1]}
    records.write(pl.DataFrame(rows, schema=records.EXAMPLE), tmp_path / "rl.parquet", records.EXAMPLE)
    templates = Templates(judge="resources/prompts/judge.jinja")
    judge = {"kind": "jud", "model": {"engine": "transformers", "path": str(tiny_model)}}
    with pytest.raises(UserError, match="1 of 2 examples are steps of streams"):
        grpo.train(
            {}, tiny_model, tmp_path / "rl.parquet", templates, judge, tmp_path, tmp_path / "o", tmp_path / "m",
            tmp_path / "r",
        )  # fmt: skip
