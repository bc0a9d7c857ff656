"""Train VPL on D_rl."""

from alignxplore import options, records
from alignxplore.methods import vpl
from alignxplore.workflow.job import script_main


def main(snakemake):
    params, output = snakemake.params, snakemake.output
    entry = options.of_model(params.model, snakemake.config, snakemake.resources.model)
    examples = records.read(snakemake.input.data, records.EXAMPLE)
    pairs = vpl.featured_pairs(entry, examples)
    model, metrics = vpl.train(pairs, vpl.Settings(**params.settings), params.seed)
    vpl.save(model, output.model)
    records.write(metrics, output.metrics, vpl.METRICS)


script_main(main, snakemake)  # noqa: F821
