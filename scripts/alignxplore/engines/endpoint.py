"""Requests to an OpenAI-compatible endpoint: paced, retried, and the errors of one prompt told from those of all.

A request can fail for three reasons, and each ends differently:

    the moment       429, 5xx, a timeout, a lost connection, a broken reply   asked again, with growing waits
    the prompt       400, 413 or 422, but a harmless prompt is answered       Refused
    everything else  a wrong key, model, address or field of the request      UserError, which ends the call
"""

import logging
import os
import queue
import threading
import urllib.request
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx2
import tenacity

from alignxplore.engines import gate
from alignxplore.engines.base import OPENAI_URL, Refused
from alignxplore.engines.failures import (
    BadReply,
    NoAnswer,
    Unusable,
    detail,
    is_rate_limit,
    is_temporary,
    one_line,
    reason,
    retry_after,
)
from alignxplore.engines.gate import Gate, Stopped
from alignxplore.errors import UserError

log = logging.getLogger(__name__)

T = TypeVar("T")
Body = Mapping[str, Any]

_CONNECT_TIMEOUT = 10.0
_DEAD_AFTER = 3
"""Failed attempts to connect after which an endpoint that was never reached is given up on."""

_UNCLEAR = (400, 413, 422)
"""Statuses of an error that may lie in the prompt or in what all requests share."""


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
            self._client = httpx2.Client(
                base_url=base_url or OPENAI_URL,
                headers=_headers(self._key, organization, project),
                timeout=httpx2.Timeout(timeout, connect=min(timeout, _CONNECT_TIMEOUT)),
                # `concurrency` is the only limit; by default, some requests would wait for a connection.
                limits=httpx2.Limits(max_connections=None, max_keepalive_connections=None),
                follow_redirects=True,
            )
            proxy = _proxy(base_url or OPENAI_URL)
        except (httpx2.InvalidURL, ImportError, ValueError, RuntimeError) as error:
            raise UserError(f"model {self.name}: {one_line(str(error))}") from None
        if proxy:
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
            lost = isinstance(_error(state), httpx2.ConnectError | httpx2.ConnectTimeout)
            return state.attempt_number >= (min(most, _DEAD_AFTER) if lost and not self._reached else most)

        def sleep(seconds: float) -> None:
            if stopped.wait(seconds):
                raise Stopped

        attempts = tenacity.Retrying(
            retry=tenacity.retry_if_exception(is_temporary),
            stop=is_over,
            wait=_wait,
            before_sleep=lambda state: self.gate.announce(
                state.upcoming_sleep, state.upcoming_sleep, f"fails ({self.safe(detail(_error(state)))})"
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
                response = self._client.post(route, json=body)
                self._reached = True
                response.raise_for_status()
                reply = response.json()
                used = _tokens_used(reply) or tokens
            except httpx2.HTTPStatusError as error:
                if not is_rate_limit(error):
                    raise
                self.gate.limited(started, retry_after(error))
                continue
            except ValueError as error:
                raise BadReply(f"the reply is not JSON ({one_line(str(error))})") from None
            finally:
                self.gate.leave(tokens, used)
            self.gate.answered()
            try:
                return read(reply)
            except (ValueError, TypeError, AttributeError, IndexError, KeyError) as error:
                said = reply.get("error") if isinstance(reply, dict) else reply
                raise BadReply(f"the reply is not a completion ({one_line(str(said or repr(error)))})") from None

    def safe(self, text: str) -> str:
        """A text without the key, which some servers repeat."""
        return text.replace(self._key, f"<{self._key_env}>") if self._key_env else text

    def failure(self, error: BaseException) -> UserError:
        """The error that ends a call."""
        return UserError(f"model {self.name}: {self.safe(detail(error))}")


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
        except (httpx2.HTTPError, BadReply, Unusable) as error:
            if self._is_the_prompts(error):
                raise NoAnswer(self._endpoint.safe(reason(error))) from None
            raise self._endpoint.failure(error) from None
        self._accepted = True
        return answer

    def _is_the_prompts(self, error: BaseException) -> bool:
        if is_temporary(error):  # after all retries: does the endpoint answer other prompts now?
            return self._endpoint.retries > 0 and self._control_is_answered()
        if not isinstance(error, httpx2.HTTPStatusError) or error.response.status_code not in _UNCLEAR:
            return False
        with self._lock:
            if self._accepted is None:
                self._accepted = self._control_is_answered()
            return self._accepted

    def _control_is_answered(self) -> bool:
        try:
            self._endpoint.ask(self._route, self._control, _any_choice, self._stopped, self._new, retries=2)
        except (httpx2.HTTPError, BadReply):
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
        indices = deque(index for index in range(count) if index not in done)
        found: queue.SimpleQueue[tuple[int, T | Refused] | BaseException | None] = queue.SimpleQueue()

        def work() -> None:
            try:
                while not self._stopped.is_set():
                    try:
                        index = indices.popleft()
                    except IndexError:
                        break
                    try:
                        found.put((index, one(index)))
                    except NoAnswer as error:
                        found.put((index, Refused(str(error))))
            except Stopped:
                pass
            except BaseException as error:
                found.put(error)
            found.put(None)

        workers = min(self._endpoint.concurrency, len(indices))
        for _ in range(workers):
            threading.Thread(target=work, daemon=True).start()
        failure: BaseException | None = None
        try:
            while workers:
                try:
                    answer = found.get(timeout=1.0)  # a signal may wake another thread; this one must notice
                except queue.Empty:
                    continue
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


def _error(state: tenacity.RetryCallState) -> BaseException:
    assert state.outcome is not None
    error = state.outcome.exception()
    assert error is not None
    return error


def _wait(state: tenacity.RetryCallState) -> float:
    """Seconds to wait before the next attempt."""
    error = _error(state)
    asked = retry_after(error) if isinstance(error, httpx2.HTTPStatusError) else None
    return asked or tenacity.wait_random_exponential(multiplier=0.5, max=gate.LONGEST_BACKOFF)(state)


def _headers(key: str, organization: str | None, project: str | None) -> dict[str, str]:
    billed = {"OpenAI-Organization": organization, "OpenAI-Project": project}
    return {"Authorization": f"Bearer {key}", **{name: value for name, value in billed.items() if value}}


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
