"""Induce a rule of preference for each case: the baseline LMInductReason."""

from dataclasses import replace

import polars as pl
from alignxplore import records
from alignxplore.engines import Sampling, identity, load, model_entry
from alignxplore.judging.judge import judge_entry, load_judge
from alignxplore.methods.lminductreason import induced_preferences
from alignxplore.prompts import Templates
from alignxplore.workflow.job import script_main


def main(snakemake):
    inputs, params, config = snakemake.input, snakemake.params, snakemake.config
    cases = pl.concat([records.read(path, records.CASE) for path in inputs.cases])
    templates = Templates.of_rule(inputs)
    engine = load(model_entry(params.model, config), config["journal"])
    judge = load_judge(judge_entry(params.judge, config), templates, config["journal"])
    if identity(params.judge["model"]) == identity(params.model):
        judge = replace(judge, engine=engine)  # one model in memory
    sampling = Sampling(**params.sampling, seed=params.seed)
    preferences = induced_preferences(engine, judge, templates, cases, params.method, params.entry, sampling)
    records.write(preferences, snakemake.output.preferences, records.PREFERENCE)


script_main(main, snakemake)  # noqa: F821
