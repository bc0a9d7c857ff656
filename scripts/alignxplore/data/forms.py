"""Given splits: files whose records are examples, or demonstrations, as they are.

    form        a record                                                 becomes
    pairs       {user?, history, target, golden?}                        an example
    streams     {user?, steps: [{history, target}], golden?}             one example per step
                [{history: [{value, task, chosen, rejected}]}, {...}]    one example per step
    rl          [{from, value, task, chosen, rejected, ...}, {...}]      an example whose signals are a rendered prompt
    cold_start  {prompt, response}                                       a demonstration
    test        raw AlignX, but {responseA, responseB, answer}           an example
    alignx      raw AlignX                                               an example, without refinement
    psoups      published P-SOUPS                                        an example

docs/data.md shows a whole record of each.
"""

import logging
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import polars as pl

from alignxplore import records
from alignxplore.data.alignx import (
    DIRECTION_KEY,
    HISTORY_KEYS,
    HISTORY_TEXTS,
    PAIRS_KEY,
    TARGET_TEXTS,
    TEXTS_APART,
    BadRecord,
    direction,
    hashed,
    items,
    mapping,
    parse_example,
    stable_hash,
    text,
    texts,
    with_ids,
)
from alignxplore.data.reader import read_records
from alignxplore.data.rejects import check_reject_share
from alignxplore.data.streams import chunk_sizes, signal_count, steps
from alignxplore.errors import UserError
from alignxplore.records import DEMONSTRATION, EXAMPLE, NO_STREAM

log = logging.getLogger(__name__)

Row = dict[str, Any]

QUERY_TEXTS = ("query", "chosen", "rejected")
RESPONSES = {"A": "responseA", "B": "responseB"}
SIGNAL = re.compile(
    r"^(?P<number>\d+)\. \*+Post:\*+(?P<query>.*?)^\*+Chosen:\*+(?P<chosen>.*?)^\*+Rejected:\*+(?P<rejected>.*?)"
    r"(?=^\d+\. \*+Post:\*+|\Z)",
    re.MULTILINE | re.DOTALL,
)
"""A signal in the prompts of the published streams."""

ANSWER = re.compile(r"\s*(?:response[ _]?)?([ab])\s*", re.IGNORECASE)

NO_TARGET: Row = {"prompt": "", "chosen": "", "rejected": ""}
UNKNOWN: Row = {"direction": [], "pairs": [], "ugc": [], "golden_preference": "", "rendered": "", **NO_STREAM}


WITHOUT_CHUNKS = {
    "streams": "whose records have their steps",
    "rl": "whose signals are a rendered prompt",
    "cold_start": "whose signals are a rendered prompt",
}
"""Forms whose histories cannot be cut into chunks, and why."""

EARLIER = "earlier targets"
"""Where a row that becomes a stream has the targets of the steps before the last, each with its direction."""


class Form(NamedTuple):
    """How records of one form are told from others, and read.

    `parse` takes a record and the most characters of a text, and returns a row of `schema` without ids. It may name a
    `user_id`. The row of a stream is its last step, and has the targets of the others under EARLIER. Raises BadRecord.
    """

    matches: Callable[[Any], bool]
    parse: Callable[[Any, int], Row]
    schema: pl.Schema = EXAMPLE


def _pairs(raw: Any, longest: int) -> Row:
    record = mapping(raw, "record")
    target = _named(texts(mapping(record.get("target"), "target"), QUERY_TEXTS, "target.", longest))
    signals = [_signal(item, at, longest) for item, at in items(record, "history")]
    pairs = [signal for signal in signals if "comment" not in signal]
    ugc = [signal for signal in signals if "comment" in signal]
    return {**UNKNOWN, **target, **_with_history(pairs, ugc, "history"), **_person(record, longest)}


def _signal(item: Mapping[str, Any], at: str, longest: int) -> Row:
    if item.get("rejected") is None:
        liked = texts(item, ("query", "chosen"), at, longest)
        return {"prompt": liked["query"], "comment": liked["chosen"], "direction": []}
    return {**_named(texts(item, QUERY_TEXTS, at, longest)), "direction": []}


