"""Write the page that shows every result."""

from pathlib import Path

from alignxplore import records
from alignxplore.cli import script_main
from alignxplore.report import render


def main(snakemake):
    inputs, titles = snakemake.input, snakemake.params.titles
    page = render(
        inputs.template,
        {titles[Path(path).stem]: path for path in inputs.tables},
        {titles[Path(path).stem]: path for path in inputs.figures},
        inputs.funnel,
        records.read(inputs.rejects, records.REJECT),
    )
    Path(snakemake.output.page).write_text(page, encoding="utf-8")


script_main(main, snakemake)  # noqa: F821
