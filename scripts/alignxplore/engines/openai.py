"""The OpenAI backend: any compatible chat endpoint, such as GPT-4, DeepSeek-R1 or a model served by vLLM."""

import logging
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any, TypeVar

import openai
import tenacity

from alignxplore.engines.base import Completion, Sampling
from alignxplore.errors import UserError
from alignxplore.formats import normalise_thinking
from alignxplore.prompts import Prompt, disarmed

log = logging.getLogger(__name__)

T = TypeVar("T")

LONGEST_WAIT = 60.0
"""Longest wait between two attempts in seconds, unless the server asks for a longer one."""

_TOP_LOGPROBS = 20
_ANSWER_TOKENS = 2048
_BLANK = re.compile(r"\s")
_FATAL = (
    openai.AuthenticationError,
    openai.PermissionDeniedError,
    openai.NotFoundError,
    openai.BadRequestError,
    openai.UnprocessableEntityError,
)
"""Errors that another attempt will not fix."""


class _BadReply(Exception):
    """A 200 response that is not a valid completion."""


class OpenAIBackend:
    """A served model; `path` is its name on the server, `key_env` the environment variable that holds the key.

    Transient failures (rate limits, server errors, timeouts, lost connections, invalid completions) are retried with
    growing waits, or after the time in Retry-After. `request` adds fields to the body of every request, and
    `chat_template` options for the model's template. `opens_thinking` says that the template opens the reasoning,
    `logprobs` that the endpoint returns log-probabilities. The endpoint tokenises the prompt itself, so control tokens
    in user text are broken before it is sent.
    """

    def __init__(
        self,
        path: str,
        base_url: str | None = None,
        key_env: str | None = None,
        concurrency: int = 16,
        timeout: float = 600.0,
        retries: int = 8,
        request: Mapping[str, Any] | None = None,
        chat_template: Mapping[str, Any] | None = None,
        opens_thinking: bool = False,
        logprobs: bool = True,
    ):
        key = os.environ.get(key_env) if key_env else "none"
        if not key:
            raise UserError(f"model {path}: the environment variable {key_env}, which holds its key, is not set")
        self.client = openai.OpenAI(api_key=key, base_url=base_url, timeout=timeout, max_retries=0)
        self.path = path
        self.key_env = key_env
        self.concurrency = concurrency
        self.retries = retries
        self.request = dict(request or {})
        if chat_template:
            self.request["chat_template_kwargs"] = dict(chat_template)
        self.opens_thinking = opens_thinking
        self.logprobs = logprobs

    def generate(
        self, prompts: Sequence[Prompt], seeds: Sequence[int], sampling: Sampling, done: Collection[int] = ()
    ) -> Iterator[list[tuple[int, Completion]]]:
        """One completion per prompt, in order of arrival."""
        if sampling.top_k and "top_k" not in self.request:
            # Not every endpoint supports it, and some refuse a request that contains it.
            log.warning(
                "model %s samples without top-k; if the endpoint supports it, set request: {top_k: %d}",
                self.path,
                sampling.top_k,
            )

        def one(index: int) -> Completion:
            settings: dict[str, Any] = {
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "max_tokens": sampling.max_new_tokens,
                "seed": seeds[index] % 2**31,
            }
            if sampling.stop:
                settings["stop"] = list(sampling.stop)
            if self.logprobs:
                settings["logprobs"] = True
            return self._ask(prompts[index], settings, lambda reply: self._completion(reply, sampling))

        return self._concurrently(one, len(prompts), done)

    def choice_logprobs(
        self, prompts: Sequence[Prompt], choices: Sequence[str], done: Collection[int] = ()
    ) -> Iterator[list[tuple[int, list[float]]]]:
        """Log-probabilities of the choices at the place where a greedy reply continues the prompt's prefill.

        A chat endpoint does not let us begin its reply, so the prompt asks it to begin with the prefill, and the
        place is searched for in the reply.
        """
        settings = {"temperature": 0, "max_tokens": _ANSWER_TOKENS, "logprobs": True, "top_logprobs": _TOP_LOGPROBS}

        def one(index: int) -> list[float]:
            prompt = prompts[index]
            asked = Prompt(f"{prompt.user}\nBegin your answer with {prompt.prefill}")
            return self._ask(asked, settings, lambda reply: _selection(reply, prompt.prefill, choices))

        return self._concurrently(one, len(prompts), done)

    def loglikelihood(
        self, prompts: Sequence[Prompt], continuations: Sequence[str], done: Collection[int] = ()
    ) -> Iterator[list[tuple[int, tuple[float, int]]]]:
        """Not supported: chat endpoints do not score given text."""
        raise UserError(f"model {self.path}: a chat endpoint cannot score responses; R_gen needs another engine")

    def _concurrently(
        self, one: Callable[[int], T], count: int, done: Collection[int]
    ) -> Iterator[list[tuple[int, T]]]:
        """Yield `one(index)` of every index that is not done, running `concurrency` calls at a time.

        The first failure cancels the calls that have not started. Those in flight are paid for, so they are awaited
        and yielded before the failure is raised.
        """
        yielded = set()
        failure: BaseException | None = None
        with ThreadPoolExecutor(self.concurrency) as pool:
            futures = {pool.submit(one, index): index for index in range(count) if index not in done}
            try:
                for future in as_completed(futures):
                    if failure := future.exception():
                        break
                    yielded.add(future)
                    yield [(futures[future], future.result())]
            finally:
                for future in futures:
                    future.cancel()
        if failure:
            late = [f for f in futures if f not in yielded and not f.cancelled() and not f.exception()]
            yield [(futures[future], future.result()) for future in late]
            raise failure

    def _ask(self, prompt: Prompt, settings: Mapping[str, Any], read: Callable[[Any], T]) -> T:
        attempts = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(self.retries + 1),
            wait=_wait,
            retry=tenacity.retry_if_exception(
                lambda e: isinstance(e, (openai.OpenAIError, _BadReply)) and not isinstance(e, _FATAL)
            ),
            before_sleep=tenacity.before_sleep_log(log, logging.DEBUG),
            reraise=True,
        )
        try:
            return attempts(self._once, prompt, settings, read)
        except (openai.OpenAIError, _BadReply) as error:
            # Some endpoints repeat the key that they refuse.
            reason = str(error).replace(self.client.api_key, f"<{self.key_env}>") if self.key_env else str(error)
            raise UserError(f"model {self.path} at {self.client.base_url}: {reason}") from None

    def _once(self, prompt: Prompt, settings: Mapping[str, Any], read: Callable[[Any], T]) -> T:
        message: Any = {"role": "user", "content": disarmed(prompt.user)}
        try:
            reply = self.client.chat.completions.create(
                model=self.path, messages=[message], extra_body=self.request, **settings
            )
            return read(reply)
        except (ValueError, TypeError, AttributeError, IndexError, KeyError) as error:
            raise _BadReply(f"the reply is not a chat completion ({error})") from error

    def _completion(self, reply: Any, sampling: Sampling) -> Completion:
        choice = reply.choices[0]
        text = choice.message.content or ""
        reasoning = getattr(choice.message, "reasoning_content", None) or getattr(choice.message, "reasoning", None)
        counts = reply.usage.prompt_tokens, reply.usage.completion_tokens
        if not isinstance(text, str) or not all(isinstance(count, int) for count in counts):
            raise _BadReply("the reply has no text or no token counts")
        if choice.finish_reason not in ("stop", "length"):
            raise _BadReply(f"the reply has the finish reason {choice.finish_reason!r}")
        if not text and not reasoning and choice.finish_reason == "stop":
            raise _BadReply("the reply is empty")
        # Endpoints drop the stop text. If the reply opened <answer> and lacks </answer>, it stopped there: put it back.
        for stop in sampling.stop:
            if choice.finish_reason == "stop" and stop.replace("/", "") in text and stop not in text:
                text += stop
        scored = (choice.logprobs and choice.logprobs.content) or []
        return Completion(
            text=normalise_thinking(text, reasoning, self.opens_thinking or None),
            finish_reason=choice.finish_reason,
            prompt_tokens=counts[0],
            completion_tokens=counts[1],
            logprobs=tuple(round(token.logprob, 5) for token in scored),
        )


