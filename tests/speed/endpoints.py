"""How well requests in flight fill a server: our engine against a bare asyncio client with the same requests.

python tests/speed/endpoints.py
python tests/speed/endpoints.py --base-url http://gpu1:8000/v1 --model Qwen/Qwen3-32B --concurrency 64

Without --base-url, the servers are

- llama.cpp's with SmolLM2-135M and a slot per request in flight, which shows if the engine keeps a server busy;
- one that answers 25 to 75 ms after a request, which shows what the engine itself costs per request.

Both clients send the same bodies, keep the same number in flight and start anew each round, the engine with an empty
journal on disk. Rounds alternate between the clients and change their order, so that other load on the machine affects
both. A ratio is the engine's rate divided by the bare client's; the table has the median over rounds and its range.
CPU is that of the client's process alone.

Repeated prompts may be answered from a server's cache. The first round fills it and does not count.
"""

import argparse
import asyncio
import json
import os
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import httpx2

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "tests/support")]

import llama_server  # noqa: E402
import processes  # noqa: E402
from alignxplore import engines  # noqa: E402
from alignxplore.engines import Sampling  # noqa: E402
from alignxplore.prompts import JUDGE_CHOICES, Prompt  # noqa: E402

WORDS = ["this", "person", "likes", "short", "clear", "warm", "answers", "and", "would", "rather", "not", "travel"]
TOP_LOGPROBS = 20
FASTEST, SLOWEST = 0.025, 0.075
"""Seconds that the quick server takes for a reply."""


@dataclass(frozen=True)
class Load:
    """What is asked of a server. `tokens` 0 asks for the probabilities of a judge's choices."""

    name: str
    url: str
    model: str
    concurrency: int
    requests: int
    tokens: int
    words: int
    request: dict[str, Any] = field(default_factory=dict)
    key: str | None = None

    @property
    def prompts(self) -> list[Prompt]:
        rng = random.Random(1)
        counts = [max(4, int(self.words * rng.lognormvariate(-0.08, 0.4))) for _ in range(self.requests)]
        prefill = "" if self.tokens else "Response"
        return [Prompt(" ".join(rng.choices(WORDS, k=count)), prefill) for count in counts]

    def body(self, prompt: Prompt) -> dict[str, Any]:
        """A chat request as the engine writes it."""
        messages = [{"role": "user", "content": prompt.user}]
        if self.tokens:
            settings = {"temperature": 0, "top_p": 1, "max_tokens": self.tokens, "seed": 1, "logprobs": True}
        else:
            messages.append({"role": "assistant", "content": prompt.prefill})
            settings = {"temperature": 0, "max_tokens": 1, "logprobs": True, "top_logprobs": TOP_LOGPROBS}
        return {"model": self.model, "messages": messages, **settings, **self.request}


def ask_bare(load: Load, prompts: Sequence[Prompt]) -> None:
    """Post and parse, and nothing else."""
    bodies = iter([load.body(prompt) for prompt in prompts])
    headers = {"Authorization": f"Bearer {os.environ[load.key] if load.key else 'none'}"}

    async def work(client: httpx2.AsyncClient) -> None:
        for body in bodies:
            reply = await client.post(f"{load.url}/chat/completions", json=body)
            reply.raise_for_status().json()["choices"][0]["message"]["content"]

    async def main() -> None:
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
        async with httpx2.AsyncClient(timeout=600, limits=limits, headers=headers) as client:
            await asyncio.gather(*[work(client) for _ in range(load.concurrency)])

    asyncio.run(main())


def ask_engine(load: Load, prompts: Sequence[Prompt]) -> None:
    run = {"concurrency": load.concurrency, "max_refused": 1.0, **({"key_env": load.key} if load.key else {})}
    entry = {"engine": "openai", "path": load.model, "base_url": load.url, "request": load.request, "run": run}
    with tempfile.TemporaryDirectory() as journal:
        engine = engines.load({**entry, "prefill": "continue"}, journal=journal)
        if load.tokens:
            engine.generate(prompts, Sampling(0.0, 1.0, 0, load.tokens, seed=1))
        else:
            engine.choice_logprobs(prompts, JUDGE_CHOICES)


def measured(ask: Callable[[Load, Sequence[Prompt]], None], load: Load, prompts: Sequence[Prompt]) -> tuple[float, ...]:
    """Requests a second, and seconds of CPU per request."""
    before, started = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    ask(load, prompts)
    seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return load.requests / seconds, cpu / load.requests


def compare(load: Load, rounds: int) -> None:
    """Print a line of the table."""
    prompts, found = load.prompts, []
    for number in range(rounds + 1):
        ways = (ask_bare, ask_engine) if number % 2 else (ask_engine, ask_bare)
        round_ = {ask: measured(ask, load, prompts) for ask in ways}
        found += [(*round_[ask_bare], *round_[ask_engine])] if number else []
    ratios = [engine / bare for bare, _, engine, _ in found]
    bare, bare_cpu, engine, engine_cpu = map(median, zip(*found, strict=True))
    spread = f"{median(ratios):.3f} ({min(ratios):.2f} to {max(ratios):.2f})"
    print(
        f"{load.name:27}{load.concurrency:7}{load.requests:9}{bare:10.1f}{engine:10.1f}   {spread:21}"
        f"{1e3 * bare_cpu:10.2f}{1e3 * engine_cpu:10.2f}",
        flush=True,
    )


