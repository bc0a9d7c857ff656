"""Writes the site: its pages, the data beside them, and DataTables."""

import datetime
import json
import re
import shutil
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import docutils.core
import docutils.utils
import jinja2
import polars as pl
from markupsafe import Markup

from alignxplore import records
from alignxplore.errors import UserError
from alignxplore.results import figures
from alignxplore.results.site import csv_tables
from alignxplore.results.site.explorer import Sources, write_cases
from alignxplore.results.site.javascript import write_call
from alignxplore.results.site.lineage import Lineage
from alignxplore.results.site.rollouts import LONGEST_TEXT, read_rollouts
from alignxplore.results.study import CHOSEN

NO_METRICS = ("step", "epoch")
EVALUATED = {"reward": "held_out_reward", "format_ok": "held_out_format_ok", "completion_length": "held_out_length"}
"""Metrics of training that an evaluation measures too."""
LAST_STEPS = 10
"""Steps over which the training page averages."""
EXPORTS = re.compile(r"export\{(?:[^{}]*,)?([\w$]+) as default(?:,[^{}]*)?\};")
INSTALL = "install itables as envs/requirements/run.txt pins it"


@dataclass(frozen=True)
class Result:
    """A configured table (CSV) or figure (SVG), and the reStructuredText file that explains its kind."""

    name: str
    title: str
    path: Path
    caption: Path | None = None


@dataclass(frozen=True)
class Inputs:
    """Everything that the site shows.

    `points` maps a figure to the CSV file of what it draws; `metrics` maps a checkpoint's label to the Parquet file of
    its training metrics, and `rollouts` to that of its rollouts. `references` are the labels of methods that do not
    compete. `demo` says that the models are the scale models of the default run.
    """

    tables: Sequence[Result]
    figures: Sequence[Result]
    points: Mapping[str, Path]
    metrics: Mapping[str, Path]
    rollouts: Mapping[str, Path]
    funnel: Path | None
    splits: Path | None
    rejects: Sequence[Path]
    provenance: Path
    sources: Sources
    study: Path | None = None
    references: Collection[str] = ()
    demo: bool = False


def write_site(resources: Path, directory: Path, inputs: Inputs) -> None:
    """Write the site to `directory`; `resources` holds its templates (pages/), CSS and JavaScript (assets/).

    Raises UserError that names the file if an input, a template or DataTables cannot be read.
    """
    data = directory / "data"
    data.mkdir(parents=True)
    shutil.copytree(resources / "assets", directory / "assets")
    _write_datatables(directory / "assets/datatables.js")
    lineage = Lineage.read(inputs.provenance)
    shutil.copy(inputs.provenance, data)
    numbers = write_cases(inputs.sources, data)
    numbers.write_parquet(data / "cases.parquet")
    # The pages with content, which the navigation lists.
    names = {"index": "Results", "cases": "Cases", "case_study": "Case study", "training": "Training"}
    names |= {"rollouts": "Rollouts", "data": "Data", "provenance": "Provenance"}
    rollouts = {label: read for label, path in inputs.rollouts.items() if (read := read_rollouts(path))}
    empty = {
        "cases": not numbers.height,
        "case_study": inputs.study is None,
        "training": not inputs.metrics,
        "rollouts": not rollouts,
        "data": not inputs.splits,
    }
    pages = _Pages(
        resources / "pages",
        directory,
        lineage=lineage,
        names={name: title for name, title in names.items() if not empty.get(name)},
        references=inputs.references,
    )
    finals = [*inputs.tables, *inputs.figures]
    shown = {result.name: csv_tables.read_table(_copied(result.path, data)) for result in inputs.tables}
    _write_cells(shown, data / "cells.parquet")
    points = {name: csv_tables.read_table(_copied(path, data)) for name, path in inputs.points.items()}
    for result in inputs.figures:
        _copied(result.path, directory / "figures")
    made = [str(result.path) for result in finals if str(result.path) in lineage.rows]
    pages.write(
        "index",
        tables=[(result, shown[result.name], _html(result.caption)) for result in inputs.tables],
        figures=[(result, points.get(result.name), _html(result.caption)) for result in inputs.figures],
        cases=numbers.height,
        benchmarks=numbers["benchmark"].n_unique(),
        methods=len(inputs.sources.labels),
        total=lineage.total([*made, *(source for output in made for source in lineage.chain(output))]),
        commits=_distinct(lineage, "commit"),
        seeds=_distinct(lineage, "seed"),
        demo=inputs.demo,
    )
    if numbers.height:
        pages.write("cases", count=numbers.height)
    if inputs.study is not None:
        pages.write("case_study")
        _write_study(inputs.study, numbers, data)
    if inputs.metrics:
        pages.write("training", groups=_training(inputs.metrics, directory), last_steps=LAST_STEPS)
    if rollouts:
        paths = {label: str(path) for label, path in inputs.rollouts.items()}
        pages.write("rollouts", variants=rollouts, paths=paths, longest=LONGEST_TEXT)
    if inputs.splits:
        pages.write(
            "data",
            funnel=csv_tables.read_table(_copied(inputs.funnel, data)) if inputs.funnel else None,
            splits=csv_tables.read_table(_copied(inputs.splits, data)),
            rejects=_reasons(pl.concat([records.read(path, records.REJECT) for path in inputs.rejects])),
            paths={"funnel": str(inputs.funnel), "splits": str(inputs.splits), "rejects": map(str, inputs.rejects)},
        )
    pages.write("provenance", groups=list(lineage.groups()))


