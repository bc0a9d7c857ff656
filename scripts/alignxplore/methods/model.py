"""Preference descriptions written by a language model (Eq. 1)."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import polars as pl

from alignxplore.data.benchmarks import check_signals
from alignxplore.engines import Completion, Engine, Sampling
from alignxplore.formats import ANSWER_END, Parsed, parse_completion
from alignxplore.methods.descriptions import Description, preference_rows
from alignxplore.methods.streaming import streamed
from alignxplore.prompts import Prompt, Templates


def model_preferences(
    engine: Engine,
    templates: Templates,
    cases: pl.DataFrame,
    method: str,
    entry: Mapping[str, Any],
    sampling: Sampling,
) -> pl.DataFrame:
    """PREFERENCE rows of a method whose config `entry` names a model.

    The engine is asked about all cases at once or, with `streaming`, about one chunk of all cases at a time. Raises
    UserError if signals to be streamed are a rendered prompt.
    """
    rows = list(cases.iter_rows(named=True))
    reasons, answer = entry["reasoning"], entry.get("answer", "tags")
    if "streaming" in entry:
        check_signals(cases, f"methods.{method}.streaming")
        template = entry.get("prompt", "update")
        updates = streamed(
            lambda prompts: describe(engine, prompts, sampling, reasons, answer),
            lambda case, past: templates.preference(case, template=template, past=past),
            rows,
            **entry["streaming"],
        )
        return preference_rows(rows, method, updates)
    template = entry.get("prompt", "preference" if reasons else "concise")
    prompts = [templates.preference(case, template=template) for case in rows]
    descriptions = [
        Description(parsed, completion.finish_reason, completion.prompt_tokens, completion.completion_tokens)
        for completion, parsed in describe(engine, prompts, sampling, reasons, answer)
    ]
    return preference_rows(rows, method, descriptions)


def describe(
    engine: Engine, prompts: Sequence[Prompt], sampling: Sampling, reasons: bool = True, answer: str = "tags"
) -> list[tuple[Completion, Parsed]]:
    """A model's completion for each prompt, with its reasoning r and description d.

    If the model `reasons` and then gives its `answer` in tags, generation stops at the end of the answer block.
    """
    if reasons and answer == "tags":
        sampling = replace(sampling, stop=(ANSWER_END,))
    completions = engine.generate(prompts, sampling)
    return [(c, parse_completion(c.text, c.finish_reason, reasons, answer)) for c in completions]