async def serve_quickly(port: int) -> None:
    """Answer every request after its time, as many at once as come."""
    rng = random.Random(1)
    top = [{"token": f" {n}", "logprob": -1.0 - n, "bytes": None} for n in range(TOP_LOGPROBS - 2)]
    top += [{"token": choice, "logprob": -0.5, "bytes": None} for choice in JUDGE_CHOICES]
    message = {"role": "assistant", "content": " ".join(WORDS)}
    tokens = [{"token": " " + word, "logprob": -0.5, "bytes": None, "top_logprobs": []} for word in WORDS]

    def reply(logprobs: list[dict[str, Any]]) -> bytes:
        choice = {"index": 0, "finish_reason": "stop", "message": message, "logprobs": {"content": logprobs}}
        usage = {"prompt_tokens": 200, "completion_tokens": len(logprobs), "total_tokens": 200 + len(logprobs)}
        body = json.dumps({"id": "x", "object": "chat.completion", "choices": [choice], "usage": usage}).encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        return head.encode() + body

    written, read = reply(tokens), reply([{**tokens[0], "top_logprobs": top}])

    class Connection(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            self.transport, self.received = transport, b""

        def data_received(self, data: bytes) -> None:
            self.received += data
            head, complete, body = self.received.partition(b"\r\n\r\n")
            length = next((line[15:] for line in head.lower().split(b"\r\n") if line[:15] == b"content-length:"), b"0")
            if complete and len(body) >= int(length):
                answer = read if b'"top_logprobs"' in body else written
                loop.call_later(rng.uniform(FASTEST, SLOWEST) if body else 0, self.transport.write, answer)
                self.received = b""

    loop = asyncio.get_running_loop()
    server = await loop.create_server(Connection, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


@contextmanager
def quick_server(directory: Path) -> Iterator[str]:
    port = processes.unused_port()
    command = [sys.executable, str(Path(__file__)), "--serve", str(port)]
    with processes.serving(command, port, directory / "quick.log") as url:
        yield url


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base-url", help="the address of a running server")
    parser.add_argument("--model", help="a model's name on that server")
    parser.add_argument("--key-env", help="the environment variable with its key")
    parser.add_argument("--request", type=json.loads, default={}, help="more fields of every request, as JSON")
    parser.add_argument("--concurrency", type=int, default=16, help="requests in flight to --base-url or llama.cpp")
    parser.add_argument("--requests", type=int, default=48, help="requests a round to --base-url or llama.cpp")
    parser.add_argument("--tokens", type=int, default=16, help="tokens of a completion")
    parser.add_argument("--words", type=int, default=16, help="words of a prompt")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        asyncio.run(serve_quickly(arguments.serve))
        return
    if bool(arguments.base_url) != bool(arguments.model):
        parser.error("--base-url and --model go together")

    def loads(name: str, url: str, model: str, request: dict[str, Any]) -> list[Load]:
        size, key = (arguments.concurrency, arguments.requests), arguments.key_env
        return [
            Load(f"{name}, {kind}", url, model, *size, tokens, arguments.words, request, key)
            for kind, tokens in (("completions", arguments.tokens), ("judgements", 0))
        ]

    print(f"{'':27}{'in':>7}{'':9}{'requests/s':>20}   {'ratio':21}   CPU per request, ms")
    print(f"{'':27}{'flight':>7}{'sent':>9}{'bare':>10}{'engine':>10}   {'median':21}{'bare':>10}{'engine':>10}")
    if arguments.base_url:
        for load in loads("this server", arguments.base_url, arguments.model, arguments.request):
            compare(load, arguments.rounds)
        return
    with tempfile.TemporaryDirectory() as directory:
        # A thread less than there are CPUs, so that the client need not wait for one.
        threads = max(1, (os.cpu_count() or 2) - 1)
        settings = {"threads": threads, "n_parallel": arguments.concurrency, "n_ctx": 512 * arguments.concurrency}
        with llama_server.serving(llama_server.smollm2(), Path(directory) / "llama.log", **settings) as url:
            for load in loads("llama.cpp", url, "smollm2", {"cache_prompt": False, **arguments.request}):
                compare(load, arguments.rounds)
        with quick_server(Path(directory)) as url:
            for concurrency in (16, 64, 256):
                for kind, tokens in (("completions", 12), ("judgements", 0)):
                    load = Load(f"50 ms, {kind}", url, "quick", concurrency, 16 * concurrency + 256, tokens, 200)
                    compare(load, arguments.rounds)


if __name__ == "__main__":
    main()
