"""Requests to an OpenAI-compatible endpoint: paced, retried, and the errors of one prompt told from those of all.

A request can fail for three reasons, and each ends differently:

    the moment       429, 5xx, a timeout, a lost connection, a broken reply   asked again, with growing waits
    the prompt       400, 413 or 422, but a harmless prompt is answered       Refused
    everything else  a wrong key, model, address or field of the request      UserError, which ends the call
"""

import logging
import os
import queue
import random
import re
import threading
import time
import urllib.request
from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx2
import openai
import tenacity

from alignxplore.engines.base import Refused
from alignxplore.errors import UserError

log = logging.getLogger(__name__)

T = TypeVar("T")
Body = Mapping[str, Any]

OPENAI_URL = "https://api.openai.com/v1"

LONGEST_BACKOFF = 60.0
"""Longest wait between two attempts in seconds, unless the server asks for a longer one."""

_LONG_WAIT = 5.0
"""Waits from this many seconds on are logged."""

_CONNECT_TIMEOUT = 10.0
_DEAD_AFTER = 3
"""Failed attempts to connect after which an endpoint that was never reached is given up on."""

_UNCLEAR = (400, 413, 422)
"""Statuses of an error that may lie in the prompt or in what all requests share."""

_PACE_CREDIT = 0.1
"""Seconds by which requests may catch up after a late start without exceeding a limit a minute by much."""


class BadReply(Exception):
    """A 200 response that is not a valid completion."""


class Unusable(Exception):
    """A reply without something that every reply must have: another prompt would do no better."""


class NoAnswer(Exception):
    """The reply to this prompt cannot be used, and that of another attempt could not either; the text says why."""


class EmptyReply(NoAnswer):
    """The reply has no text at all; another seed may give one."""


class _Stopped(Exception):
    """The call that a request belongs to has ended."""


class Gate:
    """Lets requests through: so many at a time, so many a minute, and none while the server asks to wait.

    The number at a time is halved when the server limits the rate, and rises by one for each round of answers.
    """

    def __init__(
        self, name: str, most: int, requests_per_minute: float | None, tokens_per_minute: float | None, max_wait: float
    ):
        self.name, self.most, self.max_wait = name, most, max_wait
        self._request_seconds = 60 / requests_per_minute if requests_per_minute else 0.0
        self._token_seconds = 60 / tokens_per_minute if tokens_per_minute else 0.0
        self._lock = threading.Lock()
        self._allowed, self._flying = float(most), 0
        self._next_request = self._next_tokens = self._paused_until = self._announced = 0.0
        self._lowered = 0.0
        self._limited_since: float | None = None
        self._strikes = 0

    def enter(self, tokens: int, stopped: threading.Event) -> float:
        """Wait until a request that may take `tokens` can start; the time it started."""
        while not stopped.is_set():
            with self._lock:
                now = time.monotonic()
                wait = max(self._paused_until, self._next_request, self._next_tokens) - now
                if wait <= 0 and self._flying < int(self._allowed):
                    self._flying += 1
                    self._next_request = max(self._next_request, now - _PACE_CREDIT) + self._request_seconds
                    self._next_tokens = max(self._next_tokens, now - _PACE_CREDIT) + self._token_seconds * tokens
                    return now
            stopped.wait(max(wait, 0.01))
        raise _Stopped

    def leave(self, reserved: int, used: int) -> None:
        """A request is back, and took `used` tokens of those reserved."""
        with self._lock:
            self._flying -= 1
            self._next_tokens += self._token_seconds * (used - reserved)

    def answered(self) -> None:
        """Let more requests fly: the server answers."""
        with self._lock:
            self._allowed = min(self.most, self._allowed + 1 / self._allowed)
            self._strikes, self._limited_since = 0, None

    def limited(self, started: float, asked: float | None) -> None:
        """Pause for the `asked` seconds: the server limits the rate of a request that started at `started`.

        Requests that were under way together count as one; without Retry-After, waits grow from one to the next.
        """
        with self._lock:
            now = time.monotonic()
            first = started >= self._lowered
            if first:
                self._allowed = max(1.0, self._allowed / 2)
                self._lowered, self._strikes = now, self._strikes + 1
            if asked or first:
                seconds = asked or min(LONGEST_BACKOFF, 0.125 * 2**self._strikes) * random.uniform(0.5, 1.0)
                self._paused_until = max(self._paused_until, now + seconds)
            self._limited_since = now if self._limited_since is None else self._limited_since
            total, pause = self._paused_until - self._limited_since, self._paused_until - now
        self.announce(pause, total, "limits the rate")

    def announce(self, seconds: float, total: float, why: str) -> None:
        """Log a long wait once. Raise UserError if `total`, all waits since the last answer, is over the bound."""
        if total > self.max_wait:
            raise UserError(
                f"model {self.name}: the server {why} and asks to wait for {_duration(seconds)}, {_duration(total)} in"
                f" all; run again later, or raise run.max_wait of this model ({_duration(self.max_wait)})"
            )
        with self._lock:
            until = time.monotonic() + seconds
            if seconds < _LONG_WAIT or until < self._announced + 1:
                return
            self._announced = until
        log.warning("model %s: the server %s; waiting for %s", self.name, why, _duration(seconds))


