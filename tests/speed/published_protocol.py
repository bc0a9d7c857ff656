"""What the protocol of the published figures changes, on a P-SOUPS file: accuracy by ours and by theirs.

The same judge decides the same cases under the same descriptions. Theirs shows one order, samples once, and takes
descriptions by the post's text, so that of several cases with one post the last one's description is used for all:

    python tests/speed/published_protocol.py FILE POSITIVE MODEL [CASES]
"""

import sys
from pathlib import Path

from alignxplore import engines
from alignxplore.data.benchmarks import psoups_cases, sample
from alignxplore.data.psoups import Signals
from alignxplore.engines import Sampling
from alignxplore.judging.judge import Judge, is_correct
from alignxplore.methods.given import GIVEN
from alignxplore.prompts import Templates

TEMPLATES = Path(__file__).parents[2] / "resources/prompts/paper"
DESCRIPTIONS = ("golden", "liked")


def main(file: str, positive: str, model: str, limit: str = "600") -> None:
    """Print how many descriptions the look-up exchanges, and a row per kind of description."""
    cases = psoups_cases(file, "psoups", "dimension", positive, Signals(4, 1))
    last = {row["prompt"]: row for row in cases.iter_rows(named=True)}
    rows = list(sample(cases, int(limit)).iter_rows(named=True))
    found = [last[row["prompt"]] for row in rows]
    another = sum(row["case_id"] != other["case_id"] for row, other in zip(rows, found, strict=True))
    opposite = sum(row["direction"] != other["direction"] for row, other in zip(rows, found, strict=True))
    print(
        f"{len(rows)} cases; the look-up gives {another} another case's description, {opposite} the opposite persona's"
    )
    engine = engines.load({"engine": "transformers", "path": model})
    templates = Templates(judge=TEMPLATES / "judge.jinja")
    judges = {
        "ours": Judge("jud", engine, templates),
        "theirs": Judge("published", engine, templates, Sampling(1.0, 1.0, 0, 128, seed=1)),
    }
    print("description  looked up    ours  theirs  of these unparsed")
    for kind in DESCRIPTIONS:
        for looked_up, sources in (("by case", rows), ("by post", found)):
            p = {name: judge.p_chosen(rows, [GIVEN[kind](row) for row in sources]) for name, judge in judges.items()}
            ours, theirs = (100 * is_correct(p[name]).mean() for name in judges)
            unparsed = 100 * (p["theirs"] != p["theirs"]).any(1).mean()
            print(f"{kind:11}  {looked_up:9}  {ours:6.1f}  {theirs:6.1f}  {unparsed:.1f}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
