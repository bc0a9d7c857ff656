"""Streams of a few users: cases, descriptions by three kinds of methods, and verdicts."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from alignxplore import records

METHODS = [
    {"name": "updated", "label": "Updated", "kind": "model"},
    {"name": "whole", "label": "Whole history", "kind": "model"},
    {"name": "liked", "label": "Liked", "kind": "liked"},
]
USERS, CHUNKS, CHUNK, DRIFT = 30, 4, 2, 2
"""The preferences of benchmark `drifting` change after chunk DRIFT."""


HOSTILE = "<img src=x onerror=\"document.title='hit'\">"
TEXTS = (
    "",
    "Likes long walks and answers that come to the point.",
    f"Likes long walks, tea and answers that come to the point. {HOSTILE}",
    f"Likes tea, in the evening, and answers that come to the point. {HOSTILE}",
    "Likes answers that tell a story.",
)
"""The description after each number of chunks."""


def cases() -> pl.DataFrame:
    """Steps of the same users' streams in two benchmarks, and a case of each benchmark that is no step."""
    rows = []
    for benchmark in ("steady", "drifting"):
        for user in range(USERS):
            for chunks in range(CHUNKS + 1):
                turned = benchmark == "drifting" and chunks > DRIFT
                pairs = [
                    {"prompt": f"post {n}", "chosen": f"yes {n}", "rejected": f"no {n}", "direction": []}
                    for n in range(CHUNK * chunks)
                ]
                chosen, rejected = ("b", "a") if turned else ("a", "b")
                stream = {"stream": f"u{user}", "chunks": [CHUNK] * chunks} if chunks else records.NO_STREAM
                rows.append(
                    {"case_id": f"u{user}.{chunks}", "benchmark": benchmark, "dimension": "", "direction": [],
                     "pairs": pairs, "ugc": [], "prompt": f"post of u{user // 2}", "chosen": chosen,
                     "rejected": rejected, "golden_preference": f"likes {chosen}", "rendered": "", "profile": "",
                     **stream}
                )  # fmt: skip
    return pl.DataFrame(rows, schema=records.CASE)


def write(directory: Path) -> dict[str, list[str]]:
    """Write cases, preferences and judgements; returns the paths. Verdicts are random, worse after the drift."""
    rng = np.random.default_rng(3)
    paths: dict[str, list[str]] = {"cases": [], "preferences": [], "judgements": []}
    frame = cases().sample(fraction=1, shuffle=True, seed=5)
    for (benchmark,), own in frame.group_by("benchmark"):
        paths["cases"].append(str(directory / f"{benchmark}.parquet"))
        records.write(own, paths["cases"][-1], records.CASE)
    for method in METHODS:
        described: list[dict[str, Any]] = []
        judged: list[dict[str, Any]] = []
        for case in frame.to_dicts():
            chunks, names = len(case["chunks"]), {"case_id": case["case_id"], "benchmark": case["benchmark"]}
            skill = 0.6 + 0.1 * chunks if case["chosen"] == "a" else 0.3 * (chunks - DRIFT)
            correct = bool(rng.random() < skill)
            writes = method["kind"] == "model"
            # An update takes 100 tokens and one more per chunk before it; a whole history takes 40 a chunk.
            read = sum(100 + n for n in range(chunks)) if method["name"] == "updated" else 40 * chunks
            tokens = {"prompt_tokens": read if writes else 0, "completion_tokens": 7 * chunks if writes else 0}
            described.append(
                {**names, "method": method["name"], "reasoning": "", "preference": TEXTS[chunks],
                 "format_ok": True if writes else None, "finish_reason": "stop", **tokens}
            )  # fmt: skip
            judged.append(
                {**names, "method": method["name"], "judge": "jud", "p_chosen_ab": 0.9 if correct else 0.1,
                 "p_chosen_ba": 0.8 if correct else 0.2, "correct": correct, "position_flip": False, "unparsed": 0,
                 "format_ok": True if writes else None, "completion_tokens": tokens["completion_tokens"],
                 "target": case["prompt"]}
            )  # fmt: skip
        for kind, rows, schema in (
            ("preferences", described, records.PREFERENCE),
            ("judgements", judged, records.JUDGEMENT),
        ):
            path = directory / f"{kind}-{method['name']}.parquet"
            records.write(pl.DataFrame(rows), path, schema)
            paths[kind].append(str(path))
    return paths
