"""Judge one method's preference descriptions on all benchmarks."""

import polars as pl
from alignxplore import records
from alignxplore.judging.judge import judge_entry, load_judge
from alignxplore.judging.offline import judge_preferences
from alignxplore.prompts import Templates
from alignxplore.workflow.job import script_main


def main(snakemake):
    inputs, params, config = snakemake.input, snakemake.params, snakemake.config
    entry = judge_entry(params.judge, config)
    cases = pl.concat([records.read(path, records.CASE) for path in inputs.cases])
    preferences = records.read(inputs.preferences, records.PREFERENCE)
    judge = load_judge(entry, Templates.of_rule(inputs), config["journal"])
    judgements = judge_preferences(judge, params.name, cases, preferences)
    records.write(judgements, snakemake.output.judgements, records.JUDGEMENT)


script_main(main, snakemake)  # noqa: F821
