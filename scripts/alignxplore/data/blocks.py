"""Raw files a block at a time: most records are checked in compiled code, and whatever looks odd is read exactly."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import getitem
from typing import Any

import msgspec
import numpy as np
import polars as pl

from alignxplore.data.alignx import (
    APART,
    DIRECTION_KEY,
    FORM_KEYS,
    FORMS,
    HISTORIES_APART,
    PAIRS_KEY,
    RAW_TEXTS,
    SIGNS,
    UGC_KEY,
    BadRecord,
    json_problem,
    parse_example,
    stable_hash,
    texts_of,
)
from alignxplore.data.signs import sign_words, word_signs
from alignxplore.data.sources import LONGEST_RECORD, Piece, read_json, read_parquet
from alignxplore.records import DIRECTION, N_DIMENSIONS

NOT_BLANK = r"^[^\s\x1c-\x1f]"
"""Texts that begin so are surely not blank."""

NO_SIGN = 2
"""Stands in a table where a raw direction has no valid value."""

DIGITS = np.full(256, NO_SIGN, np.int8)
DIGITS[[0, 5, 10]] = -1, 0, 1
"""The sign of a raw value by its two digits."""

_RAW_DIRECTION: dict[str, Any] = {DIRECTION_KEY: pl.List(pl.Float64)}
RAW: dict[str, Any] = {
    PAIRS_KEY: pl.List(pl.Struct({**dict.fromkeys(RAW_TEXTS, pl.String), **_RAW_DIRECTION})),
    UGC_KEY: pl.List(pl.Struct({"prompt": pl.String, "comment": pl.String, **_RAW_DIRECTION})),
}
"""The types that histories have in Parquet files."""

PRINTS = pl.Schema({"number": pl.Int64(), "fingerprint": pl.UInt64()})

Reject = tuple[int, str, str]
"""Number of the record in its piece, the field, and the reason."""

Tables = tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]
"""Texts laid flat: targets (number, prompt, chosen, rejected), pairs (number, position, prompt, chosen, rejected), and
user-generated content (number, position, prompt, comment)."""


@dataclass(frozen=True)
class Block:
    """Some good records of a raw file.

    `directions` has number (the record's place in its piece), form ("target", "pairs" or "ugc"), position (in the
    history, from 0), and WORDS; `fingerprints` has number and fingerprint, 64 bits that are equal for records with
    equal texts; `texts` gives the texts of the records of some numbers.
    """

    directions: pl.DataFrame
    fingerprints: pl.DataFrame
    texts: Callable[[pl.Series], Tables]

    def examples(self, numbers: pl.Series) -> pl.DataFrame:
        """The records of these numbers as rows of EXAMPLE, with `number`."""
        wanted = self.directions.filter(pl.col("number").is_in(numbers.implode()))
        signs = wanted.select("number", "form", "position", pl.Series("direction", word_signs(wanted), dtype=DIRECTION))
        targets, *histories = self.texts(numbers)
        table = targets.join(signs.filter(pl.col("form") == "target").select("number", "direction"), on="number")
        for (form, texts), items in zip(FORMS.items(), histories, strict=True):
            described = items.join(signs.filter(pl.col("form") == form), on=["number", "position"])
            nested = (
                described.sort("number", "position")
                .group_by("number")
                .agg(pl.struct("prompt", *texts, "direction").alias(form))
            )
            table = table.join(nested, on="number", how="left", maintain_order="left")
        ids = _joined_texts(table).select(
            "number",
            example_id=pl.col("texts").map_elements(stable_hash, return_dtype=pl.String),
            user_id=pl.col("history").map_elements(stable_hash, return_dtype=pl.String),
        )
        whole = table.join(ids, on="number").with_columns(
            pl.col("user_id").fill_null(pl.col("example_id")), *(pl.col(form).fill_null([]) for form in FORMS)
        )
        return whole.sort("number")


def read_piece(piece: Piece, max_characters: int) -> Iterator[tuple[int, int, Block, list[Reject]]]:
    """Read a piece of a raw file by the block.

    Yields the number of the block's last record in the piece, how many records it holds (blank lines are none), those
    that are good, and the rejects.
    """
    if piece.kind == "parquet":
        for first, frame in read_parquet(piece):
            yield first + frame.height - 1, frame.height, *_checked_frame(first, frame, max_characters)
    else:
        for first, lines in read_json(piece):
            count = sum(line is None or not line.isspace() for line in lines)
            yield first + len(lines) - 1, count, *_checked_lines(first, lines, max_characters)


class _Comment(msgspec.Struct, gc=False):
    prompt: str
    comment: str
    direction: msgspec.Raw = msgspec.field(name=DIRECTION_KEY)


class _Pair(msgspec.Struct, gc=False):
    prompt: str
    chosen: str
    rejected: str
    direction: msgspec.Raw = msgspec.field(name=DIRECTION_KEY)


class _Record(_Pair, gc=False):
    pairs: list[_Pair] | None = msgspec.field(name=PAIRS_KEY, default=None)
    ugc: list[_Comment] | None = msgspec.field(name=UGC_KEY, default=None)


_decode = msgspec.json.Decoder(_Record).decode
_decode_direction = msgspec.json.Decoder(list[float]).decode


def _checked_lines(first: int, lines: Sequence[bytes | None], max_characters: int) -> tuple[Block, list[Reject]]:
    good: dict[int, _Record] = {}
    good_texts: list[str] = []
    raw: list[msgspec.Raw] = []
    counts: list[tuple[int, int, int]] = []
    odd: set[int] = set()
    for number, line in enumerate(lines, first):
        try:
            record = _decode(line)  # type: ignore[arg-type]
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, TypeError):
            if line is None or not line.isspace():
                odd.add(number)
            continue
        pairs, ugc = record.pairs or (), record.ugc or ()
        texts = [record.prompt, record.chosen, record.rejected]
        same = record.chosen == record.rejected
        for pair in pairs:
            texts += (pair.prompt, pair.chosen, pair.rejected)
            same |= pair.chosen == pair.rejected
        for comment in ugc:
            texts += (comment.prompt, comment.comment)
        if same or not all(texts) or any(map(str.isspace, texts)) or max(map(len, texts)) > max_characters:
            odd.add(number)
            continue
        good[number] = record
        good_texts += texts
        counts.append((1, len(pairs), len(ugc)))
        raw.append(record.direction)
        raw += [item.direction for item in pairs]
        raw += [item.direction for item in ugc]
    # A target, its pairs and its comments follow each other in `raw`.
    lengths = np.array(counts, np.int64).reshape(-1, 3).ravel()
    number_of, form_of = np.repeat(list(good), 3), np.tile([0, 1, 2], len(good))
    position = np.arange(len(raw)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    places = np.stack([np.repeat(number_of, lengths), np.repeat(form_of, lengths), position], axis=1)

    def usual_texts(numbers: pl.Series) -> Tables:
        return _text_tables([(number, good[number]) for number in numbers if number in good], getattr)

    def exact(number: int) -> dict[str, Any]:
        line = lines[number - first]
        if line is None:
            raise BadRecord("record", f"is longer than {LONGEST_RECORD >> 20} MiB")
        try:
            decoded = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8").strip())
        except (ValueError, RecursionError) as error:
            raise BadRecord("record", json_problem(error)) from None
        return parse_example(decoded, max_characters)

    return _settled(
        places, _parsed_signs(raw), _fingerprints_in_order(list(good), counts, good_texts), odd, exact, usual_texts
    )


def _checked_frame(first: int, frame: pl.DataFrame, max_characters: int) -> tuple[Block, list[Reject]]:
    def exact(number: int) -> dict[str, Any]:
        return parse_example(frame.row(number - first, named=True), max_characters)

    numbers = pl.Series("number", range(first, first + frame.height), dtype=pl.Int64)
    try:
        rows = _named(frame, numbers)
        laid = _laid_flat(rows)
        odd = set().union(*(_unusual(table, max_characters) for table in laid))
        signs = np.concatenate([_listed_signs(table["direction"]) for table in laid])
        places = [table.select("number", pl.lit(form), "position").to_numpy() for form, table in enumerate(laid)]
        fingerprints = _fingerprints_of_tables(numbers, laid)
    except pl.exceptions.PolarsError:
        # Columns of other types than the form has: let each record say what is wrong with it.
        laid, odd, fingerprints = _laid_flat(_no_rows()), set(numbers), PRINTS.to_frame()
        signs, places = np.empty((0, N_DIMENSIONS), np.int8), [np.empty((0, 3))]
    targets, pairs, ugc = (table.drop("direction") for table in laid)
    tables = targets.drop("position"), pairs, ugc

    def usual_texts(numbers: pl.Series) -> Tables:
        targets, pairs, ugc = (table.filter(pl.col("number").is_in(numbers.implode())) for table in tables)
        return targets, pairs, ugc

    return _settled(np.concatenate(places), signs, fingerprints, odd, exact, usual_texts)


def _named(frame: pl.DataFrame, numbers: pl.Series) -> pl.DataFrame:
    """A raw table's number, prompt, chosen, rejected, direction, pairs and ugc, null where it has no history."""
    for key in FORM_KEYS.values():
        if key not in frame.columns or frame[key].null_count() == frame.height:
            frame = frame.with_columns(pl.lit(None, RAW[key]).alias(key))
    histories = [pl.col(key).alias(form) for form, key in FORM_KEYS.items()]
    return frame.select(numbers, *RAW_TEXTS, pl.col(DIRECTION_KEY).alias("direction"), *histories)