def _person(record: Mapping[str, Any], longest: int) -> Row:
    golden, user = (_present(record, *names) for names in (("golden", "ground_truth_persona"), ("user", "userid")))
    return {
        **({"golden_preference": text(record, golden, longest=longest)} if golden else {}),
        **({"user_id": _name(record, user)} if user else {}),
    }


def _streams(raw: Any, longest: int) -> Row:
    if isinstance(raw, list):
        return _published_stream(raw, longest)
    record = mapping(raw, "record")
    found = []
    for step, at in items(record, "steps"):
        signals = [_signal(item, place, longest) for item, place in items(step, "history", at)]
        target = texts(mapping(step.get("target"), at + "target"), QUERY_TEXTS, at + "target.", longest)
        found.append((at + "history", signals, _named(target)))
    return {**_stream(found, "steps"), **_person(record, longest)}


def _published_stream(raw: list[Any], longest: int) -> Row:
    found = []
    for step, at in items(mapping(raw[0] if raw else None, "[0]"), "history", "[0]."):
        target = texts(step, ("task", "chosen", "rejected"), at, longest)
        found.append((at + "value", _written(step, at, longest), _named(target, "task")))
    return _stream(found, "[0].history")


def _stream(found: Sequence[tuple[str, list[Row], Row]], key: str) -> Row:
    """The row of a stream from the path, signals and target of each step; `key` is the path of all steps."""
    if not found:
        raise BadRecord(key, "is missing or empty")
    for at, signals, _ in found:
        if not signals:
            raise BadRecord(at, "is missing or empty")
    everything = [signal for _, signals, _ in found for signal in signals]
    pairs = [signal for signal in everything if "comment" not in signal]
    ugc = [signal for signal in everything if "comment" in signal]
    if everything != pairs + ugc:
        raise BadRecord(key, "has a pair after a comment; a stream has its pairs first")
    *earlier, last = [{**target, "direction": []} for _, _, target in found]
    chunks = [len(signals) for _, signals, _ in found]
    return {**UNKNOWN, **last, "pairs": pairs, "ugc": ugc, "chunks": chunks, EARLIER: earlier}


def _written(step: Mapping[str, Any], at: str, longest: int) -> list[Row]:
    """The signals of a step that are written in its prompt. The prompt's own words are not used."""
    found = list(SIGNAL.finditer(text(step, "value", at)))
    if not found or [int(match["number"]) for match in found] != list(range(1, len(found) + 1)):
        raise BadRecord(
            at + "value",
            "has no signals numbered from 1, each with *Post:*, *Chosen:* and *Rejected:*, so no prompt with another"
            " description of the earlier ones can be made",
        )
    signals = []
    for number, match in enumerate(found, 1):
        item = {name: match[name].strip() for name in QUERY_TEXTS}
        signals.append(_signal(item, f"{at}value, signal {number}, ", longest))
    return signals


def _rl(raw: Any, longest: int) -> Row:
    if not isinstance(raw, list) or not raw:
        raise BadRecord("record", "is not a list of two turns")
    turn = mapping(raw[0], "[0]")
    target = texts(turn, ("task", "chosen", "rejected"), "[0].", longest)
    return {**UNKNOWN, **_named(target, "task"), "rendered": text(turn, "value", "[0].", longest)}


def _cold_start(raw: Any, longest: int) -> Row:
    found = texts(mapping(raw, "record"), ("prompt", "response"), longest=longest)
    return {**UNKNOWN, **NO_TARGET, "rendered": found["prompt"], "past": "", "completion": found["response"]}


def _test(raw: Any, longest: int) -> Row:
    record = mapping(raw, "record")
    found = texts(record, ("prompt", *RESPONSES.values()), longest=longest)
    answer = ANSWER.fullmatch(text(record, "answer"))
    if not answer:
        raise BadRecord("answer", f"is {record['answer'][:20]!r}, expected A or B")
    chosen = RESPONSES[answer[1].upper()]
    (rejected,) = set(RESPONSES.values()) - {chosen}
    if found[chosen] == found[rejected]:
        raise BadRecord("responseB", "equals responseA")
    histories = {
        form: [
            {**texts(item, names, at, longest), "direction": _known_direction(item, at)}
            for item, at in items(record, HISTORY_KEYS[form])
        ]
        for form, names in HISTORY_TEXTS.items()
    }
    return {
        **UNKNOWN,
        "prompt": found["prompt"],
        "chosen": found[chosen],
        "rejected": found[rejected],
        "direction": _known_direction(record),
        **_with_history(histories["pairs"], histories["ugc"], PAIRS_KEY),
    }


