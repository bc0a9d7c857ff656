"""Sweeps: variants of a configuration side by side, each in a tree of its own that takes from others what is equal."""

import json
import logging
import os
import shutil
import subprocess
import sys
from base64 import urlsafe_b64decode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import yaml

from alignxplore.errors import UserError
from alignxplore.results.markdown import escape, table_lines
from alignxplore.results.stats import bootstrap_interval, holm, paired_t_test
from alignxplore.results.tables import P_DIGITS, SIGNIFICANT
from alignxplore.workflow.config import check_config, check_document, known
from alignxplore.workflow.provenance import SUFFIX

log = logging.getLogger(__name__)

WORKFLOW = Path(__file__).parents[2]
SOURCES = ("config", "resources", "scripts")
"""What configurations name by paths in the workflow's directory."""
CONFIG = "sweep.yaml"
COMPARISON = pl.Schema(
    {
        "variant": pl.String(),
        "method": pl.String(),
        "column": pl.String(),
        "n": pl.Int64(),
        "percent": pl.Float64(),
        "low": pl.Float64(),
        "high": pl.Float64(),
        "difference": pl.Float64(),
        "difference_low": pl.Float64(),
        "difference_high": pl.Float64(),
        "p_value": pl.Float64(),
        "p_holm": pl.Float64(),
    }
)
"""Columns of a comparison: percentages with 95% bootstrap intervals over targets; `difference` is to the first variant,
in percentage points. Its interval, the p-value of the paired t-test, and that adjusted over the variants by Holm's
method are missing where the variant has other cases than the first."""


@dataclass(frozen=True)
class Sweep:
    """Whole configurations by variant; `methods` of the accuracy table `table` are compared."""

    name: str
    table: str
    methods: tuple[str, ...]
    configs: Mapping[str, Mapping[str, Any]]

    def judgements(self, variant: str) -> list[tuple[str, str, str]]:
        """(method, judge, path below the variant's tree) of the judgements that are compared."""
        judges = dict.fromkeys(column["judge"] for column in self.columns(variant))
        return [(m, judge, f"results/judgements/{judge}/{m}.parquet") for judge in judges for m in self.methods]

    def columns(self, variant: str) -> list[dict[str, Any]]:
        """The table's columns as a variant has them."""
        return self.configs[variant]["tables"][self.table]["columns"]


def load(path: str | Path, directory: str | Path = ".") -> Sweep:
    """The sweep that a file describes, with paths in it, and the variants' common journal, below `directory`.

    Raises UserError that names the key if the file is wrong or a variant's configuration would be.
    """
    entry = _read(Path(path))
    check_document(entry, WORKFLOW / "config/sweeps/schema.yaml", str(path))
    base = _read(Path(directory, entry["base"]))
    if not isinstance(base, dict):
        raise UserError(f"{path}: base: {entry['base']} holds no configuration")
    configs: dict[str, dict[str, Any]] = {}
    for variant, changes in entry["variants"].items():
        config = changed(base, {**(entry.get("common") or {}), **(changes or {})}, f"{path}: {variant}")
        try:
            check_config(config, WORKFLOW / "config/schema.yaml")
            known("table", entry["table"], [n for n, t in config["tables"].items() if t["kind"] == "accuracy"])
            methods = tuple(entry.get("methods", config["tables"][entry["table"]]["methods"]))
            for method in methods:
                known("methods", method, config["tables"][entry["table"]]["methods"])
        except UserError as error:
            raise UserError(f"{path}: {variant}: {error}") from None
        configs[variant] = {**config, "journal": str(Path(directory, config["journal"]).resolve())}
    return Sweep(Path(path).stem, entry["table"], methods, configs)