def _laid_flat(rows: pl.DataFrame) -> tuple[pl.DataFrame, ...]:
    """Targets, pairs and comments: number, position, prompt, texts, direction."""
    targets = rows.select("number", pl.lit(0, pl.UInt32).alias("position"), *RAW_TEXTS, "direction")
    return targets, *(_interactions(rows, form) for form in FORMS)


def _no_rows() -> pl.DataFrame:
    texts = dict.fromkeys(RAW_TEXTS, pl.String)
    return _named(pl.DataFrame(schema={**texts, **_RAW_DIRECTION}), pl.Series("number", [], dtype=pl.Int64))


def _settled(
    places: Sequence[tuple[int, int, int]] | np.ndarray,
    signs: np.ndarray,
    fingerprints: pl.DataFrame,
    odd: set[int],
    exact: Callable[[int], dict[str, Any]],
    usual_texts: Callable[[pl.Series], Tables],
) -> tuple[Block, list[Reject]]:
    """The block, in which odd records stand as the exact reading has them, and the rejects among them.

    `places` are (number, form, position) of each row of `signs`; `usual_texts` gives the texts of those not odd.
    """
    where = np.array(places, np.int64).reshape(-1, 3)
    odd = odd | set(where[(signs == NO_SIGN).any(1), 0].tolist())
    rejects, more, more_signs = [], [], []
    exact_rows: dict[int, dict[str, Any]] = {}
    for number in sorted(odd):
        try:
            row = exact_rows[number] = exact(number)
        except BadRecord as bad:
            rejects.append((number, bad.field, bad.reason))
            continue
        more.append((number, 0, 0))
        more_signs.append(row["direction"])
        for form, name in enumerate(FORMS, 1):
            more += [(number, form, position) for position in range(len(row[name]))]
            more_signs += [item["direction"] for item in row[name]]
    if odd:
        kept = ~np.isin(where[:, 0], list(odd))
        where = np.concatenate([where[kept], np.array(more, np.int64).reshape(-1, 3)])
        signs = np.concatenate([signs[kept], np.array(more_signs, np.int8).reshape(-1, N_DIMENSIONS)])

    def texts(numbers: pl.Series) -> Tables:
        usual = numbers.filter(~numbers.is_in(list(odd)))
        rows = [(number, exact_rows[number]) for number in numbers if number in exact_rows]
        tables = zip(usual_texts(usual), _text_tables(rows, getitem), strict=True)
        first, second, third = (pl.concat(both) for both in tables)
        return first, second, third

    forms = pl.Series("form", ["target", *FORMS])
    columns = {"number": where[:, 0], "form": forms[where[:, 1]], "position": where[:, 2], **sign_words(signs)}
    directions = pl.DataFrame(columns).with_columns(pl.col("position").cast(pl.UInt32))
    usual = fingerprints.filter(~pl.col("number").is_in(list(odd)))
    return Block(directions, pl.concat([usual, _fingerprints_of_rows(exact_rows)]).sort("number"), texts), rejects


