"""Sample G reasoning chains and descriptions from the teacher for each cold-start example."""

from alignxplore import records
from alignxplore.engines import Sampling, load, model_entry
from alignxplore.prompts import Templates
from alignxplore.training.cold_start import generate
from alignxplore.workflow.job import script_main


def main(snakemake):
    inputs, params, config = snakemake.input, snakemake.params, snakemake.config
    examples = records.read(inputs.cold, records.EXAMPLE)
    dimensions = dict(records.read(inputs.dimensions, records.DIMENSIONS).iter_rows())
    templates = Templates.of_rule(inputs)
    sampling = Sampling(**params.sampling, seed=params.seed)
    engine = load(model_entry(params.model, config), config["journal"])
    generations = generate(
        engine, templates, examples, dimensions, params.generations, sampling, params.prompt, params.answer
    )
    records.write(generations, snakemake.output.generations, records.GENERATION)


script_main(main, snakemake)  # noqa: F821
