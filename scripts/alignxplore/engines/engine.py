"""The engine that the experiment asks: it answers from the journal, or else from the model."""

import hashlib
import json
import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, fields, replace
from typing import Any

import numpy as np

from alignxplore.engines.base import Backend, Choice, Completion, Likelihood, Refused, Sampling
from alignxplore.engines.journal import CALL, KEY_LENGTH, Journal, Record
from alignxplore.errors import UserError
from alignxplore.formats import without_stop
from alignxplore.prompts import Prompt

log = logging.getLogger(__name__)

_ANSWERS = 2
"""Part of every key. Raise it if backends start to answer the same question differently."""

_Ask = Callable[[Backend, list[int], Collection[int]], Iterator[list[tuple[int, Record]]]]
"""Puts the requests with these indices to a backend and yields records; the collection is `done` of Backend."""


class Engine:
    """A language model behind a journal; every method answers in the order of its prompts.

    `identity` distinguishes this model's answers from any other model's. `load` starts the backend when it is first
    needed. `price` is in dollars per million tokens of prompt and of completion. The texts `stop` end a completion
    too, and are left out of it, unless one is a tag of the format.

    A prompt that the model refuses has no answer: its completion has the finish reason "refused", and its
    log-probabilities are NaN. A call in which more than the share `max_refused` of the prompts is refused raises
    UserError, and so does a model that computes NaN or infinity; the former keeps its answers, the latter does not.
    """

    def __init__(
        self,
        name: str,
        identity: Mapping[str, Any],
        load: Callable[[], Backend],
        journal: Journal,
        price: tuple[float, float] = (0.0, 0.0),
        max_refused: float = 0.1,
        stop: Sequence[str] = (),
    ):
        self.name = name
        self._identity = identity
        self._load = load
        self._backend: Backend | None = None
        self._journal = journal
        self._price = price
        self._max_refused = max_refused
        self._stop = tuple(stop)

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Completion]:
        """One sampled completion per prompt.

        A completion depends on the model, its prompt, `sampling`, and how often the same prompt came before it; not on
        the other prompts.
        """
        sampling = replace(sampling, stop=tuple(dict.fromkeys([*sampling.stop, *self._stop])))
        occurrences: Counter[Prompt] = Counter()
        requests = []
        for prompt in prompts:
            requests.append([*_turns(prompt), occurrences[prompt]])
            occurrences[prompt] += 1
        keys = self._keys("generate", asdict(sampling), requests)
        seeds = [int(key[:8], 16) for key in keys]

        def ask(backend: Backend, indices: list[int], done: Collection[int]) -> Iterator[list[tuple[int, Record]]]:
            batches = backend.generate([prompts[i] for i in indices], [seeds[i] for i in indices], sampling, done)
            return ([(place, _record(answer)) for place, answer in batch] for batch in batches)

        completions = [_completion(record) for record in self._answers("generate", keys, ask)]
        return [replace(c, text=without_stop(c.text, self._stop)) for c in completions]

    def choice_logprobs(self, prompts: Sequence[Prompt], choices: Sequence[str]) -> np.ndarray:
        """Log-probability, in nats, of the token by which each choice differs after each prompt: (prompts, choices)."""
        keys = self._keys("choice_logprobs", list(choices), [_turns(prompt) for prompt in prompts])

        def ask(backend: Backend, indices: list[int], done: Collection[int]) -> Iterator[list[tuple[int, Record]]]:
            batches = backend.choice_logprobs([prompts[i] for i in indices], choices, done)
            return ([(place, _record(answer)) for place, answer in batch] for batch in batches)

        records = self._answers("choice_logprobs", keys, ask)
        unknown = [np.nan] * len(choices)
        return np.array([record.get("logprobs", unknown) for record in records]).reshape(-1, len(choices))

    def loglikelihood(self, prompts: Sequence[Prompt], continuations: Sequence[str]) -> list[tuple[float, int]]:
        """For each prompt, the log-likelihood of its continuation in nats and the continuation's number of tokens."""
        requests = [[*_turns(prompt), text] for prompt, text in zip(prompts, continuations, strict=True)]
        keys = self._keys("loglikelihood", None, requests)

        def ask(backend: Backend, indices: list[int], done: Collection[int]) -> Iterator[list[tuple[int, Record]]]:
            batches = backend.loglikelihood([prompts[i] for i in indices], [continuations[i] for i in indices], done)
            return ([(place, _record(answer)) for place, answer in batch] for batch in batches)

        records = self._answers("loglikelihood", keys, ask)
        return [(record.get("logprob", np.nan), record.get("tokens", 0)) for record in records]

    def _keys(self, kind: str, settings: Any, requests: Sequence[list[Any]]) -> list[str]:
        """The journal key of each request: a hash of the model, the kind of question, its settings and the request."""
        common = hashlib.sha256(json.dumps([_ANSWERS, self._identity, kind, settings], sort_keys=True).encode())
        keys = []
        for request in requests:
            digest = common.copy()
            digest.update(json.dumps(request).encode())
            keys.append(digest.hexdigest()[:KEY_LENGTH])
        return keys

    def _answers(self, kind: str, keys: list[str], ask: _Ask) -> list[Record]:
        """The record of each key, from the journal or the backend, which is asked once per distinct key."""
        first: dict[str, int] = {}
        for index, key in enumerate(keys):
            first.setdefault(key, index)
        found = self._journal.get(first)
        hits, started, loading = list(found.values()), time.monotonic(), 0.0
        if len(found) < len(first):
            asked = self._plan(keys, [index for key, index in first.items() if key not in found])
            done = {place for place, index in enumerate(asked) if keys[index] in found}
            if self._backend is None:
                self._backend = self._load()
                loading = time.monotonic() - started
            clock = time.monotonic()
            for batch in ask(self._backend, asked, done):
                self._check_finite([record for _, record in batch])
                took = {"seconds": round((time.monotonic() - clock) / max(len(batch), 1), 5)}
                clock = time.monotonic()
                answers = [(keys[asked[place]], {"model": self.name, **record, **took}) for place, record in batch]
                # A batch that was half done is computed whole again; what the journal has stays as it is.
                new = [(key, record) for key, record in answers if key not in found]
                found.update(new)
                self._journal.add(new)
        if unanswered := [key for key in first if key not in found]:
            raise UserError(f"model {self.name} left {len(unanswered)} of {len(first)} prompts without an answer")
        self._account(kind, hits, list(found.values())[len(hits) :], time.monotonic() - started - loading, loading)
        self._check_refused([record["refused"] for record in found.values() if "refused" in record], len(found))
        return [found[key] for key in keys]

    def _check_finite(self, records: Sequence[Record]) -> None:
        """Raise UserError for a log-probability that is NaN or infinite."""
        for record in records:
            values = [*record.get("logprobs", ()), record.get("logprob", 0.0)]
            if not all(map(math.isfinite, values)):
                precision = f" in {self._identity['dtype']}" if "dtype" in self._identity else ""
                raise UserError(
                    f"model {self.name}{precision} computes NaN or infinite log-probabilities; nothing of that batch is"
                    " kept. Try dtype: float32, or check the model's files"
                )

    def _check_refused(self, reasons: Sequence[str], asked: int) -> None:
        """Log why prompts were refused. Raise UserError if it is more than one and more than the share allowed."""
        if not reasons:
            return
        counts = "; ".join(f"{count} x {reason}" for reason, count in Counter(reasons).most_common(10))
        summary = f"model {self.name} refused {len(reasons)} of {asked} prompts: {counts}"
        if len(reasons) > max(1, self._max_refused * asked):
            raise UserError(
                f"{summary}. That is more than run.max_refused of this model allows ({self._max_refused:.0%}). All"
                " answers are kept; to ask the refused prompts again, run alignxplore journal prune --refused"
            )
        log.warning("%s", summary)

    def _plan(self, keys: list[str], missing: list[int]) -> list[int]:
        """The indices to ask the backend for: those that were missing when this same call was first made.

        An answer can depend on the other prompts in its batch, so a call that was killed must be repeated with the
        same batches. The journal therefore keeps what the first attempt asked for, under a hash of the call's keys:

            first attempt   missing 0 1 2 3 4 5   batches [0 1 2] [3 4 5]   killed after the first batch
            second attempt  missing       3 4 5   asked again for 0 to 5, with 0 1 2 done: [3 4 5] as before
        """
        name = hashlib.sha256("".join(keys).encode()).hexdigest()[:KEY_LENGTH]
        plan = self._journal.get([name]).get(name)
        if plan is None:
            self._journal.add([(name, {"model": self.name, "plan": missing})])
            return missing
        return sorted(set(plan["plan"]) | set(missing))

    def _account(self, kind: str, hits: list[Record], new: list[Record], seconds: float, loading: float) -> None:
        """Log what a call cost and saved, and keep it in the journal."""

        def tokens(records: list[Record]) -> tuple[int, int]:
            prompt, completion = ([r.get(f"{part}_tokens", 0) for r in records] for part in ("prompt", "completion"))
            return sum(prompt), sum(completion)

        def dollars(records: list[Record]) -> float:
            return sum(count * price / 1e6 for count, price in zip(tokens(records), self._price, strict=True))

        if not hits and not new:
            return
        log.info("%s, %s: %d from the journal, %d new in %.1f s", self.name, kind, len(hits), len(new), seconds)
        new_prompt_tokens, new_completion_tokens = tokens(new)
        call = {
            "model": self.name,
            "kind": kind,
            "hits": len(hits),
            "new": len(new),
            "seconds": round(seconds, 3),
            "loading": round(loading, 3),
            "hit_tokens": sum(tokens(hits)),
            "hit_seconds": round(sum(record.get("seconds", 0.0) for record in hits), 3),
            "new_tokens": new_prompt_tokens + new_completion_tokens,
            "new_prompt_tokens": new_prompt_tokens,
            "new_completion_tokens": new_completion_tokens,
            "saved_dollars": dollars(hits),
            "paid_dollars": dollars(new),
        }
        self._journal.add([(CALL, {"call": call})])


def _turns(prompt: Prompt) -> list[Any]:
    """A prompt in a journal key: two texts, or three if it has a system turn."""
    return [prompt.user, prompt.prefill, *filter(None, [prompt.system])]


def _record(answer: Completion | Choice | Likelihood | Refused) -> Record:
    """What the journal keeps of a backend's answer."""
    return {"refused": answer.reason} if isinstance(answer, Refused) else asdict(answer)


def _completion(record: Record) -> Completion:
    if "refused" in record:
        return Completion("", "refused", 0, 0)
    values = {field.name: record[field.name] for field in fields(Completion)}
    return Completion(**{**values, "logprobs": tuple(values["logprobs"])})
