"""Cases for tests of methods, and the templates that the baselines of Table 2 render."""

from pathlib import Path

import polars as pl
import pytest
from alignxplore import records
from alignxplore.data.psoups import Signals, read_psoups
from alignxplore.data.wording import Wording
from alignxplore.engines import Sampling
from alignxplore.prompts import Templates

ROOT = Path(__file__).parents[2]
PUBLISHED = ROOT.parent / "shared/data/p_soups/style.json"
NAMES = ("judge", "propose_rule", "refine_rule", "score_dimension")
TEMPLATES = Templates(**{name: ROOT / f"resources/prompts/{name}.jinja" for name in NAMES})
WORDING = Wording.load(ROOT / "resources/wording.csv")
SAMPLING = Sampling(temperature=0.9, top_p=0.95, top_k=10, max_new_tokens=12, seed=7)

needs_published = pytest.mark.skipif(
    not PUBLISHED.exists(), reason=f"THE PUBLISHED P-SOUPS FILE IS NOT THERE: {PUBLISHED}"
)


def pair(chosen: str) -> dict:
    return {
        "prompt": f"post of {chosen}",
        "chosen": chosen,
        "rejected": f"anything but {chosen}",
        "direction": [0] * 90,
    }


def cases(*histories: list[str], ugc: tuple[str, ...] = ()) -> pl.DataFrame:
    """One case per history; a history lists the chosen responses of its pairs."""
    comments = [{"prompt": "post", "comment": text, "direction": [0] * 90} for text in ugc]
    common = {"benchmark": "b", "dimension": "", "direction": [0] * 90, "ugc": comments, "golden_preference": "",
              "rendered": "", "profile": "", **records.NO_STREAM}  # fmt: skip
    target = {"prompt": "p", "chosen": "c", "rejected": "r"}
    rows = [
        {"case_id": str(number), **common, "pairs": [pair(chosen) for chosen in history], **target}
        for number, history in enumerate(histories)
    ]
    return pl.DataFrame(rows, schema=records.CASE)


def published_cases() -> pl.DataFrame:
    """Three cases with four signals each from the published P-SOUPS file."""
    rows = read_psoups(PUBLISHED, "style", "friendly, witty", Signals(4, seed=1))[:3]
    return pl.DataFrame(
        [{"benchmark": "psoups_style", "dimension": "style", **row} for row in rows], schema=records.CASE
    )


def written(preferences: pl.DataFrame, path: Path) -> list[dict]:
    """The rows, after a check against the record contract."""
    records.write(preferences, path / "preferences.parquet", records.PREFERENCE)
    return preferences.to_dicts()
