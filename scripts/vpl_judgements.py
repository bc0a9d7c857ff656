"""Judge the cases of VPL's benchmarks by its own reward."""

import polars as pl
from alignxplore import options, records
from alignxplore.methods import vpl
from alignxplore.workflow.job import script_main


def main(snakemake):
    inputs, params, config = snakemake.input, snakemake.params, snakemake.config
    entry = options.of_model(params.model, config, config["methods"][params.method]["model"])
    cases = pl.concat([records.read(path, records.CASE) for path in inputs.cases])
    pairs = vpl.featured_pairs(entry, cases)
    judgements = vpl.judge(vpl.load(inputs.heads), cases, pairs, params.method, params.name)
    records.write(judgements, snakemake.output.judgements, records.JUDGEMENT)


script_main(main, snakemake)  # noqa: F821
