"""Splits of the refined examples into disjoint, balanced sets, whatever the order of rows."""

import hashlib
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence

import polars as pl

from alignxplore.errors import UserError
from alignxplore.records import EXAMPLE

log = logging.getLogger(__name__)


def split(refined: pl.DataFrame, sizes: Mapping[str, int], seed: int) -> dict[str, pl.DataFrame]:
    """Divide REFINED rows into one EXAMPLE table for each name in `sizes`, with that many rows.

    Names that end in "_ugc" take rows of form "ugc", others rows of form "pairs". All rows of a
    user go to one set. A user's set is drawn by a hash of seed and user, in proportion to the
    sizes, so new raw rows do not move the users that were there before; only a set that its own
    users cannot fill in balance takes users that no set needed. Within a set, rows go in hash
    order from those that lean to positive and those that lean to negative directions, such that
    the directions stay about 1:1. Raises UserError naming the set, and the wanted and available
    numbers, where there are too few.
    """
    forms = {name: "ugc" if name.endswith("_ugc") else "pairs" for name in sizes}
    rows = refined.select(
        "user_id",
        "example_id",
        "form",
        lean=pl.col("consistent").list.sum(),
        row=pl.int_range(pl.len()),
    ).rows(named=True)
    available: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        row["order"] = _order(seed, row["example_id"])
        available[row["user_id"]].add(row["form"])
    home = {}
    for user, own_forms in available.items():
        eligible = {name: size for name, size in sizes.items() if size and forms[name] in own_forms}
        if eligible:
            home[user] = _bucket(_order(seed, user), eligible)

    picked = {
        name: _balanced([row for row in rows if home.get(row["user_id"]) == name], forms[name], size)
        for name, size in sizes.items()
    }
    taken = {row["user_id"] for part in picked.values() for row in part}
    for name, size in sizes.items():
        if len(picked[name]) < size:
            own = {row["user_id"] for row in picked[name]}
            rest = [row for row in rows if row["user_id"] not in taken or row["user_id"] in own]
            picked[name] = _balanced(rest, forms[name], size, picked[name], fill=True)
            taken |= {row["user_id"] for row in picked[name]}
        if len(picked[name]) < size:
            raise UserError(
                f"split {name!r}: data.splits.{name} wants {size} examples with a history of"
                f" {forms[name]}, but only {len(picked[name])} are available for it out of"
                f" {sum(row['form'] == forms[name] for row in rows)} such refined examples"
            )
    result = {}
    for name, chosen in picked.items():
        chosen.sort(key=lambda row: row["order"])
        part = refined[[row["row"] for row in chosen]]
        _log_balance(name, part)
        result[name] = part.select(EXAMPLE.names())
    return result


def _balanced(
    candidates: list[dict], form: str, size: int, start: Sequence[dict] = (), fill: bool = False
) -> list[dict]:
    """Extend `start` to `size` rows, each the next in hash order that pulls the sum of signs to 0.

    Where no such row is left, stop, or with `fill` go on with the others.
    """
    used = {row["row"] for row in start}
    queue = [row for row in candidates if row["form"] == form and row["row"] not in used]
    queue.sort(key=lambda row: row["order"], reverse=True)
    up = [row for row in queue if row["lean"] > 0]
    down = [row for row in queue if row["lean"] <= 0]
    result = list(start)
    total = sum(row["lean"] for row in result)
    while len(result) < size and (up or down):
        if total == 0 and up and down:
            side = up if up[-1]["order"] < down[-1]["order"] else down
        else:
            side = up if total < 0 or (total == 0 and up) else down
        if not side:
            if not fill:
                break
            side = up or down
        result.append(side.pop())
        total += result[-1]["lean"]
    return result


def _order(seed: int, key: str) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed}:{key}".encode(), digest_size=8).digest())


def _bucket(number: int, sizes: Mapping[str, int]) -> str:
    """The name for `number`, a 64-bit hash, when its range is divided by the sizes."""
    point = number * sum(sizes.values()) >> 64
    for name, size in sizes.items():
        if point < size:
            return name
        point -= size
    raise AssertionError("the sizes cover the range")


def _log_balance(name: str, part: pl.DataFrame) -> None:
    signs = part["consistent"].list.explode()
    up, down = int((signs > 0).sum()), int((signs < 0).sum())
    level = logging.INFO if 0.45 * (up + down) <= up <= 0.55 * (up + down) else logging.WARNING
    log.log(level, "%s: %d examples; %d directions up, %d down", name, part.height, up, down)
