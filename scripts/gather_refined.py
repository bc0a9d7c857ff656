"""Join the shards' refined examples, drop duplicates, and count what each refinement rule leaves."""

from pathlib import Path

from alignxplore.data.shards import FILES, gather
from alignxplore.workflow.job import script_main


def main(snakemake):
    inputs, output = snakemake.input, snakemake.output
    shards = [dict(zip(FILES, paths, strict=True)) for paths in zip(*(inputs[name] for name in FILES), strict=True)]
    # Snakemake removes the outputs of a failed job, so `gather` then keeps the rejects beside the log.
    kept = Path(snakemake.log[0]).with_suffix(".rejects.parquet")
    kept.unlink(missing_ok=True)
    gather(shards, snakemake.params.max_reject_share, output.refined, output.rejects, output.funnel, str(kept))


script_main(main, snakemake)  # noqa: F821
