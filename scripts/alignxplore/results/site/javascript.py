"""How data reach the pages: as JavaScript files that call a function with them.

A page that is opened from disk may load scripts, but it may not fetch anything. So a file of data reads

    AX.setStudy([4,17,80],["alignxplore","no_rl"]);

and assets/data.js defines the functions that such files call. What is large, and not needed at once, is compressed:

    AX.addChunk(3,"eJyNWG1z27gR…");        JSON -> zlib -> base64
"""

import base64
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np

# With these escaped, no text can end a script, open a tag or break a line, wherever the file is read.
ESCAPES = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"})
COMPRESSION = 5
"""zlib's level: the next one takes twice the time for 4 % of the bytes."""
DENSE = 16
"""A posting with more than one in DENSE of all cases is written as a bitmap."""


def write_call(path: Path, function: str, *arguments: Any) -> None:
    """Write a script that calls `function` with JSON arguments; text in them stays text."""
    _write(path, function, ",".join(_json(argument).translate(ESCAPES) for argument in arguments))


def write_compressed(path: Path, function: str, number: int, value: Any) -> None:
    """Write a script that calls `function` with a number, and with JSON that `unpacked` in data.js reads."""
    packed = zlib.compress(_json(value).encode(), COMPRESSION)
    _write(path, function, f'{number},"{base64.b64encode(packed).decode("ascii")}"')


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _write(path: Path, function: str, arguments: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{function}({arguments});\n", encoding="utf-8")


def posting(numbers: np.ndarray, count: int) -> str:
    """Ascending case numbers below `count` as text: the shorter of two forms, more or less.

    few:   3 7 200      ->  "3,4,193"   the steps between them, in decimal
    many:  0 1 2 5 ...  ->  "!Jw=="     "!" and a bitmap in base64, case 0 in the lowest bit
    """
    if len(numbers) * DENSE < count:
        return ",".join(map(str, np.diff(numbers, prepend=0).tolist()))
    bits = np.zeros(count, dtype=np.uint8)
    bits[numbers] = 1
    return "!" + base64.b64encode(np.packbits(bits, bitorder="little").tobytes()).decode("ascii")
