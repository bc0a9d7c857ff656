"""The engine asks a model nothing twice, and asks again if anything that changes an answer differs."""

import shutil

import numpy as np
import pytest
from alignxplore import engines
from alignxplore.digests import directory_digest
from alignxplore.engines import Completion, Sampling
from alignxplore.engines.base import PromptRefused
from alignxplore.engines.engine import Engine
from alignxplore.engines.journal import Journal, account
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
        return self.answer([p.user for p in prompts], done, lambda i: [-float(len(prompts[i].user)), -1.0])

    def loglikelihood(self, prompts, continuations, done=()):
        return self.answer([p.user for p in prompts], done, lambda i: (-float(len(continuations[i])), 3))


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


def test_a_missing_answer_is_an_error(make):
    class Forgetful(Backend):
        def generate(self, prompts, seeds, sampling, done=()):
            return iter(list(super().generate(prompts, seeds, sampling, done))[1:])

    with pytest.raises(UserError, match="left 1 of 6 prompts without an answer"):
        make(Forgetful()).generate(PROMPTS, SAMPLING)


def test_a_refused_prompt_is_named_by_its_index_in_the_call(make):
    class Choosy(Backend):
        def choice_logprobs(self, prompts, choices, done=()):
            for index, prompt in enumerate(prompts):
                if prompt == PROMPTS[4]:
                    raise PromptRefused(index, "is too long")
            return super().choice_logprobs(prompts, choices, done)

    engine = make(Choosy())
    engine.choice_logprobs(PROMPTS[:3], (" A", " B"))
    with pytest.raises(UserError, match="^prompt 6 is too long$"):
        engine.choice_logprobs([PROMPTS[0], PROMPTS[1], PROMPTS[1], PROMPTS[2], PROMPTS[3], PROMPTS[4]], (" A", " B"))


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
