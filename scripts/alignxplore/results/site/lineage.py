"""Where each result file comes from: the job that made it, and the chain of jobs before that one."""

import json
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import polars as pl

from alignxplore.errors import UserError
from alignxplore.records import PROVENANCE

JSON_FIELDS = ("wildcards", "config", "inputs", "models", "versions", "account")


@dataclass(frozen=True)
class Total:
    """What a set of jobs took: seconds, prompts that models were asked, tokens, and cost in dollars.

    An answer that the journal gave counts with what it took when it was made.
    """

    jobs: int
    seconds: float
    asked: int
    from_journal: int
    tokens: int
    cost: float


class Lineage:
    """The rows of results/provenance.parquet by output, with JSON fields decoded."""

    def __init__(self, rows: Sequence[Mapping[str, Any]]):
        self.rows = {row["output"]: row for row in rows}

    @classmethod
    def read(cls, path: str | Path) -> "Lineage":
        """The lineage in a file; raises UserError that names the file, output and field if it is malformed."""
        try:
            table = pl.read_parquet(path, glob=False)
        except (OSError, pl.exceptions.PolarsError) as error:
            raise UserError(f"{path}: cannot be read as Parquet: {str(error).splitlines()[0]}") from error
        if missing := [name for name in PROVENANCE if name not in table.columns]:
            raise UserError(f"{path}: field {missing[0]!r} is missing")
        rows = table.to_dicts()
        for row in rows:
            for name in JSON_FIELDS:
                try:
                    row[name] = json.loads(row[name]) if row[name] else None
                except json.JSONDecodeError as error:
                    raise UserError(
                        f"{path}: output {row['output']!r}, field {name!r}: not valid JSON: {error}"
                    ) from error
        return cls(rows)

    def owner(self, path: str) -> str | None:
        """The recorded output that `path` is, or that contains it; None for a file that no job made."""
        for candidate in (path, *map(str, PurePosixPath(path).parents)):
            if candidate in self.rows:
                return candidate
        return None

    @cached_property
    def _sources(self) -> Mapping[str, Sequence[str]]:
        """The outputs that each output was made from directly."""
        return {
            output: list(dict.fromkeys(own for path in row["inputs"] or () if (own := self.owner(path)) is not None))
            for output, row in self.rows.items()
        }

    def chain(self, output: str) -> Sequence[str]:
        """The outputs that `output` was made from, directly or through others, nearest first."""
        seen: dict[str, None] = {}
        queue = deque(self._sources[output])
        while queue:
            source = queue.popleft()
            if source not in seen and source != output:
                seen[source] = None
                queue += self._sources[source]
        return list(seen)

    def total(self, outputs: Sequence[str]) -> Total:
        """What the jobs that made `outputs` took; a job that made several of them counts once."""
        jobs = {self._job(self.rows[output]): self.rows[output] for output in outputs}
        accounts = [account for row in jobs.values() for account in row["account"] or ()]

        def summed(name: str) -> Any:
            return sum(account.get(name) or 0 for account in accounts)

        return Total(
            len(jobs),
            sum(row["seconds"] or 0.0 for row in jobs.values()) + summed("reused_seconds"),
            summed("asked"),
            summed("from_journal"),
            summed("prompt_tokens") + summed("completion_tokens") + summed("reused_tokens"),
            float(summed("cost") + summed("reused_cost")),
        )

    def origin(self, output: str) -> Mapping[str, Any] | None:
        """A file's row, its chain, and the total over both; None if nothing is recorded of the file."""
        if output not in self.rows:
            return None
        chain = self.chain(output)
        return {"row": self.rows[output], "chain": chain, "total": self.total([output, *chain])}

    def groups(self) -> Iterator[tuple[str, Sequence[str]]]:
        """Outputs by directory, which names their stage; tables and figures, which readers look for first, lead."""
        named: dict[str, list[str]] = {"Tables and figures": []}
        for output in sorted(self.rows):
            parts = PurePosixPath(output).parts
            final = len(parts) == 2 and parts[0] == "results"
            named.setdefault("Tables and figures" if final else "/".join(parts[:2]), []).append(output)
        yield from ((name, outputs) for name, outputs in named.items() if outputs)

    @staticmethod
    def _job(row: Mapping[str, Any]) -> tuple[str, str, str]:
        return row["rule"], json.dumps(row["wildcards"], sort_keys=True), row["started"] or ""
