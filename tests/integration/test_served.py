"""The OpenAI backend against a real server: `transformers serve` on this machine."""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest
from alignxplore import engines
from alignxplore.engines import Sampling
from alignxplore.errors import UserError
from alignxplore.prompts import Prompt

GREEDY = Sampling(temperature=0.0, top_p=1.0, top_k=0, max_new_tokens=12, seed=1)
# Without user text: in this process it is tokenised separately, which a server cannot do.
PROMPTS = [Prompt("Post:" + " a quick joke" * n) for n in (1, 9, 3)]


@pytest.fixture(scope="module")
def url(tiny_model, tmp_path_factory):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = open(tmp_path_factory.mktemp("served") / "log", "w+")  # noqa: SIM115
    command = [sys.executable, "-c", "from transformers.cli.transformers import main; main()", "serve", str(tiny_model)]
    server = subprocess.Popen(
        [*command, "--device", "cpu", "--host", "127.0.0.1", "--port", str(port)],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        stdout=log,
        stderr=log,
    )
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
                break
            except (urllib.error.URLError, OSError):
                assert server.poll() is None, log.seek(0) or log.read()
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait()


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
