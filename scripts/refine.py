"""Read one shard of the raw AlignX files, and keep examples with a clear, consistent history (paper A.1)."""

from alignxplore.data.refine import Rules
from alignxplore.data.shards import FILES, refine_shard
from alignxplore.data.sources import plan
from alignxplore.workflow.job import script_main


def main(snakemake):
    params, output = snakemake.params, snakemake.output
    shard, shards = map(int, params.shard.split("-of-"))
    pieces = plan(snakemake.input.sources, shards)[shard - 1]
    refine_shard(pieces, Rules(**params.rules), params.max_characters, {name: output[name] for name in FILES})


script_main(main, snakemake, temporary=True)  # noqa: F821
