"""Records of a small run, some with hostile text that tries to run or to break the markup, for the report's tests."""

import csv
import json
import zlib
from pathlib import Path
from typing import Any

import polars as pl
from alignxplore import records
from alignxplore.results.site.explorer import Sources
from alignxplore.results.site.pages import Inputs, Result
from alignxplore.training.metrics import GRPO_METRICS, SFT_METRICS

HOSTILE = (
    "<script>document.title='hit'</script></script><img src=x onerror=\"document.title='hit'\">\u2028\u2029"
    "<a href=\"javascript:document.title='hit'\">javascript:document.title='hit'</a> ${document.title='hit'} "
    "'\"` {{ 7 * 7 }} \\u003c/script> ]]> <!-- & &lt;b&gt;"
)
LABELS = {"null": "Null", "backbone": "Backbone", "alignxplore": f"AlignXplore {HOSTILE}", "vpl": "VPL"}
JUDGES = ("judge", "gen")
CASES = {"alignx_test": 90, "psoups_style": 30}
STUDY = ["case-7", "case-3"]


def case(benchmark: str, number: int) -> dict:
    pair = {"prompt": f"signal post {number}", "chosen": "short", "rejected": "long", "direction": [1]}
    ugc = {"prompt": "what did you say", "comment": f"my own comment {number}", "direction": [1]}
    soups = benchmark.startswith("psoups")
    hostile = number == 5
    return {
        "case_id": f"case-{number}",
        "benchmark": benchmark,
        "dimension": "style" if soups else "",
        "direction": [-1] if soups else [0, 1, -1] + [0] * 87,
        "pairs": [] if soups else [{**pair, "prompt": HOSTILE}] if hostile else [pair] * 4,
        "ugc": [ugc] * 3 if soups else [],
        "prompt": f"Post number {number} about ünïcode Ｆｕｌｌ and 猫"
        if number == 4
        else HOSTILE
        if hostile
        else f"Post {number}",
        "chosen": HOSTILE if hostile else f"chosen response {number}",
        "rejected": f"rejected response {number}",
        "golden_preference": HOSTILE if hostile else "likes brevity",
        "rendered": HOSTILE if hostile else "",
        "profile": "",
        **records.NO_STREAM,
    }


def correct(method: str, judge: str, number: int) -> bool:
    """Whether a method is right on a case; methods and judges differ."""
    return number % (2 + list(LABELS).index(method) + JUDGES.index(judge)) == 0


def write_records(directory: Path, labels=LABELS) -> Sources:
    """Write Parquet files of every kind below `directory`, with their rows in another order than the cases."""
    keys = [(benchmark, number) for benchmark, count in CASES.items() for number in range(count)]
    cases = []
    for benchmark, count in CASES.items():
        path = directory / f"data/cases/{benchmark}.parquet"
        rows = [case(benchmark, number) for number in range(count)]
        records.write(pl.DataFrame(rows, schema=records.CASE), path, records.CASE)
        cases.append(path)

    def rows_of(path: str, schema: pl.Schema, rows: list[dict]) -> Path:
        records.write(pl.DataFrame(rows[::-1], schema=schema), directory / path, schema)
        return directory / path

    preferences = [
        rows_of(
            f"results/preferences/{method}.parquet",
            records.PREFERENCE,
            [
                {
                    "case_id": f"case-{number}",
                    "benchmark": benchmark,
                    "method": method,
                    "reasoning": HOSTILE
                    if number == 5
                    else f"{method} reasons of {benchmark} {number}: unicorn{number}",
                    "preference": HOSTILE if number == 5 else f"{method} describes {number}",
                    "format_ok": True,
                    "finish_reason": "length" if number == 2 else "stop",
                    "prompt_tokens": 10,
                    "completion_tokens": 20,
                }
                for benchmark, number in keys
            ],
        )
        for method in ("null", "backbone", "alignxplore")
    ]
    judgements = [
        rows_of(
            f"results/judgements/{judge}/{method}.parquet",
            records.JUDGEMENT,
            [
                {
                    "case_id": f"case-{number}",
                    "benchmark": benchmark,
                    "method": method,
                    "judge": judge,
                    "p_chosen_ab": 0.75 if correct(method, judge, number) else 0.25,
                    "p_chosen_ba": float("nan") if number == 8 else number / 100,
                    "correct": correct(method, judge, number),
                    "position_flip": number == 1,
                    "unparsed": 0,
                    "format_ok": None if method == "vpl" else True,
                    "completion_tokens": 20,
                    "target": f"{benchmark} {number}",
                }
                for benchmark, number in keys
                if judge == "judge" or benchmark == "alignx_test"
            ],
        )
        for judge in JUDGES
        for method in LABELS
    ]
    compared = {"case_id": "case-7", "benchmark": "alignx_test"}
    responses = [
        rows_of(
            f"results/responses/{method}.parquet",
            records.RESPONSE,
            [{**compared, "method": method, "response": f"written by {method}", "finish_reason": "stop"}],
        )
        for method in ("backbone", "alignxplore")
    ]
    rest = {"position_flip": False, "unparsed": 0, "target": "alignx_test 7"}
    win = {**compared, "judge": "judge", "p_a_ab": 0.1, "p_a_ba": 0.2, **rest}
    wins = rows_of(
        "results/wins/backbone/alignxplore.parquet",
        records.WIN,
        [{**win, "method_a": "backbone", "method_b": "alignxplore", "outcome": "b"}],
    )
    return Sources(cases, preferences, judgements, labels, {1: "Gender", 2: "Humour"}, responses, [wins])


