"""Read files of one form as a split."""

from pathlib import Path

from alignxplore.data.forms import given_split
from alignxplore.workflow.job import script_main


def main(snakemake):
    params, output = snakemake.params, snakemake.output
    # Snakemake removes the outputs of a failed job, so the rejects are then kept beside the log.
    kept = Path(snakemake.log[0]).with_suffix(".rejects.parquet")
    kept.unlink(missing_ok=True)
    given_split(
        snakemake.input.sources,
        params.form,
        params.max_characters,
        params.max_reject_share,
        output.examples,
        output.rejects,
        str(kept),
        f"data.splits.{params.name}",
        params.posts,
        params.chunk,
    )


script_main(main, snakemake)  # noqa: F821
