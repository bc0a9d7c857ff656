"""Disjoint, balanced splits of refined examples, independent of the order of the rows; and what splits share."""

import hashlib
import logging
from collections.abc import Collection, Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import polars as pl

from alignxplore import records
from alignxplore.data.alignx import HISTORY_TEXTS
from alignxplore.errors import UserError
from alignxplore.records import DEMONSTRATION, EXAMPLE

log = logging.getLogger(__name__)


def split_keys(refined: pl.LazyFrame) -> pl.DataFrame:
    """What `split` needs to know about REFINED rows, without their texts.

    The columns are example_id, form, user_id, post (the target's prompt), signals (a hash of each interaction of the
    history), and up and down (the numbers of positive and negative consistent directions).
    """
    signals = pl.concat_list(
        pl.col(form).list.eval(pl.struct(pl.element().struct.field(*texts)).hash())
        for form, texts in HISTORY_TEXTS.items()
    )
    return refined.select(
        "example_id",
        "form",
        "user_id",
        post="prompt",
        signals=signals,
        up=pl.col("consistent").list.count_matches(1),
        down=pl.col("consistent").list.count_matches(-1),
    ).collect(engine="streaming")


def split(
    keys: pl.DataFrame,
    name: str,
    size: int,
    shares: Mapping[str, float],
    seed: int,
    balance: float,
    parent: tuple[str, int] | None = None,
) -> pl.DataFrame:
    """Choose the `size` rows of `split_keys` that form the split `name`. Returns (example_id, form) in order.

    A hash of the seed and the target post assigns each post to a split, in proportion to the shares, so new raw rows
    never move old ones. Splits whose names end in "_ugc" take rows of form "ugc", the others rows of form "pairs". If
    a user or signal occurs in several splits, it belongs to the last of them in `shares`, and the others drop their
    rows with it. So no split depends on the size of another. Rows are taken in hash order, except that positive and
    negative directions stay about 1:1.

    A split with a `parent`, the name and size of another split, has no share of its own. Its rows fell to the parent,
    which did not take them, and share no user, post or signal with those that it took. They are taken from the end of
    the hash order, so that a larger parent leaves most of them:

        parent  r r r r r r r . . . . . . h h h         r taken by the parent, h by this split

    Raises UserError if there are too few rows, or if the share of positive directions is further than `balance` from
    one half.
    """
    names = list(shares)
    source = parent[0] if parent else name
    owner: dict[tuple[str, str | int], int] = {}
    own = []
    for row in keys.iter_rows(named=True):
        home = _home(_order(seed, row["post"]), shares)
        if row["form"] != _form(home):
            continue
        marks = [("user", row["user_id"]), *(("signal", signal) for signal in row["signals"])]
        for mark in marks:
            owner[mark] = max(owner.get(mark, 0), names.index(home))
        if home == source:
            own.append({**row, "marks": marks, "order": _order(seed, row["example_id"])})
    free = [row for row in own if all(owner[mark] == names.index(source) for mark in row["marks"])]
    if parent:
        free = _rest(free, parent[1])
    chosen = _balanced(free, size)
    if len(chosen) < size:
        form = _form(source)
        found = f"data.splits.{name}.size: {size} examples are wanted, but only {len(free)} of the"
        if parent:
            raise UserError(
                f"{found} {len(own)} that fall to {source!r} share no user, post or signal with the {parent[1]} that it"
                " takes; add raw examples, or reduce one of the sizes"
            )
        raise UserError(
            f"{found} {(keys['form'] == form).sum()} with a history of {form} fall to this split and share no user or"
            " signal with another; add raw examples, reduce the size, or raise the share"
        )
    up, down = (sum(row[side] for row in chosen) for side in ("up", "down"))
    log.info("%s: %d examples; %d directions preferred, %d not", name, len(chosen), up, down)
    if up + down and abs(up / (up + down) - 0.5) > balance:
        raise UserError(
            f"data.splits.{name}: {up} of {up + down} directions are preferred ones, further from one half than"
            f" data.balance = {balance} allows; add raw examples or reduce the size of the split"
        )
    schema = {"example_id": pl.String, "form": pl.String}
    return pl.DataFrame([(row["example_id"], row["form"]) for row in chosen], schema, orient="row")


def take(refined: pl.LazyFrame, chosen: pl.DataFrame) -> pl.DataFrame:
    """The EXAMPLE rows that `split` chose, in its order."""
    found = refined.filter(pl.col("example_id").is_in(chosen["example_id"].implode())).collect(engine="streaming")
    return chosen.join(found, on=["example_id", "form"], how="left", maintain_order="left").select(EXAMPLE.names())


