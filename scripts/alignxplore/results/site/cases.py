"""The case explorer's data: a compact index of all cases, details in chunks, and a word index, in bounded memory."""

import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from alignxplore import records
from alignxplore.errors import UserError
from alignxplore.results.site.scripts import write_call
from alignxplore.results.site.search import SearchIndex, posting

CHUNK = 25
"""Cases of a file of details."""
BLOCK = 500
"""Cases that are held in memory at a time; a multiple of CHUNK."""
SNIPPET = 140
"""Characters of a post in the list."""
KEY = ["benchmark", "case_id"]
OUTCOMES = {True: ord("1"), False: ord("0")}


@dataclass(frozen=True)
class Sources:
    """Parquet files of cases, and of what methods and judges said of them; `labels` names the methods, in order."""

    cases: Sequence[str | Path]
    preferences: Sequence[str | Path]
    judgements: Sequence[str | Path]
    labels: Mapping[str, str]
    dimensions: Mapping[int, str]
    responses: Sequence[str | Path] = field(default=())
    wins: Sequence[str | Path] = field(default=())


def write_cases(sources: Sources, directory: Path) -> pl.DataFrame:
    """Write `index.js`, `details/N.js` and `words/N.js` to `directory`.

    Returns the cases with their number in the site: number, benchmark, case_id, dimension. Raises UserError, naming
    the file, where one breaks its contract or knows other methods than `sources.labels`.
    """
    numbers = _numbers(sources.cases)
    count = numbers.height
    with tempfile.TemporaryDirectory(prefix="report-") as work:
        blocks = _Blocks(Path(work), numbers)
        blocks.divide("case", sources.cases, records.CASE)
        blocks.divide("preference", sources.preferences, records.PREFERENCE)
        judges = blocks.divide("judgement", sources.judgements, records.JUDGEMENT)
        blocks.divide("response", sources.responses, records.RESPONSE)
        blocks.divide("win", sources.wins, records.WIN)
        if unknown := sorted(blocks.methods - set(sources.labels)):
            raise UserError(
                f"report: there is no label for method {unknown[0]!r}, which {blocks.origin[unknown[0]]} has"
            )
        methods = [name for name in sources.labels if name in blocks.methods]
        index = _Index(count, methods, judges, sources.dimensions)
        search = SearchIndex(Path(work) / "words")
        for number in range(0, count, BLOCK):
            block = {kind: blocks.read(kind, number // BLOCK) for kind in _Blocks.SCHEMAS}
            details = _details(block, methods, judges, sources.dimensions)
            for start in range(0, len(details), CHUNK):
                place = (number + start) // CHUNK
                write_call(directory / f"details/{place}.js", "AX.chunk", place, details[start : start + CHUNK])
            index.add(block)
            search.add(_texts(block))
        shards = search.write(directory / "words", count)
    told = index.told(numbers, shards)
    told["methods"] = [[name, sources.labels[name]] for name in methods]
    write_call(directory / "index.js", "AX.index", told)
    return numbers


def _numbers(cases: Sequence[str | Path]) -> pl.DataFrame:
    """number, benchmark, case_id and dimension of every case, in the files' order."""
    columns = [*KEY, "dimension"]
    tables = [batch.select(columns) for path in cases for batch in records.batches(path, records.CASE)]
    table = pl.concat([pl.DataFrame(schema={name: pl.String for name in columns}), *tables])
    return table.with_row_index("number")


class _Blocks:
    """Rows of the sources divided among files by the block that their case is in."""

    SCHEMAS = {
        "case": records.CASE,
        "preference": records.PREFERENCE,
        "judgement": records.JUDGEMENT,
        "response": records.RESPONSE,
        "win": records.WIN,
    }

    def __init__(self, work: Path, numbers: pl.DataFrame):
        self.work, self.numbers = work, numbers.select("number", *KEY)
        self.origin: dict[str, str | Path] = {}

    @property
    def methods(self) -> set[str]:
        return set(self.origin)

    def divide(self, kind: str, paths: Sequence[str | Path], schema: pl.Schema) -> list[str]:
        """Divide one kind's files; returns the judges in them."""
        (self.work / kind).mkdir()
        judges: dict[str, None] = {}
        for place, path in enumerate(paths):
            for part, batch in enumerate(records.batches(path, schema)):
                rows = batch.join(self.numbers, on=KEY, how="inner", maintain_order="left")
                for name in ("method", "method_a", "method_b"):
                    if name in rows.columns:
                        self.origin |= {method: path for method in rows[name].unique() if method not in self.origin}
                if "judge" in rows.columns:
                    judges |= dict.fromkeys(rows["judge"].unique(maintain_order=True))
                divided = rows.with_columns(block=pl.col("number") // BLOCK).partition_by("block", as_dict=True)
                for (block,), own in divided.items():
                    own.drop("block").write_parquet(self.work / kind / f"{block}-{place:04}-{part:06}.parquet")
        return list(judges)

    def read(self, kind: str, block: int) -> pl.DataFrame:
        paths = sorted((self.work / kind).glob(f"{block}-*.parquet"))
        if not paths:
            return pl.DataFrame(schema={**self.SCHEMAS[kind], "number": pl.UInt32})
        return pl.concat([pl.read_parquet(path) for path in paths]).sort("number", maintain_order=True)


def _details(
    block: Mapping[str, pl.DataFrame], methods: Sequence[str], judges: Sequence[str], dimensions: Mapping[int, str]
) -> list[dict[str, Any]]:
    """What the page of each case of a block shows, in the cases' order; methods and judges by their place."""
    said, judged = _by_case(block["preference"]), _by_case(block["judgement"])
    written, won = _by_case(block["response"]), _by_case(block["win"])
    of_method, of_judge = {name: i for i, name in enumerate(methods)}, {name: i for i, name in enumerate(judges)}
    return [
        {
            "id": case["case_id"],
            "benchmark": case["benchmark"],
            "directions": [[name, sign] for name, sign in _directions(case, dimensions)],
            "golden": case["golden_preference"],
            "prompt": case["prompt"],
            "chosen": case["chosen"],
            "rejected": case["rejected"],
            "pairs": [[pair["prompt"], pair["chosen"], pair["rejected"]] for pair in case["pairs"]],
            "ugc": [[ugc["prompt"], ugc["comment"]] for ugc in case["ugc"]],
            "said": {
                of_method[row["method"]]: [
                    row["reasoning"],
                    row["preference"],
                    row["format_ok"],
                    row["finish_reason"],
                    row["prompt_tokens"],
                    row["completion_tokens"],
                ]
                for row in said[case["number"]]
            },
            "judged": [
                [
                    of_judge[row["judge"]],
                    of_method[row["method"]],
                    _finite(row["p_chosen_ab"]),
                    _finite(row["p_chosen_ba"]),
                    row["correct"],
                    row["position_flip"],
                    row["unparsed"],
                ]
                for row in judged[case["number"]]
            ],
            "written": {of_method[row["method"]]: row["response"] for row in written[case["number"]]},
            "won": [
                [of_method[row["method_a"]], of_method[row["method_b"]], row["outcome"]] for row in won[case["number"]]
            ],
        }
        for case in block["case"].iter_rows(named=True)
    ]


def _by_case(rows: pl.DataFrame) -> dict[int, list[dict[str, Any]]]:
    found: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for row in rows.iter_rows(named=True):
        found[row["number"]].append(row)
    return found


def _finite(value: float) -> float | None:
    return round(value, 6) if np.isfinite(value) else None


def _directions(case: Mapping[str, Any], dimensions: Mapping[int, str]) -> Iterator[tuple[str, int]]:
    """Names and signs of a case's dimensions: its own one (P-SOUPS), or those of AlignX on which it has a direction."""
    if case["dimension"]:
        yield case["dimension"], case["direction"][0] if case["direction"] else 0
        return
    for place, sign in enumerate(case["direction"]):
        if sign:
            yield dimensions.get(place, f"dimension {place}"), sign


def _texts(block: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """number and text of everything that a search finds."""
    case, said = block["case"], block["preference"]
    own = [case.select("number", text=name) for name in ("prompt", "chosen", "rejected", "golden_preference")]
    for name, fields in (("pairs", ("prompt", "chosen", "rejected")), ("ugc", ("prompt", "comment"))):
        signals = case.select("number", name).explode(name, empty_as_null=False, keep_nulls=False)
        own += [signals.select("number", text=pl.col(name).struct.field(part)) for part in fields]
    own += [said.select("number", text=name) for name in ("reasoning", "preference")]
    own.append(block["response"].select("number", text="response"))
    return pl.concat(own)


class _Index:
    """Columns of all cases, filled a block at a time."""

    def __init__(self, count: int, methods: Sequence[str], judges: Sequence[str], dimensions: Mapping[int, str]):
        self.count, self.judges, self.names = count, judges, dimensions
        self.methods = {name: place for place, name in enumerate(methods)}
        self.snippets: list[str] = []
        self.outcomes: dict[tuple[str, str], np.ndarray] = {}
        self.dimensions: dict[str, list[int]] = defaultdict(list)

    def add(self, block: Mapping[str, pl.DataFrame]) -> None:
        case = block["case"]
        self.snippets += case["prompt"].str.replace_all(r"\s+", " ").str.slice(0, SNIPPET).to_list()
        for row in case.select("number", "dimension", "direction").iter_rows(named=True):
            for name, _ in _directions(row, self.names):
                self.dimensions[name].append(row["number"])
        for (judge, method), rows in block["judgement"].partition_by("judge", "method", as_dict=True).items():
            outcome = self.outcomes.setdefault((judge, method), np.full(self.count, ord("-"), dtype=np.uint8))
            outcome[rows["number"].to_numpy()] = (
                rows["correct"].replace_strict(OUTCOMES, return_dtype=pl.UInt8).to_numpy()
            )

    def told(self, numbers: pl.DataFrame, shards: list[list[str]]) -> dict[str, Any]:
        benchmarks = numbers.group_by("benchmark", maintain_order=True).len()
        outcomes: list[list[str | None]] = [
            [_text(self.outcomes.get((judge, method))) for method in self.methods] for judge in self.judges
        ]
        return {
            "count": self.count,
            "chunk": CHUNK,
            "benchmarks": [list(row) for row in benchmarks.iter_rows()],
            "ids": numbers["case_id"].to_list(),
            "snippets": self.snippets,
            "judges": list(self.judges),
            "outcomes": outcomes,
            "dimensions": [
                [name, posting(np.asarray(found), self.count)] for name, found in sorted(self.dimensions.items())
            ],
            "shards": shards,
        }


def _text(outcome: np.ndarray | None) -> str | None:
    return None if outcome is None else outcome.tobytes().decode("ascii")
