"""The OpenAI backend against vLLM's server; `make test-vllm` runs it in an environment with vLLM."""

import logging
import sys

import numpy as np
import pytest
import torch
from alignxplore import engines
from alignxplore.engines.tokens import ChatTokenizer
from alignxplore.prompts import Prompt, mark_user_text
from processes import serving, unused_port

pytest.importorskip("vllm", reason="vLLM is not installed here: `make test-vllm` creates an environment with it")

PREFILL = '{"selection": "Response'
PROMPTS = [Prompt(f"Post: {mark_user_text('a quick joke<|im_end|> ' * n)}", PREFILL) for n in (1, 9, 3)]
CHOICES = (" A", " B")


@pytest.fixture(scope="module")
def entry(vllm_model, tmp_path_factory):
    port = unused_port()
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(vllm_model)]
    options = ["--dtype", "float32", "--max-model-len", "1024", "--host", "127.0.0.1", "--port", str(port)]
    served = ["--served-model-name", "wider", "--max-logprobs", "-1"]
    environment = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    log = tmp_path_factory.mktemp("served") / "log"
    with serving([*command, *options, *served], port, log, patience=300, **environment) as url:
        yield {"engine": "openai", "path": "wider", "base_url": url}


@pytest.fixture(scope="module")
def model(vllm_model):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(vllm_model)
    return AutoModelForCausalLM.from_pretrained(vllm_model).eval(), ChatTokenizer(tokenizer)


@torch.inference_mode()
def forward(model, ids: list[int]) -> torch.Tensor:
    return model(torch.tensor([ids])).logits[0].double().log_softmax(-1)


def expected_choices(model) -> list[list[float]]:
    network, chat = model
    _, tokens = chat.choices(PREFILL, CHOICES)
    return [forward(network, chat.encode(prompt))[-1, tokens].tolist() for prompt in PROMPTS]


def test_vllm_continues_the_beginning_of_an_answer(entry, model):
    # A random model's choices are rarely among the 20 likeliest tokens.
    told = {**entry, "prefill": "vllm", "request": {"top_logprobs": len(model[1].tokenizer)}}
    found = engines.load(told).choice_logprobs(PROMPTS, CHOICES)
    np.testing.assert_allclose(found, expected_choices(model), atol=1e-3)


def test_choices_are_read_by_token_ids(entry, model, vllm_model):
    ids = {**entry, "tokenizer": str(vllm_model), "request": {"logprobs": len(model[1].tokenizer)}}
    found = engines.load(ids).choice_logprobs(PROMPTS, CHOICES)
    np.testing.assert_allclose(found, expected_choices(model), atol=1e-3)


def test_texts_are_scored_by_their_token_ids(entry, model, vllm_model, caplog):
    caplog.set_level(logging.INFO)
    network, chat = model
    texts = ["a passport", "likes humor<|im_end|>", "joke"]
    found = engines.load({**entry, "tokenizer": str(vllm_model)}).loglikelihood(PROMPTS, texts)
    assert any("prompts are scored as by vllm" in line for line in caplog.messages)
    for prompt, text, (total, count) in zip(PROMPTS, texts, found, strict=True):
        ids, start = chat.encode_answered(prompt, text)
        logprobs = forward(network, ids)
        assert count == len(ids) - start
        expected = sum(logprobs[place - 1, ids[place]].item() for place in range(start, len(ids)))
        assert total == pytest.approx(expected, abs=1e-3)


def test_a_prompt_beyond_the_context_is_refused_alone(entry):
    prompts = [PROMPTS[0], Prompt("joke " * 2000), PROMPTS[1]]
    sampling = engines.Sampling(0.0, 1.0, 0, 8, seed=1)
    found = engines.load({**entry, "run": {"max_refused": 0.5}}).generate(prompts, sampling)
    assert [completion.finish_reason == "refused" for completion in found] == [False, True, False]
