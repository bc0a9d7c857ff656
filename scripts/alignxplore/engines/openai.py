"""The OpenAI backend: any compatible endpoint, such as GPT-4, DeepSeek-R1 or a model served by vLLM or llama.cpp."""

import logging
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import httpx2

from alignxplore.engines import replies
from alignxplore.engines.base import Choice, Completion, Likelihood, Refused, Sampling
from alignxplore.engines.endpoint import Call, Endpoint
from alignxplore.engines.failures import BadReply, EmptyReply, NoAnswer, Unusable
from alignxplore.errors import UserError
from alignxplore.formats import named_thoughts
from alignxplore.prompts import Prompt, disarmed

log = logging.getLogger(__name__)

T = TypeVar("T")

_CHAT, _TEXT = "/chat/completions", "/completions"
_TOP_LOGPROBS = 20
_ANSWER_TOKENS = 2048
_HARMLESS = "Hello."

_PREFILLS: Mapping[str, Mapping[str, Any]] = {
    "continue": {},
    "vllm": {"continue_final_message": True, "add_generation_prompt": False},
}
"""Ways to have a last assistant message continued, and the fields that each needs."""

_SCORES: Mapping[str, Mapping[str, Any]] = {"vllm": {"prompt_logprobs": 0}, "echo": {"echo": True, "logprobs": 1}}
"""Ways to get the log-probabilities of a prompt, and the fields that each needs."""

_UNKNOWN = (400, 404, 405, 422, 500, 501)
"""Statuses with which endpoints refuse what they do not know."""


