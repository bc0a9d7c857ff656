"""The OpenAI backend: any compatible endpoint, such as GPT-4, DeepSeek-R1 or a model served by vLLM or llama.cpp."""

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from alignxplore.engines import replies
from alignxplore.engines.base import Completion, Refused, Sampling
from alignxplore.engines.endpoint import Call, Endpoint
from alignxplore.engines.failures import EmptyReply
from alignxplore.errors import UserError
from alignxplore.prompts import Prompt, disarmed

log = logging.getLogger(__name__)

_CHAT = "/chat/completions"
_TOP_LOGPROBS = 20
_ANSWER_TOKENS = 2048
_HARMLESS = "Hello."


class OpenAIBackend:
    """A served model; `path` is its name on the server, and `run` how it is reached (see Endpoint).

    `omit` and `rename` are for fields of requests that the server refuses, `request` for additional ones, and
    `chat_template` has options for the model's template. `opens_thinking` says that the template opens the reasoning,
    `logprobs` that the endpoint returns log-probabilities. The endpoint tokenises the prompt itself, so control tokens
    in user text are broken before it is sent.
    """

    def __init__(
        self,
        path: str,
        base_url: str | None = None,
        request: Mapping[str, Any] | None = None,
        omit: Collection[str] = (),
        rename: Mapping[str, str] | None = None,
        chat_template: Mapping[str, Any] | None = None,
        opens_thinking: bool = False,
        logprobs: bool = True,
        **run: Any,
    ):
        self.endpoint = Endpoint(path, base_url, **run)
        self.path = path
        self.request = dict(request or {})
        self.omit, self.rename = omit, rename or {}
        self.chat_template = {"chat_template_kwargs": dict(chat_template)} if chat_template else {}
        self.opens_thinking = opens_thinking
        self.logprobs = logprobs

    def generate(
        self, prompts: Sequence[Prompt], seeds: Sequence[int], sampling: Sampling, done: Collection[int] = ()
    ) -> Iterator[list[tuple[int, Completion | Refused]]]:
        """One completion per prompt, in order of arrival. An empty one is drawn once more."""
        if sampling.top_k and "top_k" not in self.request:
            # Not every endpoint supports it, and some refuse a request that contains it.
            log.warning(
                "model %s samples without top-k; if the endpoint supports it, set request: {top_k: %d}",
                self.path,
                sampling.top_k,
            )

        def body(text: str, seed: int) -> dict[str, Any]:
            settings: dict[str, Any] = {
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "max_tokens": sampling.max_new_tokens,
                "seed": seed % 2**31,
            }
            if sampling.stop:
                settings["stop"] = list(sampling.stop)
            if self.logprobs:
                settings["logprobs"] = True
            return self._chat(text, settings)

        call = Call(self.endpoint, _CHAT, body(_HARMLESS, 0), sampling.max_new_tokens)

        def draw(index: int, seed: int) -> Completion:
            return call.ask(
                body(disarmed(prompts[index].user), seed),
                lambda reply: replies.completion(reply, sampling.stop, self.opens_thinking),
            )

        def one(index: int) -> Completion:
            try:
                return draw(index, seeds[index])
            except EmptyReply:
                return draw(index, seeds[index] + 1)

        return call.answers(one, len(prompts), done)

    def choice_logprobs(
        self, prompts: Sequence[Prompt], choices: Sequence[str], done: Collection[int] = ()
    ) -> Iterator[list[tuple[int, list[float] | Refused]]]:
        """Log-probabilities of the choices at the place where a greedy reply continues the prompt's prefill.

        A chat endpoint does not let us begin its reply, so the prompt asks it to begin with the prefill, and the
        place is searched for in the reply.
        """
        settings = {"temperature": 0, "max_tokens": _ANSWER_TOKENS, "logprobs": True, "top_logprobs": _TOP_LOGPROBS}
        call = Call(self.endpoint, _CHAT, self._chat(_HARMLESS, settings), _ANSWER_TOKENS)

        def one(index: int) -> list[float]:
            prompt = prompts[index]
            asked = Prompt(f"{prompt.user}\nBegin your answer with {prompt.prefill}")
            return call.ask(
                self._chat(disarmed(asked.user), settings),
                lambda reply: replies.selection(reply, prompt.prefill, choices),
            )

        return call.answers(one, len(prompts), done)

    def loglikelihood(
        self, prompts: Sequence[Prompt], continuations: Sequence[str], done: Collection[int] = ()
    ) -> Iterator[list[tuple[int, tuple[float, int] | Refused]]]:
        """Not supported: chat endpoints do not score given text."""
        raise UserError(f"model {self.path}: a chat endpoint cannot score responses; R_gen needs another engine")

    def _chat(self, text: str, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The body of a chat request."""
        return self._body({"messages": [{"role": "user", "content": text}], **settings, **self.chat_template})

    def _body(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """The body of a request, with fields left out, renamed and added as the entry says."""
        kept = {self.rename.get(name, name): value for name, value in fields.items() if name not in self.omit}
        return {"model": self.path, **kept, **self.request}


def start(revision: str | None = None, **options: Any) -> OpenAIBackend:
    """The backend of a `models` entry; its `revision` only names what the endpoint serves."""
    return OpenAIBackend(**options)
