"""Cold-start data (paper 3.2): the teacher's generations, and D_cold, the ones that a judge verifies (Eq. 7).

For streams, the teacher is asked step by step, and a verified description is the past of the next step:

    past ""  + chunk 1  ->  G generations  ->  verified on target 1  ->  the first of them is d_1
    past d_1 + chunk 2  ->  G generations  ->  none is verified          d_1 remains
    past d_1 + chunk 3  ->  ...
"""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from alignxplore.data.alignx import stable_hash
from alignxplore.engines import Engine, Sampling
from alignxplore.errors import UserError
from alignxplore.formats import Parsed, render_completion
from alignxplore.judging.reward import Reward
from alignxplore.methods.model import describe
from alignxplore.prompts import Prompt, Templates


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
    says where the description is, as in `parse_completion`. Examples with a `past` are steps of streams.
    """
    rows = list(examples.iter_rows(named=True))

    def prompt(row: Mapping[str, Any]) -> Prompt:
        hints = dimensions[row["example_id"]]
        if "past" in row:
            return templates.update(row, row["past"], hints, template)
        return templates.preference(row, hints, template)

    prompts = [asked for row in rows for asked in [prompt(row)] * generations]
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
    if "past" not in examples.columns:
        examples = examples.with_columns(past=pl.lit(""))
    return scored, _drawn(kept.join(examples, on="example_id", how="inner", maintain_order="left"), limit)


def generate_over_steps(
    engine: Engine,
    reward: Reward,
    templates: Templates,
    steps: pl.DataFrame,
    dimensions: Mapping[str, Sequence[str]],
    generations: int,
    sampling: Sampling,
    template: str = "update",
    answer: str = "tags",
    limit: int | None = None,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The same two tables for `steps` of streams. Each step is asked with the description of the steps before it.

    That is the first verified generation's. A step without one is left out, and the past stays as it was.
    """
    if (plain := steps.filter(pl.col("chunks").list.len() == 0)).height:
        raise UserError(
            f"cold_start.streaming: {plain.height} of {steps.height} examples are no steps of streams, such as"
            f" {plain['example_id'][0]}; name a split of streams"
        )
    past = dict.fromkeys(steps["stream"], "")
    scored, kept = [], []
    for _, step in sorted(steps.group_by(pl.col("chunks").list.len(), maintain_order=True)):
        step = step.with_columns(past=pl.Series([past[stream] for stream in step["stream"]], dtype=pl.String))
        found = generate(engine, templates, step, dimensions, generations, sampling, template, answer)
        verified = verify(reward, found, step)
        first = verified[0].filter(pl.col("reward") == 1).unique("example_id", keep="first")
        past |= first.join(step, on="example_id").select("stream", "preference").iter_rows()
        scored.append(verified[0])
        kept.append(verified[1])
    return pl.concat(scored), _drawn(pl.concat(kept), limit)


def _drawn(kept: pl.DataFrame, limit: int | None) -> pl.DataFrame:
    """At most `limit` of D_cold's rows, drawn by a hash."""
    if limit is None:
        return kept
    order = [stable_hash(f"{name} {number}") for name, number in kept.select("example_id", "generation").iter_rows()]
    return kept.filter(pl.Series(order).rank("ordinal") <= limit)