def _psoups(raw: Any, longest: int) -> Row:
    record = mapping(raw, "record")
    pairs = [{**texts(item, TARGET_TEXTS, at, longest), "direction": []} for item, at in items(record, PAIRS_KEY)]
    return {
        **UNKNOWN,
        **texts(record, TARGET_TEXTS, longest=longest),
        **_with_history(pairs, [], PAIRS_KEY),
        "golden_preference": text(record, "ground_truth_persona", longest=longest),
    }


def _has(*names: str) -> Callable[[Any], bool]:
    return lambda raw: isinstance(raw, Mapping) and all(raw.get(name) is not None for name in names)


FORMS = {
    "pairs": Form(_has("history", "target"), _pairs),
    "streams": Form(
        lambda raw: _has("steps")(raw) or isinstance(raw, list) and bool(raw) and _has("from", "history")(raw[0]),
        _streams,
    ),
    "rl": Form(lambda raw: isinstance(raw, list) and bool(raw) and _has("from", "value")(raw[0]), _rl),
    "cold_start": Form(_has("prompt", "response"), _cold_start, DEMONSTRATION),
    "test": Form(_has("prompt", *RESPONSES.values(), "answer"), _test),
    "psoups": Form(_has(*TARGET_TEXTS, "ground_truth_persona"), _psoups),
    "alignx": Form(_has(*TARGET_TEXTS, DIRECTION_KEY), parse_example),
}
"""The forms by name, in the order in which they are tried: records may have keys of a later form too."""


def detect_form(paths: Sequence[str], key: str) -> str:
    """The form of the first record that has the keys of one. Raises UserError if none in the first blocks has.

    `key` is the configuration key of the split.
    """
    first: Any = None
    for path in paths:
        for block in read_records(path):
            for _, raw in block:
                for name, form in FORMS.items():
                    if form.matches(raw):
                        return name
                first = raw if first is None else first
            break
    seen = f"keys {', '.join(map(repr, first))}" if isinstance(first, Mapping) else "no keys"
    raise UserError(
        f"{key}.source: the records of {paths[0]} have no known form (the first has {seen}); the forms are"
        f" {', '.join(FORMS)}: see docs/data.md"
    )


def given_split(
    paths: Sequence[str],
    form: str | None,
    max_characters: int,
    max_reject_share: float,
    output: str,
    rejects: str,
    kept_rejects: str,
    key: str,
    posts: Sequence[float] = (0, 1),
    chunk: int | None = None,
) -> None:
    """Write the records of files, in their order, as the schema of their form to `output`, and REJECT to `rejects`.

    `form` is detected if it is None. `posts` bounds a range: a hash puts each target post somewhere between 0 and 1,
    and records outside are left out. With `chunk`, a record becomes a stream whose signals come in chunks of so many.
    Records with the same texts stay; their ids differ. Raises UserError if there are no records, or if more than
    `max_reject_share` of them are rejects, which are then written to `kept_rejects`. `key` is the configuration key of
    the split.
    """
    name = form or detect_form(paths, key)
    reader = FORMS[name]
    if chunk and name in WITHOUT_CHUNKS:
        raise UserError(f"{key}.chunk: does not apply to the form {name!r}, {WITHOUT_CHUNKS[name]}")
    bad: list[tuple[str, int, str, str]] = []
    total = 0
    seen: Counter[str] = Counter()
    with ExitStack() as stack:
        writer = stack.enter_context(records.Writer(output, reader.schema))
        for path in paths:
            for block in read_records(path):
                rows = []
                for number, raw in block:
                    try:
                        if isinstance(raw, BadRecord):
                            raise raw
                        row = reader.parse(raw, max_characters)
                        if chunk:
                            row |= _in_chunks(row, chunk)
                        if posts[0] <= _place(row["prompt"] or row["rendered"]) < posts[1]:
                            rows.append(row)
                    except BadRecord as problem:
                        bad.append((path, number, problem.field, problem.reason))
                total += len(block)
                writer.write(_identified(rows, reader.schema, seen))
        rejected = pl.DataFrame(bad, records.REJECT, orient="row")
        check_reject_share(total, rejected, max_reject_share, kept_rejects, f"{key}.source")
    records.write(rejected, rejects, records.REJECT)
    log.info("%d records of the form %s; %d rejected", total - len(bad), name, len(bad))


