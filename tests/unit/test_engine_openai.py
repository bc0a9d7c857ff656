"""The OpenAI engine against an HTTP server of the tests' own that limits rates and answers by rule."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from alignxplore import engines
from alignxplore.engines import Sampling
from alignxplore.errors import UserError
from alignxplore.prompts import JUDGE_CHOICES, Prompt, mark_user_text

SAMPLING = Sampling(temperature=0.9, top_p=0.95, top_k=10, max_new_tokens=32, seed=5)


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.requests.append((body, self.headers["Authorization"]))
            refuse = self.server.refusals > 0
            self.server.refusals -= refuse
        if refuse:
            self.send_response(429)
            self.send_header("Retry-After", "0.01")
            self.end_headers()
            return
        message = {"role": "assistant", "content": f"echo: {body['messages'][0]['content']}"}
        logprobs = None
        if "reason" in body["messages"][0]["content"]:
            message["reasoning_content"] = "because"
        if body.get("logprobs"):
            tokens = ['{"', "selection", '":', ' "', "Response", self.server.selection, '"}']
            tops = [[{"token": t, "logprob": -0.1, "bytes": None}] for t in tokens]
            tops[5] = [{"token": " B", "logprob": -0.2, "bytes": None}, {"token": " A", "logprob": -1.8, "bytes": None}]
            content = [
                {"token": t, "logprob": -0.1, "bytes": None, "top_logprobs": top}
                for t, top in zip(tokens, tops, strict=True)
            ]
            logprobs = {"content": content, "refusal": None}
        reply = {
            "id": "x",
            "object": "chat.completion",
            "created": 0,
            "model": body["model"],
            "choices": [{"index": 0, "finish_reason": "stop", "message": message, "logprobs": logprobs}],
            "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
        }
        data = json.dumps(reply).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.lock, server.requests, server.refusals, server.selection = threading.Lock(), [], 0, " B"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def engine(server, monkeypatch):
    monkeypatch.setenv("TEST_KEY", "canary")
    url = f"http://127.0.0.1:{server.server_port}/v1"
    return engines.load({"engine": "openai", "path": "gpt", "base_url": url, "key_env": "TEST_KEY", "retries": 3})


def test_completions_keep_their_order_and_survive_rate_limits(engine, server):
    server.refusals = 3
    prompts = [Prompt(f"post {mark_user_text(str(index))}") for index in range(20)]
    completions = engine.generate(prompts, SAMPLING)
    assert [c.text for c in completions] == [f"echo: post {index}" for index in range(20)]
    assert completions[0].finish_reason == "stop" and completions[0].prompt_tokens == 7
    assert {auth for _, auth in server.requests} == {"Bearer canary"}
    assert len(server.requests) == 23


def test_separate_reasoning_is_set_between_tags(engine):
    assert engine.generate([Prompt("reason")], SAMPLING)[0].text == "<think>because</think>echo: reason"


def test_choices_are_read_where_the_selection_is_made(engine, server):
    logprobs = engine.choice_logprobs([Prompt("p")], JUDGE_CHOICES)
    np.testing.assert_allclose(logprobs, [[-1.8, -0.2]])
    server.selection = " neither"
    with pytest.raises(UserError, match="selects no response"):
        engine.choice_logprobs([Prompt("p")], JUDGE_CHOICES)


def test_what_fails_is_named(engine, server, monkeypatch):
    with pytest.raises(UserError, match="R_gen needs another engine"):
        engine.loglikelihood([Prompt("p")], ["x"])
    server.refusals = 100
    with pytest.raises(UserError, match="model gpt at http"):
        engine.generate([Prompt("p")], SAMPLING)
    monkeypatch.delenv("TEST_KEY")
    with pytest.raises(UserError, match="TEST_KEY"):
        engines.load({"engine": "openai", "path": "gpt", "key_env": "TEST_KEY"})


def test_engines_that_are_missing_or_misconfigured_are_named():
    with pytest.raises(UserError, match="engine 'vllm' of model m needs vllm"):
        engines.load({"engine": "vllm", "path": "m"})
    with pytest.raises(UserError, match="engine 'openai' of model m.*batch_tokens"):
        engines.load({"engine": "openai", "path": "m", "batch_tokens": 3})