def _write_datatables(path: Path) -> None:
    """Write itables' copy of DataTables as a script: a page that is opened from disk may not load an ES module."""
    try:
        itables = distribution("itables")
        bundle = Path(str(itables.locate_file("itables/html/dt_bundle.js")))
        module = bundle.read_text(encoding="utf-8")
    except (PackageNotFoundError, OSError) as error:
        raise UserError(f"DataTables is missing ({error}): {INSTALL}") from error
    code, exports = EXPORTS.subn(r"window.DataTable=\1;", module)
    licence = itables.read_text("licenses/LICENSE")
    if exports != 1 or licence is None:
        raise UserError(f"{bundle}: not a DataTables module with its licence: {INSTALL}")
    path.write_text(f'/*! itables\n{licence}*/\n(()=>{{"use strict";{code}}})();\n', encoding="utf-8")


def _copied(path: Path, directory: Path) -> Path:
    """Copy a file into a directory of the site; returns its path there."""
    directory.mkdir(parents=True, exist_ok=True)
    try:
        return Path(shutil.copy(path, directory))
    except OSError as error:
        raise UserError(f"{path}: cannot be copied into the report: {error.strerror}") from error


class _Pages:
    """Renders the templates in a directory with the values that they share; all text is escaped."""

    def __init__(self, templates: Path, directory: Path, **shared: Any):
        self.directory = directory
        self.environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(templates),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self.environment.filters |= {
            "plain": csv_tables.plain,
            "is_number": csv_tables.is_number,
            "anchor": anchor,
            "duration": duration,
            "count": count,
            "signed": lambda number: f"{number:+.1f}".replace("-", "\u2212"),
            "moment": moment,
            "commit": commit,
            "pretty": lambda value: json.dumps(value, indent=2, ensure_ascii=False),
            "words": lambda name: name.replace("_", " "),
        }
        self.environment.tests["endswith"] = str.endswith
        self.environment.globals |= shared

    def write(self, name: str, **values: Any) -> None:
        try:
            page = self.environment.get_template(f"{name}.html.jinja").render(page=name, **values)
        except jinja2.TemplateError as error:
            raise UserError(f"report template {name}.html.jinja: {error}") from error
        (self.directory / f"{name}.html").write_text(page, encoding="utf-8")


def anchor(path: str) -> str:
    """A path as an id within a page."""
    return "".join(c if c.isalnum() or c in "-._" else "-" for c in path)


