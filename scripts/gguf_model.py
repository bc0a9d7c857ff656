"""Convert a GGUF file to a model directory."""

from pathlib import Path

from alignxplore.engines.gguf import convert, locate
from alignxplore.workflow.job import script_main


def main(snakemake):
    inputs, params = snakemake.input, snakemake.params
    template = Path(inputs.chat_template).read_text(encoding="utf-8") if inputs.chat_template else None
    file = locate(params.package["file"], params.package["name"]) if params.package else Path(inputs.file)
    convert(file, Path(snakemake.output.model), params.dtype, template)


script_main(main, snakemake)  # noqa: F821