class Endpoint:
    """One address and model name, with the key in the environment variable `key_env`."""

    def __init__(
        self,
        path: str,
        base_url: str | None,
        key_env: str | None = None,
        organization: str | None = None,
        project: str | None = None,
        timeout: float = 600.0,
        retries: int = 8,
        concurrency: int = 16,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        max_wait: float = 600.0,
    ):
        self._key = os.environ.get(key_env, "").strip() if key_env else "none"
        if not self._key:
            raise UserError(f"model {path}: the environment variable {key_env}, which holds its key, is not set")
        self.name = f"{path} at {base_url or OPENAI_URL}"
        self.retries, self.concurrency = retries, concurrency
        self._key_env = key_env
        self._reached = False
        self.gate = Gate(self.name, concurrency, requests_per_minute, tokens_per_minute, max_wait)
        if base_url is None:
            _check_environment(path, organization, project)
        try:
            self._client = openai.OpenAI(
                api_key=self._key,
                base_url=base_url or OPENAI_URL,
                timeout=httpx2.Timeout(timeout, connect=min(timeout, _CONNECT_TIMEOUT)),
                max_retries=0,
            )
        except (httpx2.InvalidURL, ImportError, ValueError, RuntimeError, openai.OpenAIError) as error:
            raise UserError(f"model {self.name}: {_one_line(str(error))}") from None
        # Given None, the client would have taken them from the environment.
        self._client.organization, self._client.project = organization, project
        if proxy := _proxy(base_url or OPENAI_URL):
            log.warning("model %s is reached through the proxy %s", self.name, proxy)

    def ask(
        self,
        route: str,
        body: Body,
        read: Callable[[Any], T],
        stopped: threading.Event,
        tokens: int = 0,
        retries: int | None = None,
    ) -> T:
        """`read` of the reply to a request, which may take `tokens`; raises what the last attempt failed with."""
        most = (self.retries if retries is None else retries) + 1

        def is_over(state: tenacity.RetryCallState) -> bool:
            lost = isinstance(_error(state).__cause__, httpx2.ConnectError | httpx2.ConnectTimeout)
            return state.attempt_number >= (min(most, _DEAD_AFTER) if lost and not self._reached else most)

        def sleep(seconds: float) -> None:
            if stopped.wait(seconds):
                raise _Stopped

        attempts = tenacity.Retrying(
            retry=tenacity.retry_if_exception(_is_temporary),
            stop=is_over,
            wait=_wait,
            before_sleep=lambda state: self.gate.announce(
                state.upcoming_sleep, state.upcoming_sleep, f"fails ({self.detail(_error(state))})"
            ),
            sleep=sleep,
            reraise=True,
        )
        return attempts(self._once, route, body, read, stopped, tokens)

    def _once(self, route: str, body: Body, read: Callable[[Any], T], stopped: threading.Event, tokens: int) -> T:
        """One attempt. While the server limits the rate, it does not count."""
        while True:
            started, used = self.gate.enter(tokens, stopped), tokens
            try:
                reply: Any = self._client.post(route, body=body, cast_to=object)
                self._reached = True
                used = _tokens_used(reply) or tokens
            except openai.APIStatusError as error:
                self._reached = True
                if not _is_rate_limit(error):
                    raise
                self.gate.limited(started, _retry_after(error))
                continue
            except ValueError as error:
                raise BadReply(f"the reply is not JSON ({_one_line(str(error))})") from None
            finally:
                self.gate.leave(tokens, used)
            self.gate.answered()
            try:
                return read(reply)
            except (ValueError, TypeError, AttributeError, IndexError, KeyError) as error:
                said = reply.get("error") if isinstance(reply, dict) else reply
                raise BadReply(f"the reply is not a completion ({_one_line(str(said or repr(error)))})") from None

    def detail(self, error: BaseException) -> str:
        """What the server or the connection says about an error, in one line and without the key."""
        if isinstance(error, openai.APIStatusError):
            code, message = _code_and_message(error)
            text = f"{error.status_code}{f' {code}' if code else ''}: {message}"
        else:
            text = f"{error}{f' ({error.__cause__})' if error.__cause__ else ''}"
        return _one_line(text.replace(self._key, f"<{self._key_env}>") if self._key_env else text)

    def failure(self, error: BaseException) -> UserError:
        """The error that ends a call."""
        return UserError(f"model {self.name}: {self.detail(error)}")

    def reason(self, error: BaseException) -> str:
        """Why a prompt is refused: the same words for all prompts of a kind, so without numbers, ids and quotations."""
        text = re.sub(r"""(?<!\w)(["'`]).*?\1(?!\w)""", "…", self.detail(error))
        status, _, message = text.partition(" ") if isinstance(error, openai.APIStatusError) else ("", "", text)
        stable = re.sub(r"\S*\d\S*", "…", message)
        return f"{status} {stable}".strip()[:120]


