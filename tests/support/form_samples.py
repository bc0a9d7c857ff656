"""A record of each form of given splits: those that docs/data.md shows, and raw AlignX and P-SOUPS."""

import copy
import json
import re
from pathlib import Path

import polars as pl
from alignx_samples import raw_record

PAGE = (Path(__file__).parents[2] / "docs/data.md").read_text()
PAIRS = "Pair-wise Comparative Feedback"
SHOWN = dict(
    zip(
        ("pairs", "streams", "published_streams", "rl", "cold_start", "test"),
        map(json.loads, re.findall(r"```json\n(.*?)```", PAGE, re.S)),
        strict=True,
    )
)
PERSONA = {
    "prompt": "p",
    "chosen": "c",
    "rejected": "r",
    "ground_truth_persona": "I like short answers",
    "profile": "x",
}
PUBLISHED_STREAM = SHOWN.pop("published_streams")
RECORDS = {
    **SHOWN,
    "alignx": raw_record("a"),
    "psoups": {**PERSONA, PAIRS: [{"prompt": "q", "chosen": "yes", "rejected": "no"}]},
}


def varied(form: str, number: int, **changes):
    """A record of a form whose target differs from others."""
    record = copy.deepcopy(RECORDS[form])
    places = {
        "pairs": lambda: record["target"],
        "streams": lambda: record["steps"][-1]["target"],
        "rl": lambda: record[0],
    }
    place = places.get(form, lambda: record)()
    post = {"pairs": "query", "streams": "query", "rl": "task"}.get(form, "prompt")
    place[post] += f" {number}"
    place.update(changes)
    return record


def write(path: Path, raws, kind="jsonl") -> str:
    if kind == "parquet":
        pl.DataFrame(raws, strict=False).write_parquet(path)
    elif kind == "json":
        path.write_text(json.dumps(raws))
    else:
        path.write_text("".join(json.dumps(raw) + "\n" for raw in raws))
    return str(path)
