"""Compare the responses under two methods' descriptions."""

import polars as pl
from alignxplore import records
from alignxplore.judging.judge import judge_entry, load_judge
from alignxplore.judging.online import compare
from alignxplore.prompts import Templates
from alignxplore.workflow.job import script_main


def main(snakemake):
    inputs, params, config = snakemake.input, snakemake.params, snakemake.config
    entry = judge_entry(params.judge, config)
    cases = pl.concat([records.read(path, records.CASE) for path in inputs.cases])
    judge = load_judge(entry, Templates.of_rule(inputs), config["journal"])
    first = records.read(inputs.first, records.RESPONSE)
    second = records.read(inputs.second, records.RESPONSE)
    wins = compare(judge, params.name, cases, first, second)
    records.write(wins, snakemake.output.wins, records.WIN)


script_main(main, snakemake)  # noqa: F821
