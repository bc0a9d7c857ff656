"""Examples to train on: demonstrations for SFT, and plain ones for GRPO."""

from pathlib import Path

import polars as pl
from alignxplore import records


def demonstration(index: int, completion: str) -> dict:
    """A DEMONSTRATION row; the larger `index`, the longer its prompt."""
    pair = {"prompt": "A quick joke", "chosen": "likes humor " * index, "rejected": "a passport", "direction": [1] * 90}
    return {
        "example_id": f"e{index}", "user_id": f"u{index}", "prompt": "travel", "chosen": "humor", "rejected": "no",
        "direction": [1] * 90, "pairs": [pair], "ugc": [], "golden_preference": "", "rendered": "",
        **records.NO_STREAM,
        "past": "", "generation": 0, "completion": completion,
    }  # fmt: skip


def write_demonstrations(path: Path) -> Path:
    """Write six demonstrations of different lengths."""
    rows = [
        demonstration(i, f"<think>\n{'humor ' * (1 + 3 * i)}\n</think>\n<answer>\nlikes humor\n</answer>")
        for i in range(6)
    ]
    frame = pl.DataFrame(rows, schema=records.DEMONSTRATION)
    records.write(frame, path, records.DEMONSTRATION)
    return path


def write_examples(path: Path, suffix: str = "") -> Path:
    """Write three examples of different lengths. Those with another `suffix` are another user's and share no post."""
    pair = {"prompt": f"A quick joke{suffix}", "chosen": "likes humor", "rejected": "a passport", "direction": [1] * 90}
    example = {"user_id": f"u{suffix}", "prompt": f"travel{suffix}", "chosen": "humor", "rejected": "no",
               "direction": [1] * 90, "golden_preference": "", "rendered": "", **records.NO_STREAM}  # fmt: skip
    rows = [{**example, "example_id": f"e{i}", "pairs": [pair] * (1 + i), "ugc": []} for i in range(3)]
    records.write(pl.DataFrame(rows, schema=records.EXAMPLE), path, records.EXAMPLE)
    return path
