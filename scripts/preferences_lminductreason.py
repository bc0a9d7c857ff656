"""Induce a rule of preference for each case of the benchmarks of the baseline LMInductReason."""

from dataclasses import replace

import polars as pl
from alignxplore import options, records
from alignxplore.engines import Sampling, load
from alignxplore.judging.judge import load_judge
from alignxplore.methods.lminductreason import induced_preferences
from alignxplore.prompts import Templates
from alignxplore.workflow.job import script_main


def main(snakemake):
    inputs, params, resources, config = snakemake.input, snakemake.params, snakemake.resources, snakemake.config
    cases = pl.concat([records.read(path, records.CASE) for path in inputs.cases])
    templates = Templates.of_rule(inputs)
    engine = load(options.of_model(params.model, config, resources.model), config["journal"])
    judge = load_judge(options.of_judge(params.judge, config, resources.judge_model), templates, config["journal"])
    if params.judge["model"] == params.model:
        judge = replace(judge, engine=engine)  # one model in memory
    sampling = Sampling(**params.sampling, seed=params.seed)
    preferences = induced_preferences(engine, judge, templates, cases, params.method, params.entry, sampling)
    records.write(preferences, snakemake.output.preferences, records.PREFERENCE)


script_main(main, snakemake)  # noqa: F821
