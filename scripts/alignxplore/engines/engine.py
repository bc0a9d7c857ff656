"""The engine that the rest of the experiment asks: it answers from the journal, or else from the model behind it."""

import hashlib
import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

import numpy as np

from alignxplore.engines.base import Backend, Completion, PromptRefused, Sampling
from alignxplore.engines.journal import CALL, KEY_LENGTH, Journal
from alignxplore.errors import UserError
from alignxplore.prompts import Prompt

log = logging.getLogger(__name__)

ANSWERS = 1
"""Part of every key: to be raised when the backends come to answer the same question otherwise."""

_Ask = Callable[[Backend, list[int], Collection[int]], Iterator[list[tuple[int, Any]]]]
"""Asks a backend for the requests of these indices, leaving out those done; see Backend."""


class Engine:
    """A language model behind a journal; all methods answer in the order of their prompts.

    `identity` tells this model's answers from those of any other, `load` starts the backend when first needed, `price`
    is in dollars for a million tokens of prompt and of completion.
    """

    def __init__(
        self,
        name: str,
        identity: Mapping[str, Any],
        load: Callable[[], Backend],
        journal: Journal,
        price: tuple[float, float] = (0.0, 0.0),
    ):
        self.name = name
        self._identity = identity
        self._load = load
        self._backend: Backend | None = None
        self._journal = journal
        self._price = price

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Completion]:
        """One sampled completion for each prompt.

        A completion depends on the model, its prompt, `sampling`, and how often the prompt occurs before it; not on
        the other prompts.
        """
        occurrences: Counter[Prompt] = Counter()
        requests = []
        for prompt in prompts:
            requests.append([prompt.user, prompt.prefill, occurrences[prompt]])
            occurrences[prompt] += 1
        keys = self._keys("generate", asdict(sampling), requests)
        seeds = [int(key[:8], 16) for key in keys]

        def ask(backend: Backend, indices: list[int], done: Collection[int]) -> Iterator[list[tuple[int, Any]]]:
            asked = backend.generate([prompts[i] for i in indices], [seeds[i] for i in indices], sampling, done)
            return ([(index, asdict(completion)) for index, completion in batch] for batch in asked)

        records = self._answers("generate", keys, ask)
        names = [field.name for field in fields(Completion)]
        return [
            Completion(**{**{n: record[n] for n in names}, "logprobs": tuple(record["logprobs"])}) for record in records
        ]

    def choice_logprobs(self, prompts: Sequence[Prompt], choices: Sequence[str]) -> np.ndarray:
        """Log-probability, in nats, of each choice's first token after each prompt: (prompts, choices)."""
        keys = self._keys("choice_logprobs", list(choices), [[prompt.user, prompt.prefill] for prompt in prompts])

        def ask(backend: Backend, indices: list[int], done: Collection[int]) -> Iterator[list[tuple[int, Any]]]:
            asked = backend.choice_logprobs([prompts[i] for i in indices], choices, done)
            return ([(index, {"logprobs": values}) for index, values in batch] for batch in asked)

        records = self._answers("choice_logprobs", keys, ask)
        return np.array([record["logprobs"] for record in records]).reshape(-1, len(choices))

    def loglikelihood(self, prompts: Sequence[Prompt], continuations: Sequence[str]) -> list[tuple[float, int]]:
        """For each prompt, the log-likelihood of its continuation in nats, and the continuation's tokens."""
        requests = [[p.user, p.prefill, text] for p, text in zip(prompts, continuations, strict=True)]
        keys = self._keys("loglikelihood", None, requests)

        def ask(backend: Backend, indices: list[int], done: Collection[int]) -> Iterator[list[tuple[int, Any]]]:
            asked = backend.loglikelihood([prompts[i] for i in indices], [continuations[i] for i in indices], done)
            return ([(i, {"logprob": total, "tokens": tokens}) for i, (total, tokens) in batch] for batch in asked)

        records = self._answers("loglikelihood", keys, ask)
        return [(record["logprob"], record["tokens"]) for record in records]

    def _keys(self, kind: str, settings: Any, requests: Sequence[list[Any]]) -> list[str]:
        common = hashlib.sha256(json.dumps([ANSWERS, self._identity, kind, settings], sort_keys=True).encode())
        keys = []
        for request in requests:
            digest = common.copy()
            digest.update(json.dumps(request).encode())
            keys.append(digest.hexdigest()[:KEY_LENGTH])
        return keys

    def _answers(self, kind: str, keys: list[str], ask: _Ask) -> list[Mapping[str, Any]]:
        """The record of each key, from the journal or, asked once for each key, from the backend."""
        first: dict[str, int] = {}
        for index, key in enumerate(keys):
            first.setdefault(key, index)
        found = self._journal.get(first)
        hits, started, loading = list(found.values()), time.monotonic(), 0.0
        if len(found) < len(first):
            missing = self._plan(keys, [index for key, index in first.items() if key not in found])
            done = {place for place, index in enumerate(missing) if keys[index] in found}
            if self._backend is None:
                self._backend = self._load()
                loading = time.monotonic() - started
            try:
                for batch in ask(self._backend, missing, done):
                    new = [
                        (keys[missing[place]], {"model": self.name, **record})
                        for place, record in batch
                        if keys[missing[place]] not in found
                    ]
                    found.update(new)
                    self._journal.add(new)
            except PromptRefused as error:
                raise PromptRefused(missing[error.index], error.reason) from None
        if unanswered := [key for key in first if key not in found]:
            raise UserError(f"model {self.name} left {len(unanswered)} of {len(first)} prompts without an answer")
        self._account(kind, hits, list(found.values())[len(hits) :], time.monotonic() - started - loading, loading)
        return [found[key] for key in keys]

    def _plan(self, keys: list[str], missing: list[int]) -> list[int]:
        """What is asked of the backend: what was missing when this very call was first made.

        A call that was killed is thus asked again in the same batches, whose numbers can depend on their company.
        """
        name = hashlib.sha256("".join(keys).encode()).hexdigest()[:KEY_LENGTH]
        plan = self._journal.get([name]).get(name)
        if plan is None:
            self._journal.add([(name, {"model": self.name, "plan": missing})])
            return missing
        return sorted(set(plan["plan"]) | set(missing))

    def _account(
        self, kind: str, hits: list[Mapping[str, Any]], new: list[Mapping[str, Any]], seconds: float, loading: float
    ) -> None:
        def tokens(records: list[Mapping[str, Any]], name: str) -> int:
            return sum(record.get(name, 0) for record in records)

        def dollars(records: list[Mapping[str, Any]]) -> float:
            counts = tokens(records, "prompt_tokens"), tokens(records, "completion_tokens")
            return sum(count * price / 1e6 for count, price in zip(counts, self._price, strict=True))

        if not hits and not new:
            return
        log.info("%s, %s: %d from the journal, %d new in %.1f s", self.name, kind, len(hits), len(new), seconds)
        kinds = ("prompt_tokens", "completion_tokens")
        call = {
            "model": self.name,
            "kind": kind,
            "hits": len(hits),
            "new": len(new),
            "seconds": round(seconds, 3),
            "loading": round(loading, 3),
            "hit_tokens": tokens(hits, "prompt_tokens") + tokens(hits, "completion_tokens"),
            "new_tokens": tokens(new, "prompt_tokens") + tokens(new, "completion_tokens"),
            **{f"new_{name}": tokens(new, name) for name in kinds},
            "saved_dollars": dollars(hits),
            "paid_dollars": dollars(new),
        }
        self._journal.add([(CALL, {"call": call})])