class Call:
    """Requests to one route that differ in their prompts alone. `control` is one more with a harmless prompt.

    An error of unclear origin is the prompt's if any other request of the call is answered, and everyone's if the
    control fails too. The control is asked only if no request was answered before the first such error.
    """

    def __init__(self, endpoint: Endpoint, route: str, control: Body, new: int):
        self._endpoint, self._route, self._control, self._new = endpoint, route, control, new
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._accepted: bool | None = None

    def ask(self, body: Body, read: Callable[[Any], T]) -> T:
        """`read` of the reply. Raises NoAnswer if the fault is this prompt's, and UserError if it is not."""
        try:
            answer = self._endpoint.ask(self._route, body, read, self._stopped, len(str(body)) // 4 + self._new)
        except NoAnswer:
            self._accepted = True
            raise
        except (openai.OpenAIError, BadReply, Unusable) as error:
            if self._is_the_prompts(error):
                raise NoAnswer(self._endpoint.reason(error)) from None
            raise self._endpoint.failure(error) from None
        self._accepted = True
        return answer

    def _is_the_prompts(self, error: BaseException) -> bool:
        if _is_temporary(error):  # after all retries: does the endpoint answer other prompts now?
            return self._endpoint.retries > 0 and self._control_is_answered()
        if not isinstance(error, openai.APIStatusError) or error.status_code not in _UNCLEAR:
            return False
        with self._lock:
            if self._accepted is None:
                self._accepted = self._control_is_answered()
            return self._accepted

    def _control_is_answered(self) -> bool:
        try:
            self._endpoint.ask(self._route, self._control, _any_choice, self._stopped, self._new, retries=0)
        except (openai.OpenAIError, BadReply):
            return False
        return True

    def answers(
        self, one: Callable[[int], T], count: int, done: Collection[int]
    ) -> Iterator[list[tuple[int, T | Refused]]]:
        """Yield `one(index)` of every index that is not done, as they are found.

        The first failure cancels the calls that have not started and the waits of those that have. What is in flight
        is paid for, so it is awaited and yielded before the failure is raised. An interrupt waits for nothing, which
        is why the threads are daemons.
        """
        indices = iter([index for index in range(count) if index not in done])
        found: queue.SimpleQueue[tuple[int, T | Refused] | BaseException | None] = queue.SimpleQueue()

        def work() -> None:
            try:
                while not self._stopped.is_set():
                    with self._lock:
                        index = next(indices, None)
                    if index is None:
                        break
                    try:
                        found.put((index, one(index)))
                    except NoAnswer as error:
                        found.put((index, Refused(str(error))))
            except _Stopped:
                pass
            except BaseException as error:
                found.put(error)
            found.put(None)

        workers = min(self._endpoint.concurrency, count - len(done))
        for _ in range(workers):
            threading.Thread(target=work, daemon=True).start()
        failure: BaseException | None = None
        try:
            while workers:
                answer = found.get()
                if answer is None:
                    workers -= 1
                elif isinstance(answer, BaseException):
                    failure = failure or answer
                    self._stopped.set()
                else:
                    yield [answer]
        finally:
            self._stopped.set()
        if failure:
            raise failure


def _any_choice(reply: Any) -> None:
    """Raise an error for a reply that is not a completion."""
    reply["choices"][0]


def _is_temporary(error: BaseException) -> bool:
    """Whether another attempt may succeed."""
    if isinstance(error, openai.APIStatusError):
        return error.status_code in (408, 409, 425) or error.status_code >= 500
    return isinstance(error, openai.APIConnectionError | BadReply)


def _is_rate_limit(error: openai.APIStatusError) -> bool:
    """Whether waiting helps; it does not if the account has no money left."""
    return error.status_code == 429 and error.code != "insufficient_quota"


def _error(state: tenacity.RetryCallState) -> BaseException:
    assert state.outcome is not None
    error = state.outcome.exception()
    assert error is not None
    return error


def _wait(state: tenacity.RetryCallState) -> float:
    """Seconds to wait before the next attempt."""
    error = _error(state)
    asked = _retry_after(error) if isinstance(error, openai.APIStatusError) else None
    return asked or tenacity.wait_random_exponential(multiplier=0.5, max=LONGEST_BACKOFF)(state)


def _retry_after(error: openai.APIStatusError) -> float | None:
    """The seconds that Retry-After asks to wait for, stated as a number or as a date."""
    value = error.response.headers.get("Retry-After", "")
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        date = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, (date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds())


def _code_and_message(error: openai.APIStatusError) -> tuple[str, str]:
    """The server's own code, if it is a word, and message."""
    body = error.body
    if not isinstance(body, dict):
        return "", str(body or error.message)
    code = next((str(body[key]) for key in ("code", "type") if re.search("[a-z]", str(body.get(key) or ""))), "")
    message = body.get("message") or body.get("detail") or str(body)
    if isinstance(message, list):  # FastAPI's; its entries also repeat the input
        message = "; ".join(f"{'.'.join(map(str, entry['loc']))}: {entry['msg']}" for entry in message)
    return code, f"{message} (param {body['param']})" if body.get("param") else str(message)


def _tokens_used(reply: Any) -> int:
    usage = reply.get("usage") if isinstance(reply, dict) else None
    total = usage.get("total_tokens") if isinstance(usage, dict) else None
    return total if isinstance(total, int) else 0


def _check_environment(path: str, organization: str | None, project: str | None) -> None:
    """Raise UserError for a variable that would redirect or bill the requests of an entry that does not say so."""
    for variable, key, value in (
        ("OPENAI_BASE_URL", "base_url", None),
        ("OPENAI_ORG_ID", "run.organization", organization),
        ("OPENAI_PROJECT_ID", "run.project", project),
    ):
        if os.environ.get(variable) and value is None:
            raise UserError(
                f"model {path}: {variable} is set, but where requests go is said by the configuration alone: give the"
                f" entry {key}, or unset the variable"
            )


def _proxy(url: str) -> str | None:
    """Host and port of the proxy that the environment names for an address."""
    parts, proxies = urlsplit(url), urllib.request.getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if not proxy or urllib.request.proxy_bypass(parts.netloc):
        return None
    return urlsplit(proxy).netloc.rpartition("@")[2] or proxy


def _one_line(text: str) -> str:
    return " ".join(text.split())[:500]


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
