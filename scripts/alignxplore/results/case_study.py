"""A case study (paper A.4): what several methods made of the same signals, side by side."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from alignxplore import records
from alignxplore.errors import UserError
from alignxplore.results.markdown import escape

CHOSEN = pl.Schema({"benchmark": pl.String(), "case_id": pl.String()})


def choose_cases(judgements: pl.DataFrame, methods: Sequence[str], count: int) -> list[str]:
    """The `count` cases, of those that all `methods` were judged on, on which the judge sees them furthest apart.

    Cases that some methods get right and some wrong come first, then those whose probabilities of the chosen
    response (mean of both orders) are furthest apart; ties go by case_id. `judgements` are one judge's on one
    benchmark.
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
    """The cases of a study (CHOSEN) and the study as Markdown.

    `labels` names the methods in their order; `wanted` is a number of cases, or their ids. Raises UserError where
    an id is unknown.
    """
    table = records.read(cases, records.CASE)
    benchmark = table["benchmark"][0] if table.height else ""
    said = _of_benchmark(preferences, records.PREFERENCE, benchmark)
    judged = _of_benchmark(judgements, records.JUDGEMENT, benchmark)
    ids = choose_cases(judged, list(labels), wanted) if isinstance(wanted, int) else list(wanted)
    rows = {row["case_id"]: row for row in table.iter_rows(named=True)}
    for case_id in ids:
        if case_id not in rows:
            raise UserError(f"config: case_study.cases: {cases} has no case {case_id!r}")
    text = markdown([rows[case_id] for case_id in ids], said, judged, labels)
    return pl.DataFrame([{"benchmark": benchmark, "case_id": case_id} for case_id in ids], schema=CHOSEN), text


def _of_benchmark(paths: Sequence[str | Path], schema: pl.Schema, benchmark: str) -> pl.DataFrame:
    tables = [records.read(path, schema).filter(pl.col("benchmark") == benchmark) for path in paths]
    return pl.concat([pl.DataFrame(schema=schema), *tables])


def markdown(
    cases: Sequence[Mapping[str, Any]], said: pl.DataFrame, judged: pl.DataFrame, labels: Mapping[str, str]
) -> str:
    """Signals, golden preference, responses, and each method's reasoning, description and judgement, case by case."""
    by_key = {(row["case_id"], row["method"]): row for row in said.iter_rows(named=True)}
    lines = ["# Case study", ""]
    for case in cases:
        lines += [f"## {escape(case['benchmark'])}, case {escape(case['case_id'])}", "", "### Signals", ""]
        for number, pair in enumerate(case["pairs"], 1):
            told = (("Post", pair["prompt"]), ("Chosen", pair["chosen"]), ("Rejected", pair["rejected"]))
            lines += _quoted(f"Signal {number}", told)
        for number, ugc in enumerate(case["ugc"], len(case["pairs"]) + 1):
            lines += _quoted(f"Signal {number}", (("Post", ugc["prompt"]), ("The user's comment", ugc["comment"])))
        lines += ["### The question", ""]
        asked = ("prompt", "chosen", "rejected", "golden_preference")
        lines += _quoted(
            "", zip(("Post", "Chosen", "Rejected", "Golden preference"), map(case.get, asked), strict=True)
        )
        for method, label in labels.items():
            row = by_key.get((case["case_id"], method))
            lines += [f"### {escape(label)}", ""]
            if row is None:
                lines += ["No description of this case.", ""]
                continue
            told = (("Reasoning", row["reasoning"]), ("Preference", row["preference"]), ("Ended", row["finish_reason"]))
            lines += _quoted("", ((name, text) for name, text in told if text))
        own = judged.filter(pl.col("case_id") == case["case_id"])
        lines += ["### Judgements", "", "| method | judge | p, chosen first | p, chosen second | verdict |"]
        lines += ["| --- | --- | --- | --- | --- |"]
        for method, label in labels.items():
            for row in own.filter(pl.col("method") == method).iter_rows(named=True):
                verdict = "right" if row["correct"] else "wrong"
                probabilities = f"{row['p_chosen_ab']:.3f} | {row['p_chosen_ba']:.3f}"
                lines.append(f"| {escape(label)} | {escape(row['judge'])} | {probabilities} | {verdict} |")
        lines.append("")
    return "\n".join(lines)


def _quoted(title: str, texts: Any) -> list[str]:
    lines = [f"#### {title}", ""] if title else []
    for name, text in texts:
        lines += [f"**{name}**", "", *(f"> {_line(line)}".rstrip() + "  " for line in text.splitlines() or [""]), ""]
    return lines


def _line(text: str) -> str:
    """A line as it is: Markdown makes code of what is indented by plain blanks."""
    kept = text.lstrip()
    return "\N{NO-BREAK SPACE}" * len(text[: len(text) - len(kept)].expandtabs(4)) + escape(kept)
