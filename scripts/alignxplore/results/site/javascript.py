"""How data reach the pages: as JavaScript files that call a function with them.

A page that is opened from disk may load scripts, but it may not fetch anything. So a file of data reads

    AX.setStudy([4,17,80],["alignxplore","no_rl"]);

and assets/data.js defines the functions that such files call. What is large, and not needed at once, is compressed:

    AX.addChunk(3,1830,"卷渴刀…");      JSON -> zlib, 1830 bytes -> 15 bits per character

The characters are U+5000 to U+CFFF, none of which needs an escape, in a file of UTF-16: 16 bytes hold 15, where base64
needs 20. Its byte order mark outranks what a page or a server says about the encoding.
"""

import base64
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

# With these escaped, no text can end a script, open a tag or break a line, wherever the file is read.
ESCAPES = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"})
COMPRESSION = 4
"""zlib's level: the next one takes 1.5 times as long for 4 % fewer bytes."""
BITS, FIRST = 15, 0x5000
"""Bits per character of packed data, and the character that stands for zero."""
DENSE = 16
"""A posting with more than one in DENSE of all cases is written as a bitmap."""


def write_call(path: Path, function: str, *arguments: Any) -> None:
    """Write a script that calls `function` with JSON arguments; text in them stays text."""
    _write(path, function, ",".join(_json(argument).translate(ESCAPES) for argument in arguments), "utf-8")


def write_compressed(path: Path, function: str, number: int, value: Any) -> None:
    """Write a script that calls `function` with a number, and with the JSON that `unpacked` in data.js reads."""
    data = zlib.compress(_json(value).encode(), COMPRESSION)
    _write(path, function, f'{number},{len(data)},"{packed(data)}"', "utf-16")


def packed(data: bytes) -> str:
    """Bytes as characters, BITS bits in each; the last one is filled up with zeros."""
    octets = np.frombuffer(data + bytes(3), dtype=np.uint8).astype(np.uint32)
    start = np.arange(0, 8 * len(data), BITS)
    three = (octets[:-2] << 16 | octets[1:-1] << 8 | octets[2:])[start // 8]
    values = three >> (24 - BITS - start % 8).astype(np.uint32) & (1 << BITS) - 1
    return (values + FIRST).astype("<u2").tobytes().decode("utf-16-le")


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _write(path: Path, function: str, arguments: str, encoding: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{function}({arguments});\n", encoding=encoding)


def postings(numbers: pl.Series, count: int) -> list[str]:
    """Lists of ascending case numbers below `count` as texts: for each the shorter of two forms, more or less.

    few:   3 7 200      ->  "3,4,193"   the steps between them, in decimal
    many:  0 1 2 5 ...  ->  "!Jw=="     "!" and a bitmap in base64, case 0 in the lowest bit
    """
    few = numbers.list.len() * DENSE < count
    steps = pl.element() - pl.element().shift(fill_value=0)
    short = numbers.filter(few).list.eval(steps).cast(pl.List(pl.String)).list.join(",")
    texts = {True: iter(short), False: (_bitmap(own, count) for own in numbers.filter(~few))}
    return [next(texts[form]) for form in few]


def _bitmap(numbers: pl.Series, count: int) -> str:
    bits = np.zeros(count, dtype=np.uint8)
    bits[numbers.to_numpy()] = 1
    return "!" + base64.b64encode(np.packbits(bits, bitorder="little").tobytes()).decode("ascii")
