"""A chat-completions server that fails in the ways real ones do, and otherwise answers deterministically."""

import hashlib
import json
import random
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

FAULTS = ("limit", "error", "overload", "drop", "cut", "garbage", "no_choices", "stall")


def answer(body: dict) -> dict:
    """The answer to a request: an echo of the message, and a digest of message and seed."""
    text = body["messages"][0]["content"]
    digest = hashlib.sha256(f"{text} {body.get('seed')}".encode()).hexdigest()[:16]
    return {
        "id": "x",
        "object": "chat.completion",
        "created": 0,
        "model": body["model"],
        "choices": [
            {
                "index": 0,
                "finish_reason": "stop",
                "message": {"role": "assistant", "content": f"echo: {text} {digest}"},
                "logprobs": {
                    "content": [{"token": "echo", "logprob": -0.5, "bytes": None, "top_logprobs": []}],
                    "refusal": None,
                },
            }
        ],
        "usage": {"prompt_tokens": 7, "completion_tokens": 1, "total_tokens": 8},
    }


class Status(Exception):
    """Raised by a `reply`: the request is answered with this status, body and headers."""

    def __init__(self, status: int, body: dict | bytes, **headers: str):
        super().__init__(status)
        self.status, self.body, self.headers = status, body, headers


def limited(per_second: float, burst: int, retry_after: bool, seconds: float = 0.05):
    """Answers that take `seconds`, so many a second and at most `burst` at once; the rest are told to slow down."""
    lock, bucket = threading.Lock(), [float(burst), time.monotonic()]

    def reply(body: dict) -> dict:
        with lock:
            tokens, before = bucket
            now = time.monotonic()
            tokens = min(burst, tokens + (now - before) * per_second)
            bucket[:] = tokens - (tokens >= 1), now
        if tokens < 1:
            wait = {"Retry_After": f"{(1 - tokens) / per_second:.3f}"} if retry_after else {}
            raise Status(429, {"error": {"message": "slow down"}}, **wait)
        time.sleep(seconds)
        return answer(body)

    return reply


class Server(ThreadingHTTPServer):
    """`share` of the requests fail with one of `faults`; `reply` makes the other answers."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self, share: float = 0.0, faults: tuple[str, ...] = FAULTS, reply=answer, key: str = "canary", port: int = 0
    ):
        super().__init__(("127.0.0.1", port), Handler)
        self.share, self.faults, self.reply, self.key = share, faults, reply, key
        self.lock, self.random = threading.Lock(), random.Random(3)
        self.requests: list[dict] = []
        self.paths: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.failed: list[str] = []
        self.clients: set[tuple[str, int]] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def __enter__(self) -> "Server":
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *error) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, request, client_address) -> None:
        pass


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.requests.append(body)
            self.server.paths.append(self.path)
            self.server.clients.add(self.client_address)
            self.server.headers.append({name.lower(): value for name, value in self.headers.items()})
            fault = (
                self.server.random.choice(self.server.faults) if self.server.random.random() < self.server.share else ""
            )
            if fault:
                self.server.failed.append(fault)
        if self.headers["Authorization"] != f"Bearer {self.server.key}":
            return self.send(401, {"error": {"message": "Incorrect API key provided"}})
        if body["model"] == "refused":  # some endpoints repeat the key that they refuse
            return self.send(401, {"error": {"message": f"Incorrect API key: {self.headers['Authorization']}"}})
        if body["model"] == "missing":
            return self.send(404, {"error": {"message": "The model `missing` does not exist"}})
        if fault:
            return getattr(self, fault)(self.server.reply(body))
        try:
            self.send(200, self.server.reply(body))
        except Status as status:
            self.send(status.status, status.body, **status.headers)

    def send(self, status: int, body: dict | bytes, **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", headers.pop("length", str(len(data))))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def limit(self, reply: dict) -> None:
        self.send(429, {"error": {"message": "slow down"}}, Retry_After="0.02")

    def error(self, reply: dict) -> None:
        self.send(500, {"error": {"message": "internal"}}, Retry_After="0.01")

    def overload(self, reply: dict) -> None:
        self.send(503, b"<html>overloaded</html>", Retry_After="0.01")

    def drop(self, reply: dict) -> None:
        """Close the connection without an answer."""
        self.close()

    def cut(self, reply: dict) -> None:
        """End the body early."""
        data = json.dumps(reply).encode()
        self.send(200, data[: len(data) // 2], length=str(len(data)))
        self.close()

    def garbage(self, reply: dict) -> None:
        self.send(200, b'{"id": "x", "choices": [{"mess')

    def no_choices(self, reply: dict) -> None:
        self.send(200, {**reply, "choices": []})

    def stall(self, reply: dict) -> None:
        """Wait longer than the client does."""
        time.sleep(3.0)
        self.close()

    def close(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *args) -> None:
        pass
