"""Train the baseline VPL on D_rl."""

from alignxplore import records
from alignxplore.engines import model_entry
from alignxplore.methods import vpl
from alignxplore.workflow.job import script_main


def main(snakemake):
    params, output = snakemake.params, snakemake.output
    entry = model_entry(params.model, snakemake.config)
    examples = records.read(snakemake.input.data, records.EXAMPLE)
    pairs = vpl.featured_pairs(entry, examples)
    model, metrics = vpl.train(pairs, vpl.Settings(**params.settings), params.seed)
    vpl.save(model, output.model)
    records.write(metrics, output.metrics, vpl.METRICS)


script_main(main, snakemake)  # noqa: F821
