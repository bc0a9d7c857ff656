"""Judge the cases of VPL's benchmarks with its own reward."""

import polars as pl
from alignxplore import records
from alignxplore.engines import model_entry
from alignxplore.methods import vpl
from alignxplore.workflow.job import script_main


def main(snakemake):
    inputs, params, config = snakemake.input, snakemake.params, snakemake.config
    entry = model_entry(params.model, config)
    cases = pl.concat([records.read(path, records.CASE) for path in inputs.cases])
    pairs = vpl.featured_pairs(entry, cases)
    judgements = vpl.judge(vpl.load(inputs.heads), cases, pairs, params.method, params.name)
    records.write(judgements, snakemake.output.judgements, records.JUDGEMENT)


script_main(main, snakemake)  # noqa: F821
