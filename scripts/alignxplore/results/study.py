"""The case study (paper A.4): which cases it shows, and several methods side by side on each, as Markdown."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from alignxplore import records
from alignxplore.errors import UserError
from alignxplore.results.markdown import escape, table_lines

CHOSEN = pl.Schema({"benchmark": pl.String(), "case_id": pl.String()})
"""The cases of a study."""


def choose_cases(judgements: pl.DataFrame, methods: Sequence[str], count: int) -> list[str]:
    """The ids of the `count` cases on which one judge sees the methods furthest apart, among those all were judged on.

    Cases that some methods get right and others wrong come first. Within each group, cases are ordered by how far apart
    the methods' probabilities of the chosen response (mean over both orders) are, then by id. `judgements` are one
    judge's on one benchmark.
    """
    spread = pl.col("p").max() - pl.col("p").min()
    differ = pl.col("correct").any() & ~pl.col("correct").all()
    ranked = (
        judgements.filter(pl.col("method").is_in(methods))
        .with_columns(p=(pl.col("p_chosen_ab") + pl.col("p_chosen_ba")) / 2)
        .group_by("case_id")
        .agg(differ=differ, spread=spread, methods=pl.col("method").n_unique())
        .filter(pl.col("methods") == len(methods))
        .sort("differ", "spread", "case_id", descending=[True, True, False])
    )
    return ranked["case_id"].head(count).to_list()


def case_study(
    cases: str | Path,
    preferences: Sequence[str | Path],
    judgements: Sequence[str | Path],
    labels: Mapping[str, str],
    wanted: int | Sequence[str],
) -> tuple[pl.DataFrame, str]:
    """The cases of the study (CHOSEN) and the study as Markdown.

    `labels` maps the methods, in their order, to their labels. `wanted` is a number of cases or their ids. Raises
    UserError if an id is unknown.
    """
    table = records.read(cases, records.CASE)
    benchmark = table["benchmark"][0] if table.height else ""
    described = _of_benchmark(preferences, records.PREFERENCE, benchmark)
    judged = _of_benchmark(judgements, records.JUDGEMENT, benchmark)
    ids = choose_cases(judged, list(labels), wanted) if isinstance(wanted, int) else list(wanted)
    rows = {row["case_id"]: row for row in table.iter_rows(named=True)}
    for case_id in ids:
        if case_id not in rows:
            raise UserError(f"config: case_study.cases: {cases} has no case {case_id!r}")
    text = markdown([rows[case_id] for case_id in ids], described, judged, labels)
    return pl.DataFrame([{"benchmark": benchmark, "case_id": case_id} for case_id in ids], schema=CHOSEN), text


def _of_benchmark(paths: Sequence[str | Path], schema: pl.Schema, benchmark: str) -> pl.DataFrame:
    tables = [records.read(path, schema).filter(pl.col("benchmark") == benchmark) for path in paths]
    return pl.concat([pl.DataFrame(schema=schema), *tables])


def markdown(
    cases: Sequence[Mapping[str, Any]], described: pl.DataFrame, judged: pl.DataFrame, labels: Mapping[str, str]
) -> str:
    """For each case: signals, golden preference, responses, and each method's reasoning, description and judgement."""
    by_key = {(row["case_id"], row["method"]): row for row in described.iter_rows(named=True)}
    question = {"Post": "prompt", "Chosen": "chosen", "Rejected": "rejected", "Golden preference": "golden_preference"}
    lines = ["# Case study", ""]
    for case in cases:
        lines += [f"## {escape(case['benchmark'])}, case {escape(case['case_id'])}", "", "### Signals", ""]
        lines += _signals(case)
        lines += ["### The question", "", *_quoted((name, case[field]) for name, field in question.items())]
        for method, label in labels.items():
            lines += [f"### {escape(label)}", "", *_description(by_key.get((case["case_id"], method)))]
        lines += ["### Judgements", "", *_judgements(judged.filter(pl.col("case_id") == case["case_id"]), labels), ""]
    return "\n".join(lines)


def _signals(case: Mapping[str, Any]) -> list[str]:
    shown = [
        [("Post", pair["prompt"]), ("Chosen", pair["chosen"]), ("Rejected", pair["rejected"])] for pair in case["pairs"]
    ]
    shown += [[("Post", ugc["prompt"]), ("The user's comment", ugc["comment"])] for ugc in case["ugc"]]
    shown += [[("Prompt", case["rendered"])]] if case["rendered"] else []
    return [line for number, texts in enumerate(shown, 1) for line in (f"#### Signal {number}", "", *_quoted(texts))]


def _description(row: Mapping[str, Any] | None) -> list[str]:
    if row is None:
        return ["This method writes no description.", ""]
    written = {"Reasoning": "reasoning", "Preference": "preference", "Finish reason": "finish_reason"}
    return _quoted((name, row[field]) for name, field in written.items() if row[field])


def _judgements(judged: pl.DataFrame, labels: Mapping[str, str]) -> list[str]:
    rows = [
        [
            escape(label),
            escape(row["judge"]),
            f"{row['p_chosen_ab']:.3f}",
            f"{row['p_chosen_ba']:.3f}",
            "right" if row["correct"] else "wrong",
        ]
        for method, label in labels.items()
        for row in judged.filter(pl.col("method") == method).iter_rows(named=True)
    ]
    return table_lines(["method", "judge", "p, chosen first", "p, chosen second", "verdict"], rows)


def _quoted(texts: Iterable[tuple[str, str]]) -> list[str]:
    """Named texts as block quotes, with every line break kept."""
    lines: list[str] = []
    for name, text in texts:
        lines += [f"**{name}**", "", *(f"> {_line(line)}".rstrip() + "  " for line in text.splitlines() or [""]), ""]
    return lines


def _line(text: str) -> str:
    """A line with its indentation as no-break spaces: Markdown would read plain ones as a code block."""
    kept = text.lstrip()
    return "\N{NO-BREAK SPACE}" * len(text[: len(text) - len(kept)].expandtabs(4)) + escape(kept)
