"""The case explorer's data, written in bounded memory: an index of all cases, their details, and a word index.

cases, preferences, judgements, …     rows in any order
  -> blocks of BLOCK cases on disk    all rows of a case in one block
  -> details/N.js                     CHUNK cases each; the browser loads one when a case opens
     index.js                         what the list and the filters need of every case
     words/N.js                       the word index (search.py)
"""

import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from alignxplore import records
from alignxplore.changes import Change, changes
from alignxplore.errors import UserError
from alignxplore.results.site.javascript import postings, write_call, write_compressed
from alignxplore.results.site.search import SearchIndex

CHUNK = 25
"""Cases per file of details."""
BLOCK = 500
"""Cases in memory at a time; a multiple of CHUNK."""
THREADS = 2
"""Files of details that are compressed at a time."""
SNIPPET = 140
"""Characters of a post that the list shows."""
KEY = ["benchmark", "case_id"]
SIGNALS = {"pairs": ("prompt", "chosen", "rejected"), "ugc": ("prompt", "comment")}
"""The texts of each kind of signal."""
OUTCOMES = {True: ord("1"), False: ord("0")}


@dataclass(frozen=True)
class Sources:
    """Parquet files of cases, of what methods wrote about them and of how judges decided.

    `labels` maps the methods, in the order to show them, to their labels; `dimensions` maps AlignX's dimensions, by
    index, to their names.
    """

    cases: Sequence[str | Path]
    preferences: Sequence[str | Path]
    judgements: Sequence[str | Path]
    labels: Mapping[str, str]
    dimensions: Mapping[int, str]
    responses: Sequence[str | Path] = field(default=())
    wins: Sequence[str | Path] = field(default=())


