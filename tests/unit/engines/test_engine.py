"""The engine asks a model nothing twice, and asks again if anything that changes an answer differs."""

import hashlib
import json
import shutil
from dataclasses import asdict

import numpy as np
import pytest
from alignxplore import engines
from alignxplore.digests import directory_digest
from alignxplore.engines import Choice, Completion, Likelihood, Refused, Sampling
from alignxplore.engines.engine import Engine
from alignxplore.engines.journal import KEY_LENGTH, Journal, account, prune
from alignxplore.errors import UserError
from alignxplore.prompts import Prompt

SAMPLING = Sampling(temperature=0.9, top_p=0.95, top_k=10, max_new_tokens=8, seed=1)
PROMPTS = [Prompt(f"post {index}") for index in range(6)]


class Backend:
    """Answers with what it was asked, and records it."""

    def __init__(self):
        self.asked = []

    def answer(self, texts, done, make):
        for index, text in enumerate(texts):
            if index not in done:
                self.asked.append(text)
                yield [(index, make(index))]

    def generate(self, prompts, seeds, sampling, done=()):
        make = lambda i: Completion(f"{prompts[i].user} {seeds[i]}", "stop", 100, 10, (-0.25,))  # noqa: E731
        return self.answer([p.user for p in prompts], done, make)

    def choice_logprobs(self, prompts, choices, done=()):
        return self.answer([p.user for p in prompts], done, lambda i: Choice((-float(len(prompts[i].user)), -1.0), 100))

    def loglikelihood(self, prompts, continuations, done=()):
        return self.answer([p.user for p in prompts], done, lambda i: Likelihood(-float(len(continuations[i])), 3, 100))


@pytest.fixture
def make(tmp_path):
    def make(backend, identity="m", price=(0.0, 0.0)) -> Engine:
        return Engine("m", {"path": identity}, lambda: backend, Journal(tmp_path / "journal"), price)

    return make


class NoModel:
    def __getattr__(self, name):
        raise AssertionError("the model was loaded")


def test_only_new_prompts_are_paid_for(make):
    first, second = Backend(), Backend()
    few = make(first).generate(PROMPTS[:4], SAMPLING)
    many = make(second).generate(PROMPTS[::-1], SAMPLING)
    assert second.asked == ["post 5", "post 4"]
    assert many[::-1][:4] == few
    assert few[0].logprobs == (-0.25,)


def test_a_system_turn_is_part_of_the_question(make):
    first, second = Backend(), Backend()
    bare, kind = Prompt("post"), Prompt("post", system="Be kind.")
    for kinds in ("generate", "choice_logprobs", "loglikelihood"):
        arguments = {"generate": SAMPLING, "choice_logprobs": (" A", " B"), "loglikelihood": ["x"]}[kinds]
        getattr(make(first), kinds)([bare], arguments)
        getattr(make(second), kinds)([kind], arguments)
    assert first.asked == second.asked == ["post"] * 3


def test_keys_of_prompts_without_a_system_turn_are_as_ever(make, tmp_path):
    """So that the answers in older journals are found."""
    make(Backend()).generate([Prompt("post", "So")] * 2, SAMPLING)
    make(Backend()).choice_logprobs([Prompt("post", "So")], (" A", " B"))
    make(Backend()).loglikelihood([Prompt("post", "So")], ["x"])
    asked = [
        ("generate", asdict(SAMPLING), ["post", "So", 0]),
        ("generate", asdict(SAMPLING), ["post", "So", 1]),
        ("choice_logprobs", [" A", " B"], ["post", "So"]),
        ("loglikelihood", None, ["post", "So", "x"]),
    ]
    keys = []
    for kind, settings, request in asked:
        common = json.dumps([2, {"path": "m"}, kind, settings], sort_keys=True)
        keys.append(hashlib.sha256((common + json.dumps(request)).encode()).hexdigest()[:KEY_LENGTH])
    assert set(Journal(tmp_path / "journal").get(keys)) == set(keys)


def test_the_stop_texts_of_an_entry_end_completions_and_are_left_out(tiny_model, tmp_path):
    """Also control tokens; a tag of the format stays."""
    entry = {"engine": "transformers", "path": str(tiny_model)}
    sampling = Sampling(temperature=3, top_p=1, top_k=0, max_new_tokens=60, seed=1, stop=("</answer>",))
    prompts = [Prompt(f"a quick joke {'no ' * n}") for n in range(24)]
    plain = engines.load(entry).generate(prompts, sampling)
    stop = ["er", "in", "<|im_start|>", "</answer>", "<answer>", "</think>", "<|endoftext|>"]
    stopped = engines.load({**entry, "stop": stop}, tmp_path).generate(prompts, sampling)
    dropped = ("er", "in", "<|im_start|>", "<|endoftext|>")
    for completion in stopped:
        assert not any(text in completion.text for text in dropped)
        kept = [text for text in stop if text in completion.text]
        assert not kept or completion.text.endswith(kept[0])
        assert completion.finish_reason == ("stop" if completion.completion_tokens < 60 else "length")
    for text in (*dropped, "</answer>"):
        assert any(text in completion.text for completion in plain), "the test needs completions with each text"
    assert engines.load({**entry, "stop": stop}, tmp_path).generate(prompts, sampling) == stopped


