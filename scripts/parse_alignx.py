"""Read raw AlignX files as examples, and name every record that cannot be used."""

from pathlib import Path

from alignxplore import records
from alignxplore.cli import script_main
from alignxplore.data.alignx import check_reject_share, parse_sources


def main(snakemake):
    examples, rejects = parse_sources(snakemake.input.sources)
    share = snakemake.params.max_reject_share
    # Snakemake removes the outputs of a failed job, so the rejects of one are kept beside its log.
    kept = Path(snakemake.log[0]).with_suffix(".rejects.parquet")
    kept.unlink(missing_ok=True)
    if rejects.height > share * (examples.height + rejects.height):
        records.write(rejects, kept, records.REJECT)
    check_reject_share(examples.height, rejects, share, kept)
    records.write(examples, snakemake.output.examples, records.EXAMPLE)
    records.write(rejects, snakemake.output.rejects, records.REJECT)


script_main(main, snakemake)  # noqa: F821