def _selection(reply: Any, prefill: str, choices: Sequence[str]) -> list[float]:
    """Log-probabilities of the choices at the last place where the reply continues `prefill`, ignoring white space.

    A choice that is not among the top tokens gets the least of their log-probabilities, an upper bound.
    """
    wanted = _BLANK.sub("", prefill)
    text, found = "", None
    for token in reply.choices[0].logprobs.content or []:
        if token.token in choices and _BLANK.sub("", text).endswith(wanted):
            top = {candidate.token: candidate.logprob for candidate in token.top_logprobs}
            found = [top.get(choice, min(top.values())) for choice in choices]
        text += token.token
    if found is None:
        raise _BadReply(f"the reply selects no response: {text[:200]!r}")
    return found


def _wait(state: tenacity.RetryCallState) -> float:
    """Seconds to wait before the next attempt."""
    error = state.outcome.exception() if state.outcome else None
    retry_after = error.response.headers.get("Retry-After", "") if isinstance(error, openai.APIStatusError) else ""
    try:
        return max(0.0, float(retry_after))
    except ValueError:
        return tenacity.wait_random_exponential(multiplier=0.5, max=LONGEST_WAIT)(state)


def start(revision: str | None = None, **options: Any) -> OpenAIBackend:
    """The backend of a `models` entry; its `revision` only names what the endpoint serves."""
    return OpenAIBackend(**options)