def test_stop_texts_are_part_of_the_sampling_settings_alone():
    entry = {"engine": "transformers", "path": "m"}
    assert engines.identity({**entry, "stop": ["User:"]}) == engines.identity(entry)


def test_other_stop_texts_ask_again(tmp_path):
    for stop, asked in ((), 6), (("User:",), 6), (("User:",), 0), ((), 0):
        backend = Backend()
        Engine("m", {"path": "m"}, lambda b=backend: b, Journal(tmp_path), stop=stop).generate(PROMPTS, SAMPLING)
        assert len(backend.asked) == asked


def test_a_rerun_loads_no_model(make):
    engine = make(Backend())
    texts = ["x", "yy", "x", "z", "z", "z"]
    found = (
        engine.generate(PROMPTS, SAMPLING),
        engine.choice_logprobs(PROMPTS, (" A", " B")),
        engine.loglikelihood(PROMPTS, texts),
    )
    again = make(NoModel())
    assert again.generate(PROMPTS, SAMPLING) == found[0]
    np.testing.assert_array_equal(again.choice_logprobs(PROMPTS, (" A", " B")), found[1])
    assert again.loglikelihood(PROMPTS, texts) == found[2]


@pytest.mark.parametrize(
    "change",
    [
        {"identity": "other"},
        {"sampling": Sampling(0.8, 0.95, 10, 8, 1)},
        {"sampling": Sampling(0.9, 0.95, 10, 8, 2)},
        {"sampling": Sampling(0.9, 0.95, 10, 8, 1, ("</answer>",))},
        {"prompt": Prompt("post 0", "{")},
    ],
)
def test_a_change_that_affects_the_answer_asks_again(make, change):
    make(Backend()).generate(PROMPTS[:1], SAMPLING)
    backend = Backend()
    make(backend, change.get("identity", "m")).generate(
        [change.get("prompt", PROMPTS[0])], change.get("sampling", SAMPLING)
    )
    assert backend.asked == ["post 0"]


def test_equal_prompts_are_sampled_separately_and_scored_once(make):
    backend = Backend()
    engine = make(backend)
    one, two, three = engine.generate([PROMPTS[0]] * 3, SAMPLING)
    assert len({one.text, two.text, three.text}) == 3
    assert engine.generate([PROMPTS[0]] * 2, SAMPLING) == [one, two]
    backend.asked.clear()
    assert engine.loglikelihood([PROMPTS[0]] * 3 + [PROMPTS[1]], ["x", "y", "x", "x"]) == [(-1.0, 3)] * 4
    assert engine.choice_logprobs([PROMPTS[0]] * 2, ("A", "B")).shape == (2, 2)
    assert backend.asked == ["post 0", "post 0", "post 1", "post 0"]


def test_a_call_without_prompts_loads_no_model(make):
    engine = make(NoModel())
    assert engine.generate([], SAMPLING) == [] and engine.loglikelihood([], []) == []
    assert engine.choice_logprobs([], ("A", "B")).shape == (0, 2)


def test_tokens_and_dollars_are_accounted(make, tmp_path):
    make(Backend(), price=(2.0, 10.0)).generate(PROMPTS[:4], SAMPLING)
    make(Backend(), price=(2.0, 10.0)).generate(PROMPTS, SAMPLING)
    (row,) = account(tmp_path / "journal").to_dicts()
    assert (row["entries"], row["calls"], row["new"], row["hits"]) == (6, 2, 6, 4)
    assert (row["new_tokens"], row["saved_tokens"]) == (660, 440)
    assert row["paid_dollars"] == pytest.approx(6 * (100 * 2 + 10 * 10) / 1e6)
    assert row["saved_dollars"] == pytest.approx(4 * (100 * 2 + 10 * 10) / 1e6)


def test_reading_probabilities_costs_the_tokens_that_are_read(make, tmp_path):
    engine = make(Backend(), price=(2.0, 10.0))
    engine.choice_logprobs(PROMPTS, (" A", " B"))
    engine.loglikelihood(PROMPTS, ["x"] * 6)
    paid = {row["kind"]: row["paid_dollars"] for row in account(tmp_path / "journal").to_dicts()}
    assert paid == {kind: pytest.approx(6 * 100 * 2 / 1e6) for kind in ("choice_logprobs", "loglikelihood")}


def test_a_missing_answer_is_an_error(make):
    class Forgetful(Backend):
        def generate(self, prompts, seeds, sampling, done=()):
            return iter(list(super().generate(prompts, seeds, sampling, done))[1:])

    with pytest.raises(UserError, match="left 1 of 6 prompts without an answer"):
        make(Forgetful()).generate(PROMPTS, SAMPLING)


