"""Count what descriptions are worth after each chunk of a stream, and what the update took."""

from alignxplore.results.queries import (
    columns_relation,
    drifts_relation,
    methods_relation,
    query,
    updating_relation,
)
from alignxplore.results.tables import STREAMING_NOTE, streaming_cells, write_cells
from alignxplore.workflow.job import script_main


def main(snakemake):
    inputs, params, output = snakemake.input, snakemake.params, snakemake.output
    parquet = {name: inputs[name] for name in ("judgements", "cases", "preferences")}
    relations = {
        "methods": methods_relation(params.methods),
        "columns": columns_relation(params.columns),
        "updating": updating_relation(params.updating),
        "drifts": drifts_relation(params.drifts),
    }
    found = query(inputs.sql, parquet, relations)
    cells = streaming_cells(found, params.resamples, params.seed)
    write_cells(found, cells, params.title, STREAMING_NOTE, output.csv, output.markdown)


script_main(main, snakemake)  # noqa: F821
