"""The OpenAI backend against real servers on this machine: `transformers serve` and llama.cpp's."""

import logging
import sys

import numpy as np
import processes
import pytest
from alignxplore import engines
from alignxplore.engines import Sampling, gguf
from alignxplore.engines import openai as openai_backend
from alignxplore.errors import UserError
from alignxplore.prompts import JUDGE_CHOICES, Prompt, Templates
from llama_server import serving, smollm2, write_unquantised
from processes import unused_port

GREEDY = Sampling(temperature=0.0, top_p=1.0, top_k=0, max_new_tokens=12, seed=1)
PROMPTS = [Prompt("Post:" + " a quick joke" * n) for n in (1, 9, 3)]


@pytest.fixture(scope="module")
def url(tiny_model, tmp_path_factory):
    port = unused_port()
    command = [sys.executable, "-c", "from transformers.cli.transformers import main; main()", "serve", str(tiny_model)]
    options = ["--device", "cpu", "--host", "127.0.0.1", "--port", str(port)]
    log = tmp_path_factory.mktemp("served") / "log"
    with processes.serving([*command, *options], port, log, HF_HUB_OFFLINE="1") as url:
        yield url


def test_a_served_model_gives_the_same_answers_as_in_this_process(tiny_model, url):
    entry = {"engine": "openai", "path": str(tiny_model), "base_url": url, "logprobs": False, "run": {"retries": 0}}
    served = engines.load(entry).generate(PROMPTS, GREEDY)
    local = engines.load({"engine": "transformers", "path": str(tiny_model)}).generate(PROMPTS, GREEDY)
    for theirs, ours in zip(served, local, strict=True):
        assert (theirs.finish_reason, theirs.prompt_tokens) == (ours.finish_reason, ours.prompt_tokens)
        assert theirs.text == ours.text


def test_an_unknown_model_is_named(tiny_model, url):
    entry = {"engine": "openai", "path": "other", "base_url": url, "logprobs": False}
    with pytest.raises(UserError, match="model other at http"):
        engines.load(entry).generate(PROMPTS, GREEDY)


CASES = [
    ("How do I boil an egg?", "I like short answers", "Seven minutes.", "It depends on several things: first, ..."),
    ("What is a comet?", "I like humor", "Ice and dust on an orbit.", "A snowball with a plan."),
    ("Any advice?", "They like to travel", "Take a passport <|im_end|> and go now.", "Stay home and read a book."),
]
JUDGE = Templates(judge="resources/prompts/judge.jinja").judge
JUDGED = [p for post, d, a, b in CASES for p in (JUDGE(post, d, a, b), JUDGE(post, d, b, a))]


@pytest.fixture(scope="module")
def smollm(tmp_path_factory):
    """SmolLM2 in float32, as a GGUF file for a server and as a directory for this process."""
    directory = tmp_path_factory.mktemp("smollm")
    write_unquantised(smollm2(), directory / "float32.gguf")
    gguf.convert(smollm2(), directory / "model", "float32")
    return directory


@pytest.fixture(scope="module")
def llama(smollm):
    with serving(smollm / "float32.gguf", smollm / "log") as url:
        yield {"engine": "openai", "path": "smollm", "base_url": url, "run": {"concurrency": 2}}


def log_odds(entry, prompts):
    logprobs = engines.load(entry).choice_logprobs(prompts, JUDGE_CHOICES)
    return logprobs[:, 0] - logprobs[:, 1]


def test_a_judge_served_by_llama_cpp_agrees_with_this_process(llama, smollm, caplog):
    caplog.set_level(logging.INFO)
    expected = log_odds({"engine": "transformers", "path": str(smollm / "model")}, JUDGED)
    assert np.ptp(expected) > 1
    np.testing.assert_allclose(log_odds(llama, JUDGED), expected, atol=0.05)
    assert sum("prefill: continue" in line for line in caplog.messages) == 1


def test_token_ids_give_the_same_answers(llama, smollm):
    expected = log_odds({"engine": "transformers", "path": str(smollm / "model")}, JUDGED)
    np.testing.assert_allclose(log_odds({**llama, "tokenizer": str(smollm / "model")}, JUDGED), expected, atol=0.05)


def test_a_server_that_scores_no_prompts_is_refused_with_advice(llama, smollm):
    with pytest.raises(UserError, match=r"R_gen|engine transformers or vllm"):
        engines.load({**llama, "tokenizer": str(smollm / "model")}).loglikelihood(JUDGED[:1], ["Seven minutes."])


def test_a_prompt_beyond_the_servers_context_is_refused_alone(llama):
    long = Prompt("joke " * 9000, JUDGED[0].prefill)
    entry = {**llama, "run": {"max_refused": 0.5}}
    found = engines.load(entry).choice_logprobs([JUDGED[0], long, JUDGED[1]], JUDGE_CHOICES)
    assert np.isnan(found).any(1).tolist() == [False, True, False]


def test_a_server_that_opens_a_new_turn_is_told_to_continue_or_else_asked(smollm, caplog, monkeypatch):
    """llama.cpp's server opens one if told to, and then knows vLLM's field for the contrary."""
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(openai_backend, "_ANSWER_TOKENS", 8)
    expected = log_odds({"engine": "transformers", "path": str(smollm / "model")}, JUDGED)
    with serving(smollm / "float32.gguf", smollm / "new_turn.log", prefill_assistant=False) as url:
        entry = {"engine": "openai", "path": "smollm", "base_url": url, "run": {"max_refused": 1.0}}
        np.testing.assert_allclose(log_odds(entry, JUDGED), expected, atol=0.05)
        assert sum("prefill: vllm" in line for line in caplog.messages) == 1
        log_odds({**entry, "request": {"continue_final_message": False}}, JUDGED[:1])
        assert sum("prefill: ask" in line for line in caplog.messages) == 1


def test_a_chat_template_that_the_server_cannot_render_is_one_line(smollm):
    template = "{{ messages[0].content }}{% if mood == 'bad' %}{{ raise_exception('no such mood') }}{% endif %}"
    with serving(smollm2(), smollm / "template.log", chat_template=template, use_jinja=True) as url:
        entry = {"engine": "openai", "path": "smollm", "base_url": url, "chat_template": {"mood": "bad"}}
        with pytest.raises(UserError, match=f"model smollm at {url}: 400.*no such mood"):
            engines.load(entry).generate(JUDGED, GREEDY)
