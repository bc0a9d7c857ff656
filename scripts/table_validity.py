"""Compare what judges say under descriptions that are known to be right or wrong: can they be trusted?"""

from alignxplore.results.markdown import write_rows
from alignxplore.results.queries import columns_relation, methods_relation, query
from alignxplore.results.validity import VALIDITY_NOTE, validity_rows
from alignxplore.workflow.job import script_main


def main(snakemake):
    inputs, params, output = snakemake.input, snakemake.params, snakemake.output
    relations = {"methods": methods_relation(params.methods), "columns": columns_relation(params.columns)}
    found = query(inputs.sql, {"judgements": inputs.judgements, "cases": inputs.cases}, relations)
    rows = validity_rows(found, params.resamples, params.seed)
    write_rows(rows, params.title, VALIDITY_NOTE, output.csv, output.markdown)


script_main(main, snakemake)  # noqa: F821
