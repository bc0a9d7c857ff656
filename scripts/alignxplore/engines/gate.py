"""When a request may start: how many at a time and a minute, and how long a server is waited for."""

import logging
import random
import threading
import time

from alignxplore.errors import UserError

log = logging.getLogger(__name__)

LONGEST_BACKOFF = 60.0
"""Longest wait between two attempts in seconds, unless the server asks for a longer one."""

_LONG_WAIT = 5.0
"""Waits from this many seconds on are logged."""

_PACE_CREDIT = 0.1
"""Seconds by which requests may catch up after a late start without exceeding a limit a minute by much."""


_FIRST_GAP, _LONGEST_GAP = 0.005, 1.0
_GAP_GROWS, _GAP_SHRINKS = 1.25, 0.98
"""Seconds between starts after a refusal, and their factors per refusal and answer: one refusal undoes 11 answers."""


class Stopped(Exception):
    """The call that a request belongs to has ended."""


class Gate:
    """Lets requests through: so many at a time, so many a minute, and none while the server asks to wait.

    When the server limits the rate, the number at a time is halved, and requests start further apart. The number then
    rises by one for each round of answers, and the gap between starts shrinks with each answer.
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
        self._lowered = self._gap = self._next_start = 0.0
        self._limited_since: float | None = None
        self._strikes = 0

    def enter(self, tokens: int, stopped: threading.Event) -> float:
        """Wait until a request that may take `tokens` can start; the time it started."""
        while not stopped.is_set():
            with self._lock:
                now = time.monotonic()
                wait = max(self._paused_until, self._next_start, self._next_request, self._next_tokens) - now
                if wait <= 0 and self._flying < int(self._allowed):
                    self._flying += 1
                    self._next_start = now + self._gap
                    self._next_request = max(self._next_request, now - _PACE_CREDIT) + self._request_seconds
                    self._next_tokens = max(self._next_tokens, now - _PACE_CREDIT) + self._token_seconds * tokens
                    return now
            stopped.wait(max(wait, 0.01))
        raise Stopped

    def leave(self, reserved: int, used: int) -> None:
        """A request is back, and took `used` tokens of those reserved."""
        with self._lock:
            self._flying -= 1
            self._next_tokens += self._token_seconds * (used - reserved)

    def answered(self) -> None:
        """Let more requests fly: the server answers."""
        with self._lock:
            self._allowed = min(self.most, self._allowed + 1 / self._allowed)
            self._gap *= _GAP_SHRINKS
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
                self._gap = min(_LONGEST_GAP, max(self._gap, _FIRST_GAP) * _GAP_GROWS)
                self._lowered, self._strikes = now, self._strikes + 1
            if asked or first:
                seconds = asked or min(LONGEST_BACKOFF, self._gap * 2**self._strikes) * random.uniform(0.5, 1.0)
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


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
