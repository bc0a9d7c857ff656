"""Write one method's preference descriptions for the cases of all its benchmarks."""

from dataclasses import replace

import polars as pl
from alignxplore import records
from alignxplore.baselines.lminductreason import induced_preferences
from alignxplore.baselines.pba import bridged_preferences
from alignxplore.cli import script_main
from alignxplore.data.wording import Wording
from alignxplore.engines import Sampling, load
from alignxplore.inference import given_preferences, model_preferences
from alignxplore.judging import load_judge
from alignxplore.prompts import Templates


def main(snakemake):
    cases = pl.concat([records.read(path, records.CASE) for path in snakemake.input.cases])
    records.write(preferences(snakemake, cases), snakemake.output.preferences, records.PREFERENCE)


def preferences(snakemake, cases):
    inputs, params, journal = snakemake.input, snakemake.params, snakemake.config["journal"]
    entry, method = params.entry, params.method
    if "model" not in entry:
        return given_preferences(entry["kind"], cases, method)
    engine, templates = load(params.model, journal), Templates.of_rule(inputs)
    if entry["kind"] == "pba":
        return bridged_preferences(engine, templates, cases, method, entry, Wording.load(inputs.wording))
    sampling = Sampling(**params.sampling, seed=params.seed)
    if entry["kind"] == "model":
        return model_preferences(engine, templates, cases, method, entry, sampling)
    judge = load_judge(params.judge, templates, journal)
    if params.judge["model"] == params.model:
        judge = replace(judge, engine=engine)  # one model in memory
    return induced_preferences(engine, judge, templates, cases, method, entry, sampling)


script_main(main, snakemake)  # noqa: F821