def changed(config: Mapping[str, Any], changes: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A copy of `config` with the values in `changes` at their dotted places; numbers are places in a list."""
    result = json.loads(json.dumps(config))  # what YAML's aliases share must not change together
    for place, value in changes.items():
        *parents, last = place.split(".")
        found: Any = result
        for depth, key in enumerate([*parents, last]):
            inside = depth < len(parents)
            if isinstance(found, list) and key.isdecimal() and int(key) < len(found):
                found, key = found, int(key)  # type: ignore[assignment]
            elif not isinstance(found, dict) or (inside and key not in found):
                raise UserError(f"{where}: {place}: the configuration has no {'.'.join(place.split('.')[: depth + 1])}")
            if inside:
                found = found[key]
            else:
                found[key] = value
    return result


def run(sweep: Sweep, directory: Path, finished: Sequence[Path], options: Sequence[str]) -> list[Path]:
    """Run Snakemake with `options` for every variant in `directory`/VARIANT; returns these trees.

    A tree takes from the trees `finished`, and from those of the variants before it, every file that Snakemake would
    not make anew there under the variant's configuration.
    """
    trees: list[Path] = []
    for variant, config in sweep.configs.items():
        tree = directory / variant
        targets = [path for _, _, path in sweep.judgements(variant)]
        _lay_out(tree, config)
        complete = all((tree / target).exists() for target in targets)
        for other in [] if complete else [*finished, *trees]:
            count = _take_over(other, tree, targets)
            log.info("%s: %d outputs are those of %s", variant, count, other)
        log.info("%s: running in %s", variant, tree)
        # What jobs print must not mix with the table.
        ended = subprocess.run(_snakemake(tree, tree, targets, options), stdout=sys.stderr, check=False)
        if ended.returncode:
            raise UserError(
                f"{variant}: Snakemake ended with status {ended.returncode}; its logs are in {tree / 'logs'}"
            )
        trees.append(tree)
    return trees


def _lay_out(tree: Path, config: Mapping[str, Any]) -> None:
    tree.mkdir(parents=True, exist_ok=True)
    for name in SOURCES:
        link = tree / name
        if not link.is_symlink() or link.readlink() != WORKFLOW / name:
            link.unlink(missing_ok=True)
            link.symlink_to(WORKFLOW / name)
    (tree / CONFIG).write_text(yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True), encoding="utf-8")


def _snakemake(directory: Path, tree: Path, targets: Sequence[str], options: Sequence[str]) -> list[str]:
    """Snakemake's command in `directory`, with the configuration of the variant in `tree`."""
    command = [sys.executable, "-m", "snakemake", *targets, "--snakefile", str(WORKFLOW / "Snakefile")]
    return [*command, "--directory", str(directory), "--configfile", str((tree / CONFIG).resolve()), *options]


def _take_over(other: Path, tree: Path, targets: Sequence[str]) -> int:
    """Link what `other` has and `tree` lacks, if Snakemake finds it up to date in `other` under `tree`'s configuration.

    Snakemake judges each file within a tree in which everything fits together, so that files of several trees may be
    mixed. It removes an output before it makes it anew, so that a linked file is never written to. Returns the number
    of outputs.
    """
    if not (other / ".snakemake/metadata").is_dir():
        return 0
    command = _snakemake(other, tree, targets, ["--summary", "--rerun-incomplete"])
    summary = subprocess.run(command, capture_output=True, text=True, check=False)
    if summary.returncode:
        raise UserError(f"{tree}: Snakemake cannot plan the run: {summary.stderr.strip()}")
    taken = set()
    torn = {path for path, _ in _records(other, "incomplete")}  # which a summary does not look at
    for line in summary.stdout.splitlines():
        path, *_, plan = line.split("\t")
        if plan == "no update" and path not in torn and (other / path).exists() and not (tree / path).exists():
            taken.add(path)
    # Without this directory Snakemake takes records for those of an old version.
    (tree / ".snakemake/incomplete").mkdir(parents=True, exist_ok=True)
    for path, record in _records(other, "metadata"):
        if path in taken:  # before the output itself, which without it would count as made by nobody knows what
            _copy(other / record, tree / record, shutil.copy2)
    for path in sorted(taken):
        _copy(other / path, tree / path, _link)
        sidecar = f"{path}{SUFFIX}"
        if (other / sidecar).exists():
            _copy(other / sidecar, tree / sidecar, _link)
    return len(taken)


def _records(tree: Path, kind: str) -> Iterator[tuple[str, Path]]:
    """(output, file below `tree`) of Snakemake's records of a kind, which are named by the output's path in base 64."""
    root = tree / ".snakemake" / kind
    for file in root.rglob("*"):
        if file.is_file():
            name = "".join(part.removeprefix("@") for part in file.relative_to(root).parts)
            yield urlsafe_b64decode(name).decode(), file.relative_to(tree)


def _copy(source: Path, target: Path, copy: Any) -> None:
    """`copy` a file, or those in a directory, so that `target` is whole or not there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part")
    if part.is_dir():
        shutil.rmtree(part)
    part.unlink(missing_ok=True)
    if source.is_dir():
        shutil.copytree(source, part, copy_function=copy)
    else:
        copy(source, part)
    part.replace(target)


def _link(source: str | Path, target: str | Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copy2(source, target)


def compare(sweep: Sweep, directory: Path) -> pl.DataFrame:
    """COMPARISON of the variants whose trees lie in `directory`; UserError names judgements that are missing."""
    rows = _outcomes(sweep, directory).to_dicts()
    settings = next(iter(sweep.configs.values()))
    interval = {"resamples": settings["resamples"], "seed": settings["seed"]}
    for row in rows:
        row["low"], row["high"] = (100 * end for end in bootstrap_interval(row["outcomes"], row["targets"], **interval))
        row["difference_low"] = row["difference_high"] = row["p_value"] = row["p_holm"] = None
        if row["paired"]:
            differences = [a - b for a, b in zip(row["outcomes"], row["first_outcomes"], strict=True)]
            ends = bootstrap_interval(differences, row["targets"], **interval)
            row["difference_low"], row["difference_high"] = (100 * end for end in ends)
            row["p_value"] = paired_t_test(row["outcomes"], row["first_outcomes"])
    for place in {(row["method"], row["column"]) for row in rows}:
        tested = [row for row in rows if (row["method"], row["column"]) == place and row["p_value"] is not None]
        for row, adjusted in zip(tested, holm([row["p_value"] for row in tested]), strict=True):
            row["p_holm"] = adjusted
    cells = pl.DataFrame([{name: row[name] for name in COMPARISON} for row in rows], schema=COMPARISON)
    shares = pl.col("percent", "low", "high", "difference", "difference_low", "difference_high")
    return cells.with_columns(shares.round(2), pl.col("p_value", "p_holm").round_sig_figs(P_DIGITS))


def _outcomes(sweep: Sweep, directory: Path) -> pl.DataFrame:
    files, columns = [], []
    for place, variant in enumerate(sweep.configs):
        labels = sweep.configs[variant]["methods"]
        for method, judge, path in sweep.judgements(variant):
            file = directory / variant / path
            if not file.is_file():
                raise UserError(f"{file} is missing: run the sweep, or for this variant its Snakemake, to its end")
            files.append((place, variant, sweep.methods.index(method), labels[method]["label"], judge, str(file)))
        columns += [
            (variant, position, column["name"], column["judge"], benchmark)
            for position, column in enumerate(sweep.columns(variant))
            for benchmark in column["benchmarks"]
        ]
    file_names = ["variant_position", "variant", "method_position", "method", "judge", "filename"]
    column_names = ["variant", "position", "name", "judge", "benchmark"]
    with duckdb.connect(config={"threads": 1}) as connection:
        connection.read_parquet([file for *_, file in files], filename=True).create_view("judgements")
        connection.register("files", pl.DataFrame(files, file_names, orient="row").to_arrow())
        connection.register("columns", pl.DataFrame(columns, column_names, orient="row").to_arrow())
        return connection.sql((WORKFLOW / "scripts/sql/sweep.sql").read_text(encoding="utf-8")).pl()


def markdown(sweep: Sweep, cells: pl.DataFrame) -> str:
    """A wide table: variants of each method down, columns across; percent, interval, difference to the first."""
    names = cells["column"].unique(maintain_order=True).to_list()
    by_place = {(row["method"], row["variant"], row["column"]): row for row in cells.to_dicts()}
    rows = []
    for method, variant in cells.select("method", "variant").unique(maintain_order=True).iter_rows():
        places = [by_place.get((method, variant, name)) for name in names]
        rows.append([escape(method), escape(variant), *("–" if p is None else _cell(p) for p in places)])
    table = table_lines(["method", "variant", *map(escape, names)], rows)
    first = next(iter(sweep.configs))
    note = (
        f"Percent of cases with 95% bootstrap intervals over targets, and the difference to {escape(first)} in"
        " percentage points; * significant (paired t-test, p < 0.05 after Holm's adjustment over the variants). Where a"
        " variant has other cases than the first there is no test."
    )
    return "\n".join([f"# Sweep {escape(sweep.name)}", "", *table, "", note, ""])


def _cell(row: Mapping[str, Any]) -> str:
    figure = f"{row['percent']:.1f} [{row['low']:.1f}, {row['high']:.1f}]"
    if row["difference"] is None:
        return figure
    is_significant = row["p_holm"] is not None and row["p_holm"] < SIGNIFICANT
    return f"{figure}<br>{row['difference']:+.1f}{'*' if is_significant else ''}"


def _read(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