class Choosy(Backend):
    """Refuses the last prompts of PROMPTS."""

    def __init__(self, refuses=1):
        super().__init__()
        self.refuses = [prompt.user for prompt in PROMPTS[len(PROMPTS) - refuses :]]

    def answer(self, texts, done, make):
        for batch in super().answer(texts, done, make):
            yield [(i, Refused("is too long") if texts[i] in self.refuses else answer) for i, answer in batch]


def ask_all(engine):
    return (
        engine.generate(PROMPTS, SAMPLING),
        engine.choice_logprobs(PROMPTS, ("A", "B")),
        engine.loglikelihood(PROMPTS, ["x"] * len(PROMPTS)),
    )


def test_a_refused_prompt_costs_that_prompt_and_is_not_asked_again(make, caplog):
    for answered in (ask_all(make(Choosy())), ask_all(make(NoModel()))):
        completions, logprobs, scores = answered
        assert [c.finish_reason for c in completions] == ["stop"] * 5 + ["refused"] and completions[5].text == ""
        assert np.isfinite(logprobs[:5]).all() and np.isnan(logprobs[5]).all()
        assert scores[:5] == [(-1.0, 3)] * 5 and np.isnan(scores[5][0])
    assert caplog.text.count("model m refused 1 of 6 prompts: 1 x is too long") == 6


def test_too_many_refusals_stop_the_call_and_keep_its_answers(make, tmp_path):
    with pytest.raises(UserError, match=r"refused 2 of 6 prompts: 2 x is too long.*run\.max_refused.*10%.*--refused"):
        make(Choosy(2)).generate(PROMPTS, SAMPLING)
    with pytest.raises(UserError, match="refused 2 of 6"):
        make(NoModel()).generate(PROMPTS, SAMPLING)
    assert len(make(NoModel()).generate(PROMPTS[:4], SAMPLING)) == 4
    tolerant = Engine("m", {"path": "m"}, NoModel, Journal(tmp_path / "journal"), max_refused=0.5)
    assert [c.finish_reason for c in tolerant.generate(PROMPTS, SAMPLING)].count("refused") == 2


def test_pruned_refusals_are_asked_again(make, tmp_path):
    make(Choosy()).generate(PROMPTS, SAMPLING)
    kept, dropped = prune(tmp_path / "journal", refused=True)
    assert dropped == 1 and kept > 5
    backend = Backend()
    assert make(backend).generate(PROMPTS, SAMPLING)[5].finish_reason == "stop"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", ["generate", "choice_logprobs", "loglikelihood"])
def test_numbers_that_are_not_finite_stop_the_call_and_are_not_kept(tmp_path, kind, value):
    class Broken(Backend):
        def answer(self, texts, done, make):
            answers = {
                "generate": Completion("text", "stop", 1, 2, (-0.5, value)),
                "choice_logprobs": Choice((value, -1.0), 1),
                "loglikelihood": Likelihood(value, 3, 1),
            }
            yield [(index, answers[kind]) for index in range(len(texts))]

    arguments = {"generate": (SAMPLING,), "choice_logprobs": (("A", "B"),), "loglikelihood": (["x"] * 6,)}[kind]
    identity = {"path": "m", "dtype": "float16"}
    with pytest.raises(UserError, match="model m in float16 computes NaN or infinite"):
        getattr(Engine("m", identity, Broken, Journal(tmp_path / "journal")), kind)(PROMPTS, *arguments)
    backend = Backend()
    getattr(Engine("m", identity, lambda: backend, Journal(tmp_path / "journal")), kind)(PROMPTS, *arguments)
    assert len(backend.asked) == 6


def test_a_local_model_is_identified_by_its_content_not_by_path_or_run_options(tiny_model, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(tiny_model, copy)
    entry = {"engine": "transformers", "path": str(tiny_model)}
    found = engines.load(entry, tmp_path / "journal").generate(PROMPTS, SAMPLING)
    moved = engines.load({**entry, "path": str(copy), "run": {"batch_tokens": 77, "gpu": 0}}, tmp_path / "journal")
    assert moved.generate(PROMPTS, SAMPLING) == found
    assert moved._backend is None
    (copy / "README.md").write_text("a card")
    assert directory_digest(copy) == directory_digest(tiny_model)
    config = copy / "generation_config.json"
    config.write_text(config.read_text() + " ")
    assert directory_digest(copy) != directory_digest(tiny_model)


def test_a_served_model_is_identified_by_its_address_or_its_revision():
    entry = {"engine": "openai", "path": "m", "base_url": "http://one/v1"}
    assert engines.load(entry)._identity != engines.load({**entry, "base_url": "http://two/v1"})._identity
    named = {**entry, "revision": "today"}
    assert engines.load(named)._identity == engines.load({**named, "base_url": "http://two/v1"})._identity
    assert engines.load(named)._identity != engines.load({**named, "revision": "tomorrow"})._identity