def _fingerprints(
    numbers: Sequence[int] | pl.Series, owner: np.ndarray, place: np.ndarray, texts: pl.Series
) -> pl.DataFrame:
    """PRINTS of the records `numbers`; each of their texts has its record's index and its place in the record."""
    weights = (2 * place + 1).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    total = np.zeros(len(numbers), np.uint64)
    np.add.at(total, owner, texts.hash().to_numpy() * weights)
    return pl.DataFrame({"number": numbers, "fingerprint": total}, schema=PRINTS)


def _fingerprints_in_order(
    numbers: Sequence[int], counts: Sequence[tuple[int, int, int]], texts: list[str]
) -> pl.DataFrame:
    """PRINTS from the texts of all records in a row, and how many targets (1), pairs and comments each has."""
    _, pairs, ugc = np.array(counts, np.int64).reshape(-1, 3).T
    lengths = 3 + 3 * pairs + 2 * ugc
    owner = np.repeat(np.arange(len(numbers)), lengths)
    index = np.arange(len(texts)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    in_pairs = index - 3
    in_ugc = in_pairs - np.repeat(3 * pairs, lengths)
    place = np.where(in_ugc >= 0, 8 * (in_ugc // 2 + 1) + 4 + in_ugc % 2, 8 * (in_pairs // 3 + 1) + in_pairs % 3)
    return _fingerprints(numbers, owner, place, pl.Series(texts, dtype=pl.String))


def _fingerprints_of_rows(rows: Mapping[int, Mapping[str, Any]]) -> pl.DataFrame:
    counts = [(1, len(row["pairs"]), len(row["ugc"])) for row in rows.values()]
    return _fingerprints_in_order(list(rows), counts, [text for row in rows.values() for _, text in texts_of(row)])


def _fingerprints_of_tables(numbers: pl.Series, tables: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """PRINTS from targets, pairs and comments laid flat."""
    owner, place, texts = [], [], []
    for form, table in enumerate(tables):
        row = table["number"].to_numpy() - numbers[0]
        first = 8 * (table["position"].to_numpy().astype(np.int64) + (form > 0)) + 4 * (form == 2)
        for index, name in enumerate(table.columns[2:-1]):
            owner.append(row)
            place.append(first + index)
            texts.append(table[name])
    return _fingerprints(numbers, np.concatenate(owner), np.concatenate(place), pl.concat(texts))


def _text_tables(records: Sequence[tuple[int, Any]], get: Callable[[Any, str], Any]) -> Tables:
    """The texts of records and their numbers; `get` reads a field of a record or interaction by its name."""

    def table(items: Iterable[tuple[int, int, Any]], *texts: str) -> pl.DataFrame:
        rows = [(number, position, *(get(item, name) for name in texts)) for number, position, item in items]
        schema = {"number": pl.Int64, "position": pl.UInt32, **dict.fromkeys(texts, pl.String)}
        columns = zip(*rows, strict=True) if rows else [()] * len(schema)
        return pl.DataFrame([pl.Series(n, c, dtype=t) for (n, t), c in zip(schema.items(), columns, strict=True)])

    def histories(form: str) -> Iterable[tuple[int, int, Any]]:
        return ((n, position, item) for n, record in records for position, item in enumerate(get(record, form) or ()))

    pairs, ugc = (table(histories(form), "prompt", *texts) for form, texts in FORMS.items())
    return table(((n, 0, record) for n, record in records), *RAW_TEXTS).drop("position"), pairs, ugc


def _joined_texts(rows: pl.DataFrame) -> pl.DataFrame:
    """texts (all of a record's), history (those of its history, null where it has none) of a table with `number`.

    `pairs` and `ugc` are lists in the table.
    """

    def joined(form: str) -> pl.Expr:
        texts = [pl.element().struct.field(name) for name in ("prompt", *FORMS[form])]
        text = pl.col(form).list.eval(pl.concat_str(texts, separator=APART)).list.join(APART)
        return pl.when(pl.col(form).list.len() > 0).then(text)

    target = pl.concat_str(*RAW_TEXTS, separator=APART)
    history = pl.concat_str(joined("pairs"), pl.lit(HISTORIES_APART), joined("ugc"), separator=APART, ignore_nulls=True)
    return rows.select(
        "number",
        texts=pl.concat_str(target, history, separator=APART),
        history=pl.when(pl.any_horizontal(pl.col(*FORMS).list.len() > 0)).then(history),
    )


def _interactions(rows: pl.DataFrame, form: str) -> pl.DataFrame:
    """One row an interaction: number, position, prompt, texts, direction."""
    items = rows.select("number", form).filter(pl.col(form).list.len() > 0)
    if items.is_empty():
        items = pl.DataFrame(schema={"number": pl.Int64, form: RAW[FORM_KEYS[form]]})
    position = items.select(position=pl.int_ranges(pl.col(form).list.len(), dtype=pl.UInt32)).explode("position")
    flat = items.explode(form).unnest(form)
    return flat.select("number", position.to_series(), "prompt", *FORMS[form], direction=DIRECTION_KEY)


def _unusual(table: pl.DataFrame, max_characters: int) -> set[int]:
    """Numbers of the records with a text that may be wrong."""
    texts = table.columns[2:-1]
    if any(table.schema[name] != pl.String for name in texts):
        raise pl.exceptions.SchemaError("a column of texts holds something else")
    wrong = [
        pl.col(name).is_null() | ~pl.col(name).str.contains(NOT_BLANK) | (pl.col(name).str.len_bytes() > max_characters)
        for name in texts
    ]
    if "rejected" in texts:
        wrong.append(pl.col("chosen") == pl.col("rejected"))
    return set(table.filter(pl.any_horizontal(wrong))["number"])


def _listed_signs(lists: pl.Series) -> np.ndarray:
    """Signs (rows, 90) of raw directions in lists; NO_SIGN where a value is not one."""
    inner = getattr(lists.dtype, "inner", None)
    if inner is None or not inner.is_numeric():
        raise pl.exceptions.SchemaError("a column of directions holds something else")
    signs = np.full((len(lists), N_DIMENSIONS), NO_SIGN, np.int8)
    right = (lists.list.len() == N_DIMENSIONS).fill_null(False)
    values = lists.filter(right).list.explode(empty_as_null=False).cast(pl.Float64).to_numpy()
    doubled = np.where((values >= 0) & (values <= 1), 2 * values, 3).astype(np.int8)
    signs[right.to_numpy()] = np.where(doubled == 2 * values, doubled - 1, NO_SIGN).reshape(-1, N_DIMENSIONS)
    return signs


def _parsed_signs(texts: Sequence[msgspec.Raw]) -> np.ndarray:
    """Signs (texts, 90) of raw directions as JSON; NO_SIGN where a text is not a direction.

    Where all numbers are written with one decimal and all commas alike, as raw files have them, each text has the
    same characters but for its digits, and all digits are read at once.
    """
    joined = b"".join(texts)
    for comma in (b", ", b","):
        form = np.frombuffer(b"[" + comma.join([b"0.0"] * N_DIMENSIONS) + b"]", np.uint8)
        if len(joined) == len(texts) * len(form):
            characters = np.frombuffer(joined, np.uint8).reshape(-1, len(form))
            punctuation = form != ord("0")
            if (characters == form)[:, punctuation].all():
                # Then what stands at the digits' places are digits, for the text is known to be JSON.
                wholes, tenths = (characters[:, at :: 3 + len(comma)] - np.uint8(ord("0")) for at in (1, 3))
                signs = DIGITS[wholes * np.uint8(10) + tenths]
                if (signs != NO_SIGN).all():
                    return signs
    return np.array([_parsed_direction(text) for text in texts], np.int8).reshape(-1, N_DIMENSIONS)


def _parsed_direction(text: msgspec.Raw) -> list[int]:
    try:
        values = [SIGNS.get(value, NO_SIGN) for value in _decode_direction(text)]
    except msgspec.MsgspecError:
        return [NO_SIGN] * N_DIMENSIONS
    return values if len(values) == N_DIMENSIONS else [NO_SIGN] * N_DIMENSIONS
