"""Preference descriptions of a method for the cases of its benchmarks, and their judgements."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl

from alignxplore.engines import Completion, Engine, Sampling
from alignxplore.formats import ANSWER_END, Parsed, parse_completion
from alignxplore.judging import Judge, is_correct, position_flip
from alignxplore.prompts import Prompt, Templates, signals_text

Result = tuple[Parsed, str, int, int]
"""What a method says of a case, its finish reason, and the tokens of prompt and completion."""


def given_preferences(kind: str, cases: pl.DataFrame, method: str) -> pl.DataFrame:
    """PREFERENCE rows of a method that asks no model: nothing, the raw signals, or the golden preference."""
    describe = {
        "none": lambda case: "",
        "signals": signals_text,
        "golden": lambda case: case["golden_preference"],
    }[kind]
    rows = list(cases.iter_rows(named=True))
    return preference_rows(rows, method, [(Parsed("", describe(case), True), "stop", 0, 0) for case in rows])


def model_preferences(
    engine: Engine,
    templates: Templates,
    cases: pl.DataFrame,
    method: str,
    entry: Mapping[str, Any],
    sampling: Sampling,
) -> pl.DataFrame:
    """PREFERENCE rows of a method whose `entry` names a model; all cases go to the engine at once."""
    rows = list(cases.iter_rows(named=True))
    reasons = entry["reasoning"]
    prompts = [templates.preference(case) if reasons else templates.concise(case) for case in rows]
    results: list[Result] = [
        (parsed, completion.finish_reason, completion.prompt_tokens, completion.completion_tokens)
        for completion, parsed in describe(engine, prompts, sampling, reasons)
    ]
    return preference_rows(rows, method, results)


def describe(
    engine: Engine, prompts: Sequence[Prompt], sampling: Sampling, reasons: bool = True
) -> list[tuple[Completion, Parsed]]:
    """What a model answers to prompts for a preference description, and r and d of each answer.

    A model that `reasons` is stopped where its answer ends.
    """
    if reasons:
        sampling = replace(sampling, stop=(ANSWER_END,))
    completions = engine.generate(prompts, sampling)
    return [(c, parse_completion(c.text, c.finish_reason, reasons)) for c in completions]


def preference_rows(cases: Sequence[Mapping[str, Any]], method: str, results: Sequence[Result]) -> pl.DataFrame:
    """PREFERENCE rows of what a method says of each case."""
    return pl.DataFrame(
        [
            {
                "case_id": case["case_id"],
                "benchmark": case["benchmark"],
                "method": method,
                "reasoning": parsed.reasoning,
                "preference": parsed.preference,
                "format_ok": parsed.format_ok,
                "finish_reason": finish_reason,
                "prompt_tokens": prompt_tokens,
                "completion_tokens": completion_tokens,
            }
            for case, (parsed, finish_reason, prompt_tokens, completion_tokens) in zip(cases, results, strict=True)
        ]
    )


def judge_preferences(judge: Judge, name: str, cases: pl.DataFrame, preferences: pl.DataFrame) -> pl.DataFrame:
    """JUDGEMENT rows: every preference against the target pair of its case, joined on benchmark and case_id."""
    key = ["benchmark", "case_id"]
    joined = preferences.join(cases.select(*key, "prompt", "chosen", "rejected"), on=key, how="inner")
    rows = list(joined.iter_rows(named=True))
    return judgement_rows(joined, name, judge.p_chosen(rows, [row["preference"] for row in rows]))


def judgement_rows(judged: pl.DataFrame, name: str, probabilities: np.ndarray) -> pl.DataFrame:
    """JUDGEMENT rows under the judge's name `name`, of `judged` rows with case_id, benchmark and method.

    `probabilities` (rows, 2) are those of the chosen response, shown first and second; NaN where it is unknown.
    """
    unparsed = np.isnan(probabilities)
    known = np.where(unparsed, 0.5, probabilities)
    return judged.select("case_id", "benchmark", "method").with_columns(
        judge=pl.lit(name),
        p_chosen_ab=pl.Series(known[:, 0], dtype=pl.Float64),
        p_chosen_ba=pl.Series(known[:, 1], dtype=pl.Float64),
        correct=pl.Series(is_correct(known)),
        position_flip=pl.Series(position_flip(probabilities)),
        unparsed=pl.Series(unparsed.sum(1), dtype=pl.Int8),
    )
