"""Answer the online evaluation's cases under one method's descriptions."""

import polars as pl
from alignxplore import records
from alignxplore.engines import Sampling, load, model_entry
from alignxplore.judging.online import draw_cases, respond
from alignxplore.prompts import Templates
from alignxplore.workflow.job import script_main


def main(snakemake):
    inputs, params, config = snakemake.input, snakemake.params, snakemake.config
    cases = pl.concat([records.read(path, records.CASE) for path in inputs.cases])
    drawn = draw_cases(cases, params.groups, params.cases, params.seed)
    preferences = records.read(inputs.preferences, records.PREFERENCE)
    templates = Templates.of_rule(inputs)
    sampling = Sampling(**params.sampling, seed=params.seed)
    engine = load(model_entry(params.model, config), config["journal"])
    responses = respond(engine, templates, drawn, preferences, sampling)
    records.write(responses, snakemake.output.responses, records.RESPONSE)


script_main(main, snakemake)  # noqa: F821
