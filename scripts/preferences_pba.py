"""Score the signals of each case on predefined dimensions and put the result into words: the baseline PBA."""

import polars as pl
from alignxplore import records
from alignxplore.data.wording import Wording
from alignxplore.engines import load, model_entry
from alignxplore.methods.pba import bridged_preferences
from alignxplore.prompts import Templates
from alignxplore.workflow.job import script_main


def main(snakemake):
    inputs, params, config = snakemake.input, snakemake.params, snakemake.config
    cases = pl.concat([records.read(path, records.CASE) for path in inputs.cases])
    engine = load(model_entry(params.model, config), config["journal"])
    templates, wording = Templates.of_rule(inputs), Wording.load(inputs.wording)
    preferences = bridged_preferences(engine, templates, cases, params.method, params.entry, wording)
    records.write(preferences, snakemake.output.preferences, records.PREFERENCE)


script_main(main, snakemake)  # noqa: F821