def _identified(rows: Sequence[Row], schema: pl.Schema, seen: Counter[str]) -> pl.DataFrame:
    """Rows of `schema`, with ids. `seen` counts each id's records, which get ids, or generations, that differ.

    Texts that raw AlignX has too get the ids that they have there. A stream has the id of its last step's texts, and
    its steps have one user, who is named by the whole history unless the record names one.
    """
    table = pl.DataFrame(rows, {name: kind for name, kind in schema.items() if name != "example_id"}, strict=True)
    is_rendered = pl.col("rendered") != ""
    rendered = pl.concat_str(*TARGET_TEXTS, "rendered", separator=TEXTS_APART)
    found = with_ids(table.drop("user_id")).with_columns(named=table["user_id"])
    found = found.with_columns(
        example_id=pl.when(is_rendered).then(hashed(rendered)).otherwise("example_id"),
        user_id=pl.coalesce("named", pl.when(is_rendered).then(hashed(pl.col("rendered"))), "user_id"),
    )
    ids, generations = [], []
    for name in found["example_id"]:
        generations.append(seen[name])
        ids.append(name if not seen[name] or "generation" in schema else stable_hash(f"{name}\n{seen[name]}"))
        seen[name] += 1
    whole = found.with_columns(
        example_id=pl.Series(ids, dtype=pl.String), generation=pl.Series(generations, dtype=pl.Int32)
    ).select(schema.names())
    if not any(EARLIER in row for row in rows):
        return whole
    found_steps = [
        {**step, **target}
        for row, last in zip(rows, whole.iter_rows(named=True), strict=True)
        for step, target in zip(steps(last, last["chunks"], "example_id"), [*row[EARLIER], {}], strict=True)
    ]
    return pl.DataFrame(found_steps, schema)


def _in_chunks(row: Row, chunk: int) -> Row:
    """What makes a stream of a row. A step's target is the next signal if that is a pair, or else the row's own."""
    own = {key: row[key] for key in (*TARGET_TEXTS, "direction")}
    sizes = chunk_sizes(signal_count(row), chunk)
    if not sizes:
        raise BadRecord("record", "has no signals")
    nexts = [sum(sizes[:number]) for number in range(1, len(sizes))]
    return {"chunks": sizes, EARLIER: [row["pairs"][at] if at < len(row["pairs"]) else own for at in nexts]}


def _place(post: str) -> float:
    """Where a post stands, from 0 to 1, in an order by its hash."""
    return int(stable_hash(post), 16) / 2**64


def _named(found: Mapping[str, str], post: str = "query") -> Row:
    """Checked texts of a pair under the names of the contracts; `post` is what the form calls the prompt."""
    return {"prompt": found[post], "chosen": found["chosen"], "rejected": found["rejected"]}


def _with_history(pairs: list[Row], ugc: list[Row], key: str) -> Row:
    if not pairs and not ugc:
        raise BadRecord(key, "is missing or empty")
    return {"pairs": pairs, "ugc": ugc}


def _known_direction(record: Mapping[str, Any], at: str = "") -> list[int]:
    return [] if record.get(DIRECTION_KEY) is None else direction(record, at)


def _present(record: Mapping[str, Any], *names: str) -> str | None:
    """The first of the names that the record has."""
    return next((name for name in names if record.get(name) is not None), None)


def _name(record: Mapping[str, Any], key: str) -> str:
    """A user's name: text, or a number as text."""
    value = record[key]
    return str(value) if isinstance(value, int) else text(record, key)
