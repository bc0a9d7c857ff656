"""Choose the cases of the case study, and write the study as Markdown."""

import json
from pathlib import Path

from alignxplore.results.study import case_study
from alignxplore.workflow.job import script_main


def main(snakemake):
    inputs, params = snakemake.input, snakemake.params
    cases, text = case_study(inputs.cases, inputs.preferences, inputs.judgements, params.labels, params.wanted)
    chosen = {"methods": list(params.labels), "cases": cases.to_dicts()}
    Path(snakemake.output.cases).write_text(json.dumps(chosen, indent=1) + "\n", encoding="utf-8")
    Path(snakemake.output.markdown).write_text(text, encoding="utf-8")


script_main(main, snakemake)  # noqa: F821
