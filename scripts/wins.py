"""Compare the responses under two methods' descriptions."""

import polars as pl
from alignxplore import records
from alignxplore.cli import script_main
from alignxplore.engines import load
from alignxplore.online import compare
from alignxplore.prompts import Templates


def main(snakemake):
    inputs, params = snakemake.input, snakemake.params
    cases = pl.concat([records.read(path, records.CASE) for path in inputs.cases])
    templates = Templates.of_rule(inputs)
    first = records.read(inputs.first, records.RESPONSE)
    second = records.read(inputs.second, records.RESPONSE)
    wins = compare(load(params.model), templates, params.judge, cases, first, second)
    records.write(wins, snakemake.output.wins, records.WIN)


script_main(main, snakemake)  # noqa: F821