def provenance_row(output: str, rule: str, inputs: list[str], **more) -> dict:
    asked = {"model": "models/m", "asked": 5, "from_journal": 2, "prompt_tokens": 100, "completion_tokens": 50}
    encoded = {
        "wildcards": {"table": "table2"},
        "config": {"seed": 1, "note": HOSTILE},
        "inputs": dict.fromkeys(inputs, "0" * 64),
        "models": [{"path": "models/m", "revision": "abc"}],
        "versions": {"torch": "2.13.0"},
        "account": [{**asked, "seconds": 2.0, "cost": 0.25}],
    }
    return {
        "output": output,
        "rule": rule,
        "seed": 1,
        "sha256": "f" * 64,
        "rows": None,
        "commit": "0123456789abcdef+dirty",
        "started": "2026-11-24T06:12:00Z",
        "seconds": 10.0,
        **{name: json.dumps(value) for name, value in encoded.items()},
        **more,
    }


def write_provenance(path: Path, rows: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pl.DataFrame(rows, schema=records.PROVENANCE).write_parquet(path)
    return path


def metrics(schema: pl.Schema, level: float) -> pl.DataFrame:
    """Metrics of 30 steps; every tenth step is followed by an evaluation, and there is no reference model."""
    changing = [
        name for name in ("loss", "reward", "completion_length", "entropy", "held_out_reward") if name in schema
    ]
    rows = [
        {**dict.fromkeys(schema, level), **{name: level + step / 100 for name in changing}, "step": step}
        for step in range(1, 31)
    ]
    for row in rows:
        row.update({name: None for name in row if name.startswith("held_out") and row["step"] % 10})
        row.update({name: float("nan") for name in row if name == "kl"})
    return pl.DataFrame(rows, schema=schema)


def write_rollouts(path: Path) -> None:
    """Groups of four rollouts for each of 30 steps, and evaluations after every tenth; some texts are hostile."""
    rows = []
    for step in range(1, 31):
        for number in range(8):
            text = HOSTILE if number == 1 else f"step {step} describes {number}: likes brevity and a dry joke"
            thought = HOSTILE if number == 1 else f"step {step} reasons of {number}. " + "Putting it together. " * 9
            rows.append(
                {
                    "step": step,
                    "held_out": False,
                    "example_id": f"{number // 4:016x}",
                    "completion": text,
                    "reasoning": thought,
                    "preference": text,
                    "format_ok": number != 2,
                    "finish_reason": "length" if number == 2 else "stop",
                    "completion_tokens": 90 + number,
                    "reward": float(number % 2),
                    "advantage": number % 2 - 0.5,
                }  # fmt: skip
            )
        if step % 10 == 0:
            rows += [
                {**row, "held_out": True, "example_id": f"f{i}", "advantage": None} for i, row in enumerate(rows[-3:])
            ]
    records.write(pl.DataFrame(rows, schema=records.ROLLOUT), path, records.ROLLOUT)


def sample_inputs(directory: Path) -> Inputs:
    """Write everything that a site shows below `directory`."""
    sources = write_records(directory)
    results = directory / "results"
    header = "method,column,n,percent,low,high,p_value,mark,paper,mcnemar_holm,position_flip,ties,unparsed"
    (results / "table2.csv").write_text(
        f"{header}\n"
        "Null,alignx_test,90,51.00,44.00,57.50,0.000002,*,51.37,0.00001,4.44,0.0,0.0\n"
        'Null,"a, column",90,9.25,1.00,17.50,,,,,0.0,0.0,0.0\n'
        "VPL,alignx_test,90,75.50,70.00,80.00,,best,,,0.0,0.0,0.0\n"
        'VPL,"a, column",90,,,,,,,,0.0,100.0,0.0\n'
        f'"{HOSTILE.replace(chr(34), chr(34) * 2)}",alignx_test,90,60.00,50.00,70.00,0.5,,50.00,1.0,0.0,0.0,0.0\n'
        '"AlignXplore","a, column",90,100.00,100.00,100.00,,,,,0.0,0.0,0.0\n',
        encoding="utf-8",
    )
    (results / "table1.csv").write_text("benchmark,n,in_domain\nalignx_test,90,true\npsoups_style,1000,false\n")
    (results / "figure2.svg").write_text(
        "<svg xmlns='http://www.w3.org/2000/svg' width='300' height='200' onload=\"parent.document.title='hit'\">"
        "<script>parent.document.title='hit'</script><rect width='300' height='200' fill='teal'/></svg>"
    )
    points = [("Null", x, "" if x % 12 == 0 else f"{x * 37 % 100 / 100}") for x in range(24)]
    points.append((HOSTILE, 24, "-1.5"))
    with (results / "figure2.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("panel", "series", "x", "accuracy"), *(("judge", *point) for point in points)])
    for name, table in (("alignxplore", metrics(GRPO_METRICS, 0.2)), ("no_rl", metrics(SFT_METRICS, 0.3))):
        path = results / f"training/{name}.parquet"
        path.parent.mkdir(exist_ok=True)
        table.write_parquet(path)
    write_rollouts(results / "rollouts/alignxplore.parquet")
    (results / "funnel.csv").write_text("step,rows,lost\nraw records,12,0\npairs: clear,9,3\n")
    (results / "splits.csv").write_text("set,examples\ncold,320\n")
    rejects = pl.DataFrame(
        {"source": ["a"] * 2, "line": [1, 2], "field": ["prompt"] * 2, "reason": [HOSTILE] * 2}, schema=records.REJECT
    )
    records.write(rejects, directory / "data/rejects.parquet", records.REJECT)
    table2, figure2 = str(results / "table2.csv"), str(results / "figure2.svg")
    judged = str(results / "judgements/judge/null.parquet")
    provenance = write_provenance(
        results / "provenance.parquet",
        [
            provenance_row(table2, "table_accuracy", [judged, "scripts/alignxplore/results/tables.py"]),
            provenance_row(figure2, "figure_training", ["models/trained/alignxplore/model.safetensors"]),
            provenance_row(judged, "judgements", ["models/trained/alignxplore"]),
            provenance_row("models/trained/alignxplore", "grpo", [], commit=None, started=None, seed=None),
        ],
    )
    study = {
        "methods": ["backbone", "alignxplore"],
        "cases": [{"benchmark": "alignx_test", "case_id": one} for one in STUDY],
    }
    (results / "case_study.json").write_text(json.dumps(study))
    caption = Path("resources/report/accuracy.rst")
    return Inputs(
        tables=[
            Result("table1", "Table 1: benchmarks", results / "table1.csv"),
            Result("table2", f"Table 2: {HOSTILE}", results / "table2.csv", caption),
        ],
        figures=[Result("figure2", "Figure 2: reward", results / "figure2.svg")],
        points={"figure2": results / "figure2.csv"},
        metrics={name: results / f"training/{name}.parquet" for name in ("alignxplore", "no_rl")},
        rollouts={"alignxplore": results / "rollouts/alignxplore.parquet"},
        funnel=results / "funnel.csv",
        splits=results / "splits.csv",
        rejects=[directory / "data/rejects.parquet"],
        provenance=provenance,
        sources=sources,
        study=results / "case_study.json",
    )


def called(path: Path, encoding: str = "utf-8") -> list:
    """The arguments of the function call in a data file."""
    text = path.read_text(encoding=encoding)
    return json.loads(f"[{text[text.index('(') + 1 : text.rindex(')')]}]")


def compressed(path: Path) -> tuple[int, Any]:
    """The number and the value in a file of compressed data."""
    number, size, text = called(path, "utf-16")
    bits = "".join(f"{ord(character) - 0x5000:015b}" for character in text)
    return number, json.loads(zlib.decompress(int(bits[: 8 * size], 2).to_bytes(size, "big")))
