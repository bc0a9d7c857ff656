"""Describe preferences with one method's model, for the cases of all its benchmarks."""

import polars as pl
from alignxplore import records
from alignxplore.engines import Sampling, load, model_entry
from alignxplore.methods.model import model_preferences
from alignxplore.prompts import Templates
from alignxplore.workflow.job import script_main


def main(snakemake):
    inputs, params, config = snakemake.input, snakemake.params, snakemake.config
    cases = pl.concat([records.read(path, records.CASE) for path in inputs.cases])
    engine = load(model_entry(params.model, config), config["journal"])
    sampling = Sampling(**params.sampling, seed=params.seed)
    preferences = model_preferences(engine, Templates.of_rule(inputs), cases, params.method, params.entry, sampling)
    records.write(preferences, snakemake.output.preferences, records.PREFERENCE)


script_main(main, snakemake)  # noqa: F821