def read_split(path: str | Path) -> pl.DataFrame:
    """A split: EXAMPLE rows or, if it was given as demonstrations, DEMONSTRATION rows."""
    return records.read(path, DEMONSTRATION if "completion" in records.fields(path) else EXAMPLE)


def summary(splits: Mapping[str, pl.DataFrame], drawn: Collection[str]) -> pl.DataFrame:
    """One row per split: set, examples, users, preferred and non_preferred directions of its targets, and shares.

    `shares` says what the split shares with others; given splits may. Raises UserError if two of the `drawn` ones share
    a user, a target post, a rendered prompt, or an interaction of a history.
    """
    marks = {name: _marks(examples) for name, examples in splits.items()}
    shares: dict[str, list[str]] = {name: [] for name in splits}
    for first, second in combinations(splits, 2):
        found = _common(marks[first], marks[second])
        if not found:
            continue
        kind, values = next(iter(found.items()))
        if first in drawn and second in drawn:
            raise UserError(f"the splits {first!r} and {second!r} share a {kind}: {min(values)[:200]!r}")
        counts = _counted(found)
        log.warning("the splits %r and %r share %s; the first %s: %r", first, second, counts, kind, min(values)[:200])
        shares[first].append(f"{second}: {counts}")
        shares[second].append(f"{first}: {counts}")
    rows = []
    for name, examples in splits.items():
        signs = examples["direction"].list.explode(empty_as_null=False)
        counted = {"preferred": (signs > 0).sum(), "non_preferred": (signs < 0).sum()}
        users = {"examples": examples.height, "users": examples["user_id"].n_unique()}
        rows.append({"set": name, **users, **counted, "shares": "; ".join(shares[name])})
    return pl.DataFrame(rows)


def check_held_out(held_out: pl.DataFrame, trained: pl.DataFrame, name: str) -> None:
    """Raise UserError if two tables of examples share a user, a target post or a rendered prompt.

    A history may share single interactions: files of examples often do. That is a warning.
    """
    found = _common(_marks(held_out), _marks(trained))
    if found.keys() - {"history pair"}:
        raise UserError(f"{name} is not held out: it shares {_counted(found)} with the examples to train on")
    if found:
        log.warning("%s shares %s with the examples to train on", name, _counted(found))


def _common(first: Mapping[str, set[str]], second: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """The marks that two splits share, by kind."""
    found = {kind: values & second[kind] for kind, values in first.items()}
    return {kind: values for kind, values in found.items() if values}


def _counted(found: Mapping[str, set[str]]) -> str:
    return ", ".join(f"{len(values)} {kind}{'s' if len(values) > 1 else ''}" for kind, values in found.items())


def _marks(examples: pl.DataFrame) -> dict[str, set[str]]:
    """What no other drawn split may have, by kind."""
    history = {
        repr([item[text] for text in texts])
        for form, texts in HISTORY_TEXTS.items()
        for items in examples[form]
        for item in items
    }
    return {
        "user": set(examples["user_id"]),
        "target post": set(examples["prompt"]) - {""},
        "history pair": history,
        "rendered prompt": set(examples["rendered"]) - {""},
    }


def _rest(free: list[dict[str, Any]], size: int) -> list[dict[str, Any]]:
    """The rows that have nothing in common with the `size` rows that their split takes, in reverse hash order."""
    taken = _balanced(free, size)
    common = {mark for row in taken for mark in [*row["marks"], ("post", row["post"])]}
    apart = [row for row in free if common.isdisjoint([*row["marks"], ("post", row["post"])])]
    return [{**row, "order": -row["order"]} for row in apart]


def _balanced(candidates: list[dict[str, Any]], size: int) -> list[dict[str, Any]]:
    """Up to `size` rows in hash order, each from the side that brings the sum of signs closer to 0, if it has any."""
    queue = sorted(candidates, key=lambda row: row["order"], reverse=True)
    up = [row for row in queue if row["up"] > row["down"]]
    down = [row for row in queue if row["up"] <= row["down"]]
    result: list[dict[str, Any]] = []
    total = 0
    while len(result) < size and (up or down):
        if total == 0 and up and down:
            side = up if up[-1]["order"] < down[-1]["order"] else down
        else:
            side = (up or down) if total < 0 else (down or up)
        result.append(side.pop())
        total += result[-1]["up"] - result[-1]["down"]
    return sorted(result, key=lambda row: row["order"])


def _order(seed: int, key: str) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed}:{key}".encode(), digest_size=8).digest())


def _form(name: str) -> str:
    return "ugc" if name.endswith("_ugc") else "pairs"


def _home(number: int, shares: Mapping[str, float]) -> str:
    """The split that a 64-bit hash falls to, if the range of hashes is divided by the shares."""
    point = number / 2**64 * sum(shares.values())
    for name, share in shares.items():
        if point < share:
            return name
        point -= share
    return list(shares)[-1]
