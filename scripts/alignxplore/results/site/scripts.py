"""Data as JavaScript files: pages that are opened from disk may load scripts, but fetch nothing."""

import json
from pathlib import Path
from typing import Any

# None of these can end a script, open a tag or end a line, wherever the file is read.
ESCAPES = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"})


def write_call(path: Path, function: str, *arguments: Any) -> None:
    """Write a script that calls `function` with JSON arguments; text in them stays text."""
    told = ",".join(
        json.dumps(argument, ensure_ascii=False, allow_nan=False, separators=(",", ":")).translate(ESCAPES)
        for argument in arguments
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{function}({told});\n", encoding="utf-8")
