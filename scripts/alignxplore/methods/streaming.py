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

from alignxplore.data.streams import chunk_sizes, signal_count, span
from alignxplore.engines import Completion
from alignxplore.formats import Parsed
from alignxplore.methods.descriptions import Description
from alignxplore.prompts import Prompt

Case = Mapping[str, Any]


def streamed(
    ask: Callable[[Sequence[Prompt]], Sequence[tuple[Completion, Parsed]]],
    render: Callable[[Case, str], Prompt],
    cases: Sequence[Case],
    chunk: int,
    carry: bool = True,
) -> list[Description]:
    """The last description of each case, whose signals are read in parts (see `parts`).

    `render` makes the prompt of a case that has one part's signals and of the past description, and `ask` returns an
    answer per prompt. A step that is refused or out of format leaves the past as it was; what it wrote is described if
    there is no past. Token counts are those of all steps.
    """
    found = [Description(Parsed("", "", format_ok=False), "", 0, 0)] * len(cases)
    pasts = [""] * len(cases)
    divided = [parts(case, chunk, carry) for case in cases]
    for step in range(max(map(len, divided), default=0)):
        prompts = {
            index: render(span(case, *own[step]), pasts[index])
            for index, (case, own) in enumerate(zip(cases, divided, strict=True))
            if step < len(own)
        }
        # An engine that is asked a prompt twice samples two answers.
        distinct = list(dict.fromkeys(prompts.values()))
        answers = dict(zip(distinct, ask(distinct), strict=True))
        for index, prompt in prompts.items():
            completion, parsed = answers[prompt]
            if parsed.format_ok:
                pasts[index] = parsed.preference
            found[index] = Description(
                Parsed(parsed.reasoning, pasts[index] or parsed.preference, parsed.format_ok),
                completion.finish_reason,
                found[index].prompt_tokens + completion.prompt_tokens,
                found[index].completion_tokens + completion.completion_tokens,
            )
    return found


def prompt_count(cases: Sequence[Case], chunk: int, carry: bool = True) -> int:
    """How many prompts `streamed` asks: one for each different beginning of the cases."""
    beginnings = set()
    for case in cases:
        read = hashlib.sha256()
        for start, stop in parts(case, chunk, carry):
            part = span(case, start, stop)
            read.update(json.dumps([part["pairs"], part["ugc"]]).encode())
            beginnings.add(read.digest())
    return len(beginnings)


def parts(case: Case, chunk: int, carry: bool = True) -> list[tuple[int, int]]:
    """The first signal of each part that a case is read in, and the one after its last; one empty part if it has none.

    A part has at most `chunk` signals. A stream's own chunks are kept apart, so that its steps share their parts
    however large its chunks are. Without `carry` there is one part: the last chunk, of any size.
    """
    sizes = case["chunks"] or chunk_sizes(signal_count(case), chunk)
    last = sum(sizes)
    if not carry:
        return [(last - sizes[-1] if sizes else 0, last)]
    found = []
    start = 0
    for size in sizes:
        found += [(at, min(at + chunk, start + size)) for at in range(start, start + size, chunk)]
        start += size
    return found or [(0, 0)]
