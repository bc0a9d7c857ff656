"""Descriptions that are kept up to date: d_k = M(d_{k-1}, chunk k) instead of one look at the whole history.

    signals   1 2 3 4     5 6 7 8     9 10
    step 1    1 2 3 4          ->  d1
    step 2    d1 + 5 6 7 8     ->  d2
    step 3    d2 + 9 10        ->  d3, the description of the case

All cases take a step together, so that each engine call is as large as it can be. Cases that begin alike, as the steps
of one stream do, ask the same prompts in their first steps. Each prompt is asked once, and the journal has it the next
time: a stream that became one chunk longer costs one prompt.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from alignxplore.data.streams import signal_count, span
from alignxplore.engines import Completion
from alignxplore.formats import Parsed
from alignxplore.methods.descriptions import Description
from alignxplore.prompts import Prompt
from alignxplore.records import NO_STREAM

_UNKNOWN = Description(Parsed("", "", format_ok=False), "", 0, 0)

Case = Mapping[str, Any]


def streamed(
    ask: Callable[[Sequence[Prompt]], Sequence[tuple[Completion, Parsed]]],
    render: Callable[[Case, str], Prompt],
    cases: Sequence[Case],
    chunk: int,
    carry: bool = True,
) -> list[Description]:
    """The last description of each case, whose signals are read in parts of at most `chunk` (see `parts`).

    `render` makes the prompt of a case that has one part's signals and of the past description, and `ask` returns an
    answer per prompt. Without `carry`, the last part is read alone. Token counts are those of all steps.
    """
    cases = _read(cases, chunk, carry)
    found = [_UNKNOWN] * len(cases)
    divided = [parts(case, chunk) for case in cases]
    for step in range(max(map(len, divided), default=0)):
        prompts = {
            index: render(span(case, *own[step]), found[index].parsed.preference)
            for index, (case, own) in enumerate(zip(cases, divided, strict=True))
            if step < len(own)
        }
        # An engine that is asked a prompt twice samples two answers.
        distinct = list(dict.fromkeys(prompts.values()))
        answers = dict(zip(distinct, ask(distinct), strict=True))
        for index, prompt in prompts.items():
            found[index] = updated(found[index], *answers[prompt])
    return found


def prompt_count(cases: Sequence[Case], chunk: int, carry: bool = True) -> int:
    """How many prompts `streamed` asks: one for each different beginning of the cases."""
    beginnings = set()
    for case in _read(cases, chunk, carry):
        read = hashlib.sha256()
        for start, stop in parts(case, chunk):
            part = span(case, start, stop)
            read.update(json.dumps([part["pairs"], part["ugc"]]).encode())
            beginnings.add(read.digest())
    return len(beginnings)


def _read(cases: Sequence[Case], chunk: int, carry: bool) -> Sequence[Case]:
    """The cases with the signals that are read: all, or without `carry` those of the last part."""
    if carry:
        return cases
    return [{**span(case, *parts(case, chunk)[-1]), **NO_STREAM} for case in cases]


def parts(case: Case, chunk: int) -> list[tuple[int, int]]:
    """The first signal of each part that a case is read in, and the one after its last; one empty part if it has none.

    A stream's own chunks are kept apart, so that its steps share their parts however large its chunks are.
    """
    found = []
    start = 0
    for size in case["chunks"] or [signal_count(case)]:
        found += [(at, min(at + chunk, start + size)) for at in range(start, start + size, chunk)]
        start += size
    return found or [(0, 0)]


def updated(past: Description, completion: Completion, parsed: Parsed) -> Description:
    """What a step makes of the past description, which stays as it is if the step was refused or is out of format."""
    return Description(
        Parsed(parsed.reasoning, parsed.preference if parsed.format_ok else past.parsed.preference, parsed.format_ok),
        completion.finish_reason,
        past.prompt_tokens + completion.prompt_tokens,
        past.completion_tokens + completion.completion_tokens,
    )