class OpenAIBackend:
    """A served model; `path` is its name on the server, and `run` how it is reached (see Endpoint).

    `omit` and `rename` are for fields of requests that the server refuses, `request` for additional ones, and
    `chat_template` has options for the model's template. `opens_thinking` says that the template opens the reasoning,
    `logprobs` that the endpoint returns log-probabilities. `prefill` is how a judge's answer is begun, a key of
    _PREFILLS or "ask"; by default it is found out. A chat endpoint tokenises the prompt itself, so control tokens in
    user text are broken before it is sent. With the model's `tokenizer`, judges send token ids instead.
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
        prefill: str | None = None,
        tokenizer: str | None = None,
        tokenizer_revision: str | None = None,
        thoughts: str | Mapping[str, str] | None = None,
        **run: Any,
    ):
        self.endpoint = Endpoint(path, base_url, **run)
        self.path = path
        self.request = dict(request or {})
        self.omit, self.rename = omit, rename or {}
        self.chat_template = {"chat_template_kwargs": dict(chat_template)} if chat_template else {}
        self.opens_thinking = opens_thinking
        self.thoughts = named_thoughts(thoughts)
        self.logprobs = logprobs
        self.ids = _Ids(tokenizer, tokenizer_revision, chat_template, thoughts) if tokenizer else None
        # A model that reasons first cannot answer at once, but it can be asked to.
        self._prefill = "ask" if opens_thinking else prefill
        self._scores: str | None = None
        self._lock = threading.Lock()

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

        def body(prompt: Prompt, seed: int) -> dict[str, Any]:
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
            return self._chat(prompt, settings)

        call = Call(self.endpoint, _CHAT, self._harmless(body(prompts[0], 0)), sampling.max_new_tokens)

        def draw(index: int, seed: int) -> Completion:
            return call.ask(
                body(prompts[index], seed),
                lambda reply: replies.completion(reply, sampling.stop, self.opens_thinking, self.thoughts),
            )

        def one(index: int) -> Completion:
            try:
                return draw(index, seeds[index])
            except EmptyReply:
                return draw(index, seeds[index] + 1)

        return call.answers(one, len(prompts), done)

    def choice_logprobs(
        self, prompts: Sequence[Prompt], choices: Sequence[str], done: Collection[int] = ()
    ) -> Iterator[list[tuple[int, Choice | Refused]]]:
        """Log-probabilities of the choices after the prompt's prefill, with which the answer is made to begin."""
        settings = {"temperature": 0, "max_tokens": 1}
        if self.ids:
            heads, spelled = self.ids.choices(prompts, choices)
            bodies = [self._body({"prompt": head, **settings, "logprobs": _TOP_LOGPROBS}) for head in heads]
            return self._next_tokens(_TEXT, bodies, spelled, done)
        way = self._prefill_way()
        if way == "ask":
            return self._selections(prompts, choices, done)
        top = {**settings, "logprobs": True, "top_logprobs": _TOP_LOGPROBS}
        bodies = [self._begun(prompt, way, top) for prompt in prompts]
        return self._next_tokens(_CHAT, bodies, [choices] * len(bodies), done)

    def _next_tokens(
        self, route: str, bodies: Sequence[dict[str, Any]], choices: Sequence[Sequence[str]], done: Collection[int]
    ) -> Iterator[list[tuple[int, Choice | Refused]]]:
        """Log-probabilities of each body's choices as the next token."""

        def read(reply: Any, index: int) -> Choice:
            return Choice(replies.chosen(replies.first(reply), choices[index]), *replies.usage(reply))

        return self._read(route, bodies, self._harmless(bodies[0]), 1, read, done)

    def _selections(
        self, prompts: Sequence[Prompt], choices: Sequence[str], done: Collection[int]
    ) -> Iterator[list[tuple[int, Choice | Refused]]]:
        """Log-probabilities of the choices where a greedy reply, asked to begin with the prefill, continues it."""
        settings = {"temperature": 0, "max_tokens": _ANSWER_TOKENS, "logprobs": True, "top_logprobs": _TOP_LOGPROBS}
        bodies = [
            self._chat(replace(prompt, user=f"{prompt.user}\nBegin your answer with {prompt.prefill}"), settings)
            for prompt in prompts
        ]

        def read(reply: Any, index: int) -> Choice:
            return Choice(replies.selection(reply, prompts[index].prefill, choices), *replies.usage(reply))

        return self._read(_CHAT, bodies, self._harmless(bodies[0]), _ANSWER_TOKENS, read, done)

    def loglikelihood(
        self, prompts: Sequence[Prompt], continuations: Sequence[str], done: Collection[int] = ()
    ) -> Iterator[list[tuple[int, Likelihood | Refused]]]:
        """For each prompt, the log-likelihood of its continuation."""
        if not self.ids:
            raise UserError(
                f"model {self.path}: a chat endpoint cannot score responses. If this one is vLLM, give the entry"
                " `tokenizer`; else use the engine transformers or vllm"
            )
        scored = self.ids.continued(prompts, continuations)
        way = self._scores_way()
        bodies = [self._scoring(ids, way) for ids, _ in scored]

        def read(reply: Any, index: int) -> Likelihood:
            ids, start = scored[index]
            values = replies.prompt_logprobs(reply, ids)
            return Likelihood(sum(values[start:]), len(ids) - start, *replies.usage(reply))

        return self._read(_TEXT, bodies, self._scoring(self.ids.harmless(), way), 1, read, done)

    def _read(
        self,
        route: str,
        bodies: Sequence[dict[str, Any]],
        control: dict[str, Any],
        new: int,
        read: Callable[[Any, int], T],
        done: Collection[int],
    ) -> Iterator[list[tuple[int, T | Refused]]]:
        """`read` of the reply to each body and its place; `control` and `new` tokens are those of Call and its asks."""
        call = Call(self.endpoint, route, control, new)
        return call.answers(lambda index: call.ask(bodies[index], lambda reply: read(reply, index)), len(bodies), done)

    def _prefill_way(self) -> str:
        """How the endpoint is made to begin an answer, found out once."""
        with self._lock:
            if self._prefill is None:
                self._prefill = next((way for way in _PREFILLS if self._continues(way)), "ask")
                log.info("model %s: judges begin their answers by prefill: %s", self.endpoint.name, self._prefill)
            return self._prefill

    def _continues(self, way: str) -> bool:
        """Whether the endpoint continues a last assistant message.

        If it does, what it writes after its own first token is what it wrote after that token before, and just as
        likely. One that opens a new turn or drops the message begins again:

            The sea      ->  " is" " a" " vast" " body"      The sea      ->  "The" " sea" " is" " a"
            The sea is   ->        " a" " vast" " body"      The sea is   ->  "The" " sea" " is"
        """

        def written(begun: str, count: int) -> list[replies.Token]:
            settings = {"temperature": 0, "max_tokens": count, "logprobs": True, "top_logprobs": _TOP_LOGPROBS}
            body = self._begun(Prompt("Write one sentence about the sea.", begun), way, settings)
            return self._tried(_CHAT, body, replies.tokens) or []

        begun, count = "The sea", 4
        if len(longer := written(begun, count)) < count:
            return False
        return replies.alike(longer[1:count], written(begun + longer[0].text, count - 1)[: count - 1])

    def _scores_way(self) -> str:
        """How the endpoint is made to return the log-probabilities of a prompt, found out once."""
        assert self.ids
        ids = self.ids.harmless()
        with self._lock:
            if self._scores is None:
                for way in _SCORES:
                    if self._tried(_TEXT, self._scoring(ids, way), lambda reply: replies.prompt_logprobs(reply, ids)):
                        self._scores = way
                        log.info("model %s: prompts are scored as by %s", self.endpoint.name, way)
                        return way
                raise UserError(
                    f"model {self.endpoint.name}: the endpoint does not return the log-probabilities of a prompt, as"
                    " vLLM's does; score responses with the engine transformers or vllm"
                )
            return self._scores

    def _tried(self, route: str, body: Mapping[str, Any], read: Callable[[Any], T]) -> T | None:
        """`read` of the reply to a request that the endpoint may not know; None if it does not."""
        try:
            return self.endpoint.ask(route, body, read, threading.Event())
        except (NoAnswer, BadReply):
            return None
        except (httpx2.HTTPError, Unusable) as error:
            if isinstance(error, httpx2.HTTPStatusError) and error.response.status_code in _UNKNOWN:
                return None
            raise self.endpoint.failure(error) from None

    def _scoring(self, ids: Sequence[int], way: str) -> dict[str, Any]:
        """The body of a request that scores its prompt."""
        return self._body({"prompt": ids, "temperature": 0, "max_tokens": 1, **_SCORES[way]})

    def _begun(self, prompt: Prompt, way: str, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The body of a chat request whose answer begins with the prompt's prefill."""
        body = self._chat(prompt, {**settings, **_PREFILLS[way]})
        return {**body, "messages": [*body["messages"], {"role": "assistant", "content": prompt.prefill}]}

    def _harmless(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The same request with a harmless prompt."""
        if "prompt" in body:
            assert self.ids
            return {**body, "prompt": self.ids.harmless()}
        messages = [
            message if message["role"] == "assistant" else {**message, "content": _HARMLESS}
            for message in body["messages"]
        ]
        return {**body, "messages": messages}

    def _chat(self, prompt: Prompt, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The body of a chat request."""
        system = [{"role": "system", "content": disarmed(prompt.system)}] if prompt.system else []
        messages = [*system, {"role": "user", "content": disarmed(prompt.user)}]
        return self._body({"messages": messages, **settings, **self.chat_template})

    def _body(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """The body of a request, with fields left out, renamed and added as the entry says."""
        kept = {self.rename.get(name, name): value for name, value in fields.items() if name not in self.omit}
        return {"model": self.path, **kept, **self.request}


class _Ids:
    """Token ids of prompts, as the engines that run in this process make them."""

    def __init__(
        self, path: str, revision: str | None, options: Mapping[str, Any] | None, thoughts: str | Mapping | None
    ):
        # Imported here because a chat endpoint is asked without transformers.
        from alignxplore.engines.tokens import ChatTokenizer
        from alignxplore.engines.weights import load_tokenizer

        self._chat = ChatTokenizer(load_tokenizer(path, revision), options, thoughts=thoughts)

    def harmless(self) -> list[int]:
        """A prompt that no server refuses."""
        return self._chat.encode(Prompt(_HARMLESS))

    def choices(self, prompts: Sequence[Prompt], choices: Sequence[str]) -> tuple[list[list[int]], list[list[str]]]:
        """The prompts up to where the choices differ, and the tokens by which each does, spelled as in vocabularies."""
        encoded = self._chat.encode_choosing(prompts, choices)
        spell = self._chat.tokenizer.convert_ids_to_tokens
        return [head for head, _ in encoded], [[str(spell(token)) for token in tokens] for _, tokens in encoded]

    def continued(self, prompts: Sequence[Prompt], continuations: Sequence[str]) -> list[tuple[list[int], int]]:
        """Each prompt with its continuation, and the place where the latter begins."""
        return self._chat.encode_scored(prompts, continuations)


def start(revision: str | None = None, **options: Any) -> OpenAIBackend:
    """The backend of a `models` entry; its `revision` only names what the endpoint serves."""
    return OpenAIBackend(**options)
