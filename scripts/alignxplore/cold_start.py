"""The teacher's generations, of which cold-start data are made (paper 3.2)."""

from collections.abc import Mapping, Sequence

import polars as pl

from alignxplore.engines import Engine, Sampling
from alignxplore.inference import describe
from alignxplore.prompts import Templates


def generate(
    engine: Engine,
    templates: Templates,
    examples: pl.DataFrame,
    dimensions: Mapping[str, Sequence[str]],
    generations: int,
    sampling: Sampling,
) -> pl.DataFrame:
    """GENERATION rows: `generations` reasoning chains and descriptions for each example, given its key dimensions."""
    rows = list(examples.iter_rows(named=True))
    prompts = [templates.preference(row, dimensions[row["example_id"]]) for row in rows for _ in range(generations)]
    results = []
    for index, (completion, parsed) in enumerate(describe(engine, prompts, sampling)):
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