def write_cases(sources: Sources, directory: Path) -> pl.DataFrame:
    """Write `index.js`, `details/N.js` and `words/N.js` to `directory`.

    Returns one row per case with its number in the site: number, benchmark, case_id, dimension. Raises UserError that
    names the file if one breaks its contract or has a method without a label.
    """
    steps = _numbers(sources.cases)
    numbers, streams = steps.select("number", *KEY, "dimension"), _streams(steps)
    count = numbers.height
    with tempfile.TemporaryDirectory(prefix="report-") as work:
        blocks = _Blocks(Path(work), numbers)
        blocks.divide("case", sources.cases, records.CASE)
        blocks.divide("preference", sources.preferences, records.PREFERENCE)
        blocks.divide("earlier", sources.preferences, records.PREFERENCE, _following(steps))
        judges = blocks.divide("judgement", sources.judgements, records.JUDGEMENT)
        blocks.divide("response", sources.responses, records.RESPONSE)
        blocks.divide("win", sources.wins, records.WIN)
        if unknown := sorted(blocks.methods - set(sources.labels)):
            raise UserError(f"report: method {unknown[0]!r} in {blocks.origin[unknown[0]]} has no label")
        methods = [name for name in sources.labels if name in blocks.methods]
        index = _Index(count, methods, judges)
        search = SearchIndex(Path(work) / "words")
        with ThreadPoolExecutor(THREADS) as pool:  # zlib and Polars leave the interpreter to other threads
            for number in range(0, count, BLOCK):
                block = {kind: blocks.read(kind, number // BLOCK) for kind in _Blocks.SCHEMAS}
                jobs = [pool.submit(search.add, _texts(block))]
                details = _details(block, methods, judges, sources.dimensions, streams)
                for start in range(0, len(details), CHUNK):
                    place, cases = (number + start) // CHUNK, details[start : start + CHUNK]
                    path = directory / f"details/{place}.js"
                    jobs.append(pool.submit(write_compressed, path, "AX.addChunk", place, cases))
                index.add(block, details)
                for job in jobs:
                    job.result()
        shards = search.write(directory / "words", count)
    labelled = [[name, sources.labels[name]] for name in methods]
    write_call(directory / "index.js", "AX.setIndex", {**index.fields(numbers, shards), "methods": labelled})
    return numbers


def _numbers(cases: Sequence[str | Path]) -> pl.DataFrame:
    """One row per case, in the files' order: number, benchmark, case_id, dimension, stream, chunk (how many it has)."""
    columns = [*KEY, "dimension", "stream", "chunks"]
    tables = [records.read(path, records.CASE, columns) for path in cases]
    table = pl.concat([pl.DataFrame(schema=records.CASE).select(columns), *tables])
    return table.select(*columns[:-1], chunk=pl.col("chunks").list.len()).with_row_index("number")


def _streams(numbers: pl.DataFrame) -> dict[int, list[int]]:
    """The numbers of all steps of a case's stream, in order; a case outside streams is not there."""
    steps = numbers.filter(pl.col("stream") != "").sort("chunk")
    found = steps.group_by("benchmark", "stream").agg("number")["number"].to_list()
    return {number: own for own in found for number in own}


def _following(numbers: pl.DataFrame) -> pl.DataFrame:
    """The number of the step that follows each step of a stream, by the key of the earlier one."""
    steps = numbers.filter(pl.col("stream") != "").sort("chunk")
    following = pl.col("number").shift(-1).over("benchmark", "stream")
    return steps.select(*KEY, number=following).drop_nulls("number")


class _Blocks:
    """The sources' rows, divided into files by the block of their case."""

    SCHEMAS = {
        "case": records.CASE,
        "preference": records.PREFERENCE,
        "earlier": records.PREFERENCE,
        "judgement": records.JUDGEMENT,
        "response": records.RESPONSE,
        "win": records.WIN,
    }

    def __init__(self, work: Path, numbers: pl.DataFrame):
        self.work, self.numbers = work, numbers.select("number", *KEY)
        self.origin: dict[str, str | Path] = {}  # the first file in which each method occurs

    @property
    def methods(self) -> set[str]:
        return set(self.origin)

    def divide(
        self, kind: str, paths: Sequence[str | Path], schema: pl.Schema, numbers: pl.DataFrame | None = None
    ) -> list[str]:
        """Divide the files of one kind; returns the judges in them.

        `numbers` are those of other cases to which a case's rows go.
        """
        numbers = self.numbers if numbers is None else numbers
        (self.work / kind).mkdir()
        judges: dict[str, None] = {}
        for place, path in enumerate(paths):
            for part, batch in enumerate(records.batches(path, schema)):
                rows = batch.join(numbers, on=KEY, how="inner", maintain_order="left")
                for name in ("method", "method_a", "method_b"):
                    if name in rows.columns:
                        self.origin |= {method: path for method in rows[name].unique() if method not in self.origin}
                if "judge" in rows.columns:
                    judges |= dict.fromkeys(rows["judge"].unique(maintain_order=True))
                divided = rows.with_columns(block=pl.col("number") // BLOCK).partition_by("block", as_dict=True)
                for (block,), own in divided.items():
                    own.drop("block").write_parquet(
                        self.work / kind / f"{block}-{place:04}-{part:06}.parquet", compression="lz4"
                    )
        return list(judges)

    def read(self, kind: str, block: int) -> pl.DataFrame:
        """One block's rows of one kind, in the cases' order."""
        paths = sorted((self.work / kind).glob(f"{block}-*.parquet"))
        if not paths:
            return pl.DataFrame(schema={**self.SCHEMAS[kind], "number": pl.UInt32})
        return pl.concat([pl.read_parquet(path) for path in paths]).sort("number", maintain_order=True)


def _details(
    block: Mapping[str, pl.DataFrame],
    methods: Sequence[str],
    judges: Sequence[str],
    dimensions: Mapping[int, str],
    streams: Mapping[int, list[int]],
) -> list[dict[str, Any]]:
    """What the site shows of each case in a block, in the cases' order; methods and judges by their position.

    A step of a stream also has the numbers of all `steps`, the sizes of its chunks, and what `changed` in each method's
    description since the step before.
    """
    described, earlier, written, won = (
        block[kind].rows_by_key("number", named=True) for kind in ("preference", "earlier", "response", "win")
    )
    judged = _judged(block["judgement"], methods, judges)
    of_method = {name: i for i, name in enumerate(methods)}
    signals = [
        pl.col(name).list.eval(pl.concat_list([pl.element().struct.field(part) for part in parts]))
        for name, parts in SIGNALS.items()
    ]
    return [
        {
            "id": case["case_id"],
            "benchmark": case["benchmark"],
            "directions": [[name, sign] for name, sign in _directions(case, dimensions)],
            "golden": case["golden_preference"],
            "prompt": case["prompt"],
            "chosen": case["chosen"],
            "rejected": case["rejected"],
            "pairs": case["pairs"],
            "ugc": case["ugc"],
            "rendered": case["rendered"],
            "described": {
                of_method[row["method"]]: [
                    row["reasoning"],
                    row["preference"],
                    row["format_ok"],
                    row["finish_reason"],
                    row["prompt_tokens"],
                    row["completion_tokens"],
                ]
                for row in described[case["number"]]
            },
            "judged": judged.get(case["number"], []),
            "written": {
                of_method[row["method"]]: row["response"]
                for row in written[case["number"]]
                if row["finish_reason"] != "refused"
            },
            "won": [
                [of_method[row["method_a"]], of_method[row["method_b"]], row["outcome"]] for row in won[case["number"]]
            ],
            **(
                {
                    "steps": streams[case["number"]],
                    "chunks": case["chunks"],
                    "changed": _changed(earlier[case["number"]], described[case["number"]], of_method),
                }
                if case["number"] in streams
                else {}
            ),
        }
        for case in block["case"].with_columns(*signals).iter_rows(named=True)
    ]


def _changed(
    earlier: Sequence[Mapping[str, Any]], described: Sequence[Mapping[str, Any]], of_method: Mapping[str, int]
) -> dict[int, list[Change]]:
    """What changed in the descriptions that methods wrote at two steps of a stream."""
    before = {row["method"]: row["preference"] for row in earlier}
    return {
        of_method[row["method"]]: changes(before[row["method"]], row["preference"])
        for row in described
        if row["method"] in before
    }


def _judged(rows: pl.DataFrame, methods: Sequence[str], judges: Sequence[str]) -> dict[int, list[tuple[Any, ...]]]:
    """The judgements of each case; a probability that is not finite is None."""
    p = pl.col("p_chosen_ab", "p_chosen_ba")
    shown = rows.select(
        pl.col("judge").cast(pl.Enum(judges)).to_physical(),
        pl.col("method").cast(pl.Enum(methods)).to_physical(),
        pl.when(p.is_finite()).then(p.round(6)),
        "correct",
        "position_flip",
        "unparsed",
    )
    counts = rows.group_by("number", maintain_order=True).len()
    judgements = iter(shown.rows())
    return {number: list(islice(judgements, count)) for number, count in counts.iter_rows()}


def _directions(case: Mapping[str, Any], dimensions: Mapping[int, str]) -> Iterator[tuple[str, int]]:
    """Names and signs of a case's dimensions: its named one (P-SOUPS), or every one with a direction (AlignX)."""
    if case["dimension"]:
        yield case["dimension"], case["direction"][0] if case["direction"] else 0
        return
    for place, sign in enumerate(case["direction"]):
        if sign:
            yield dimensions.get(place, f"dimension {place}"), sign


def _texts(block: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """All texts that a search covers, as rows of number and text."""
    case, described = block["case"], block["preference"]
    own = [
        case.select("number", text=name) for name in ("prompt", "chosen", "rejected", "golden_preference", "rendered")
    ]
    for name, fields in SIGNALS.items():
        signals = case.select("number", name).explode(name, empty_as_null=False, keep_nulls=False)
        own += [signals.select("number", text=pl.col(name).struct.field(part)) for part in fields]
    own += [described.select("number", text=name) for name in ("reasoning", "preference")]
    own.append(block["response"].select("number", text="response"))
    return pl.concat(own)


class _Index:
    """What the list and the filters need of every case, collected block by block.

    Outcomes are one character per case: "1" right, "0" wrong, "-" not judged.
    """

    def __init__(self, count: int, methods: Sequence[str], judges: Sequence[str]):
        self.count, self.judges = count, judges
        self.methods = {name: place for place, name in enumerate(methods)}
        self.snippets: list[str] = []
        self.outcomes: dict[tuple[str, str], np.ndarray] = {}
        self.dimensions: dict[str, list[int]] = defaultdict(list)

    def add(self, block: Mapping[str, pl.DataFrame], details: Sequence[Mapping[str, Any]]) -> None:
        case = block["case"]
        self.snippets += case["prompt"].str.replace_all(r"\s+", " ").str.slice(0, SNIPPET).to_list()
        for number, one in zip(case["number"], details, strict=True):
            for name, _ in one["directions"]:
                self.dimensions[name].append(number)
        for (judge, method), rows in block["judgement"].partition_by("judge", "method", as_dict=True).items():
            outcome = self.outcomes.setdefault((judge, method), np.full(self.count, ord("-"), dtype=np.uint8))
            outcome[rows["number"].to_numpy()] = (
                rows["correct"].replace_strict(OUTCOMES, return_dtype=pl.UInt8).to_numpy()
            )

    def fields(self, numbers: pl.DataFrame, shards: list[list[str]]) -> dict[str, Any]:
        benchmarks = numbers.group_by("benchmark", maintain_order=True).len()
        outcomes: list[list[str | None]] = [
            [_text(self.outcomes.get((judge, method))) for method in self.methods] for judge in self.judges
        ]
        names = sorted(self.dimensions)
        found = pl.Series([self.dimensions[name] for name in names], dtype=pl.List(pl.UInt32))
        return {
            "count": self.count,
            "chunk": CHUNK,
            "benchmarks": [list(row) for row in benchmarks.iter_rows()],
            "ids": numbers["case_id"].to_list(),
            "snippets": self.snippets,
            "judges": list(self.judges),
            "outcomes": outcomes,
            "dimensions": list(zip(names, postings(found, self.count), strict=True)),
            "shards": shards,
        }


def _text(outcome: np.ndarray | None) -> str | None:
    return None if outcome is None else outcome.tobytes().decode("ascii")
