"""Write one method's preference descriptions for the cases of all its benchmarks."""

import polars as pl
from alignxplore import records
from alignxplore.cli import script_main
from alignxplore.engines import Sampling, load
from alignxplore.inference import given_preferences, model_preferences
from alignxplore.prompts import Templates


def main(snakemake):
    inputs, params = snakemake.input, snakemake.params
    cases = pl.concat([records.read(path, records.CASE) for path in inputs.cases])
    if params.entry["kind"] == "model":
        templates = Templates.of_rule(inputs)
        engine = load(params.model, snakemake.config["journal"])
        sampling = Sampling(**params.sampling, seed=params.seed)
        preferences = model_preferences(engine, templates, cases, params.method, params.entry, sampling)
    else:
        preferences = given_preferences(params.entry["kind"], cases, params.method)
    records.write(preferences, snakemake.output.preferences, records.PREFERENCE)


script_main(main, snakemake)  # noqa: F821
