"""Write the site that shows every result."""

from pathlib import Path

import polars as pl
from alignxplore.results.site.explorer import Sources
from alignxplore.results.site.pages import Inputs, results, write_site
from alignxplore.workflow.job import script_main


def main(snakemake):
    inputs, params = snakemake.input, snakemake.params
    names = pl.read_csv(inputs.dimensions)
    sources = Sources(
        cases=inputs.cases,
        preferences=inputs.preferences,
        judgements=inputs.judgements,
        responses=inputs.responses,
        wins=inputs.wins,
        labels=params.labels,
        dimensions=dict(names.select("index", "name").iter_rows()),
    )
    site = Inputs(
        tables=results(inputs.tables, params.titles, params.captions),
        figures=results(inputs.figures, params.titles, params.captions),
        points={Path(path).stem: Path(path) for path in inputs.points},
        metrics={params.trained[Path(path).stem]: Path(path) for path in inputs.metrics},
        rollouts={params.trained[Path(path).stem]: Path(path) for path in inputs.rollouts},
        funnel=_path(inputs.funnel),
        splits=_path(inputs.splits),
        rejects=[Path(path) for path in inputs.rejects],
        provenance=Path(inputs.provenance),
        sources=sources,
        study=_path(inputs.study),
        references=params.references,
        demo=params.demo,
    )
    resources = Path(inputs.site[0]).parents[1]
    write_site(resources, Path(snakemake.output.site), site)


def _path(file):
    """The path of an input, or None if the experiment has no such file."""
    return Path(str(file)) if file else None


script_main(main, snakemake)  # noqa: F821
