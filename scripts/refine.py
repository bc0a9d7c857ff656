"""Keep examples with a clear, consistent history (paper A.1); count what each rule leaves."""

from alignxplore import records
from alignxplore.cli import script_main
from alignxplore.data.refine import refine


def main(snakemake):
    examples = records.read(snakemake.input.examples, records.EXAMPLE)
    refined, funnel = refine(examples, snakemake.params.min_dimensions, snakemake.params.history)
    records.write(refined, snakemake.output.refined, records.REFINED)
    funnel.write_csv(snakemake.output.funnel)


script_main(main, snakemake)  # noqa: F821
