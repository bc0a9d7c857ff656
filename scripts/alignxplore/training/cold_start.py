"""Cold-start data (paper 3.2): the teacher's generations, and D_cold, the ones that a judge verifies (Eq. 7)."""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from alignxplore.data.alignx import stable_hash
from alignxplore.engines import Engine, Sampling
from alignxplore.formats import Parsed, render_completion
from alignxplore.judging.reward import Reward
from alignxplore.methods.model import describe
from alignxplore.prompts import Templates


def generate(
    engine: Engine,
    templates: Templates,
    examples: pl.DataFrame,
    dimensions: Mapping[str, Sequence[str]],
    generations: int,
    sampling: Sampling,
    template: str = "preference",
    answer: str = "tags",
) -> pl.DataFrame:
    """GENERATION rows: `generations` reasoning chains and descriptions per example. A refused one is out of format.

    Each prompt lists the key dimensions of its example: `dimensions`, by example_id. `template` is asked, and `answer`
    says where the description is, as in `parse_completion`.
    """
    rows = list(examples.iter_rows(named=True))
    prompts = [
        templates.preference(row, dimensions[row["example_id"]], template) for row in rows for _ in range(generations)
    ]
    results = []
    for index, (completion, parsed) in enumerate(describe(engine, prompts, sampling, answer=answer)):
        results.append(
            {
                "example_id": rows[index // generations]["example_id"],
                "generation": index % generations,
                "completion": completion.text,
                "reasoning": parsed.reasoning,
                "preference": parsed.preference,
                "format_ok": parsed.format_ok,
                "finish_reason": completion.finish_reason,
                "prompt_tokens": completion.prompt_tokens,
                "completion_tokens": completion.completion_tokens,
            }
        )
    return pl.DataFrame(results)


def verify(
    reward: Reward, generations: pl.DataFrame, examples: pl.DataFrame, limit: int | None = None
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The generations with their `reward`, and D_cold: one row per generation with reward 1, with its example.

    If there are more than `limit` of these, a hash draws that many.

    D_cold's `completion` is the teacher's r and d in the canonical form. Its prompts will not list the key dimensions,
    because Eq. 8 conditions on the signals only.
    """
    cases: dict[str, dict[str, Any]] = {row["example_id"]: row for row in examples.iter_rows(named=True)}
    rows = list(generations.iter_rows(named=True))
    parsed = [Parsed(row["reasoning"], row["preference"], row["format_ok"]) for row in rows]
    rewards = reward(parsed, [cases[row["example_id"]] for row in rows])
    scored = generations.with_columns(reward=pl.Series(rewards, dtype=pl.Float64))
    completion = pl.struct("reasoning", "preference").map_elements(
        lambda row: render_completion(row["reasoning"], row["preference"]), return_dtype=pl.String
    )
    kept = scored.filter(pl.col("reward") == 1).select("example_id", "generation", completion=completion)
    if limit is not None:
        order = [
            stable_hash(f"{name} {number}") for name, number in kept.select("example_id", "generation").iter_rows()
        ]
        kept = kept.filter(pl.Series(order).rank("ordinal") <= limit)
    return scored, kept.join(examples, on="example_id", how="inner", maintain_order="left")