def duration(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s"
    return str(datetime.timedelta(seconds=round(seconds)))


def moment(started: str | None) -> str:
    """When a job started, to the second."""
    return "at an unknown time" if started is None else started.replace("T", " ")[:19] + " UTC"


def commit(code: str | None) -> str:
    """A commit's short name, with "+" if the code had changed since."""
    if code is None:
        return "unknown"
    name, changed, _ = code.partition("+")
    return name[:9] + changed


def count(number: float) -> str:
    """A count that can be read at a glance: 950, 12 000, 3.4 M."""
    for unit, size in (("G", 1e9), ("M", 1e6)):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return f"{number:,.0f}".replace(",", "\u202f")


def _html(caption: Path | None) -> Markup:
    """A caption file as HTML; raw HTML and file inclusion are disabled."""
    if caption is None:
        return Markup("")
    settings = {"raw_enabled": False, "file_insertion_enabled": False, "halt_level": 2, "report_level": 5}
    try:
        parts = docutils.core.publish_parts(
            caption.read_text(encoding="utf-8"), writer="html5", settings_overrides=settings
        )
    except (OSError, docutils.utils.SystemMessage) as error:
        raise UserError(f"caption {caption}: {error}") from error
    return Markup(parts["fragment"])


def _write_cells(shown: Mapping[str, csv_tables.Table], path: Path) -> None:
    """Write the cells of all wide tables to one Parquet file."""
    rows = [
        {"table": name, "method": method, "column": column, **vars(cell), "change": (cell.change or (None,))[0]}
        for name, table in shown.items()
        for method, cells in (table.wide or {}).items()
        for column, cell in cells.items()
    ]
    schema = pl.Schema(
        {
            **dict.fromkeys(("table", "method", "column"), pl.String()),
            **dict.fromkeys(("percent", "low", "high"), pl.Float64()),
            "mark": pl.String(),
            **dict.fromkeys(("paper", "change"), pl.Float64()),
        }
    )
    pl.DataFrame(rows, schema=schema).write_parquet(path)


def _write_study(study: Path, numbers: pl.DataFrame, data: Path) -> None:
    """Write the numbers of the study's cases, and its methods, for the browser."""
    chosen = json.loads(study.read_text(encoding="utf-8"))
    found = pl.DataFrame(chosen["cases"], schema=CHOSEN).join(
        numbers, on=["benchmark", "case_id"], how="left", maintain_order="left"
    )
    if missing := found.filter(pl.col("number").is_null())["case_id"].to_list():
        raise UserError(f"{study}: the report has no case {missing[0]!r}; add its benchmark to a table")
    write_call(data / "study.js", "AX.setStudy", found["number"].to_list(), chosen["methods"])


def _distinct(lineage: Lineage, field: str) -> list[str]:
    return sorted({str(row[field]) for row in lineage.rows.values() if row[field] is not None})


def _reasons(rejects: pl.DataFrame) -> csv_tables.Table:
    """Rejected records, counted by field and reason."""
    reasons = rejects.group_by("field", "reason").len("records").sort("records", "field", "reason", descending=True)
    return csv_tables.Table(reasons.columns, [[str(value) for value in row] for row in reasons.iter_rows()])


def _training(metrics: Mapping[str, Path], directory: Path) -> list[dict[str, Any]]:
    """Draw every metric, with checkpoints that report the same metrics in one figure; returns the page's groups.

    Evaluations are drawn beside the same metric of training. A metric that never changes is only in the table, and one
    that no checkpoint of the group has is not shown.
    """
    loaded = {name: pl.read_parquet(_copied(path, directory / "data/training")) for name, path in metrics.items()}
    groups: dict[tuple[str, ...], list[str]] = {}
    for name, table in loaded.items():
        groups.setdefault(tuple(c for c in table.columns if c not in NO_METRICS), []).append(name)
    drawn = []
    (directory / "figures").mkdir(exist_ok=True)
    for place, (names, members) in enumerate(groups.items()):
        curves = []
        tables = {member: loaded[member] for member in members}
        for metric in names:
            values = pl.concat([_reported(table[metric]) for table in tables.values()])
            if values.is_empty():
                continue
            image = None
            if metric not in EVALUATED.values() and values.n_unique() > 1:
                image = f"figures/training-{place}-{metric}.svg"
                held_out = EVALUATED.get(metric)
                curve = figures.training_curves(tables, metric, held_out if held_out in names else None)
                figures.save(curve, directory / image)
            last = {member: _reported(table[metric].tail(LAST_STEPS)).mean() for member, table in tables.items()}
            curves.append({"metric": metric, "image": image, "last": last})
        steps = {member: table["step"].max() for member, table in tables.items()}
        paths = {member: str(metrics[member]) for member in members}
        drawn.append({"members": members, "steps": steps, "paths": paths, "curves": curves})
    return drawn


def _reported(values: pl.Series) -> pl.Series:
    return values.drop_nulls().drop_nans()


def results(paths: Iterable[str], titles: Mapping[str, str], captions: Mapping[str, str]) -> list[Result]:
    """The results in these files, with the titles and caption files of their names."""
    named = ((Path(path).stem, Path(path)) for path in paths)
    return [
        Result(name, titles[name], path, Path(captions[name]) if name in captions else None) for name, path in named
    ]
