"""Make streams of the cases of a benchmark."""

from alignxplore import records
from alignxplore.data.stream_benchmarks import Drift, Noise, streamed
from alignxplore.data.wording import Wording
from alignxplore.workflow.job import script_main


def main(snakemake):
    params, inputs = snakemake.params, snakemake.input
    cases = streamed(
        records.read(inputs.cases, records.CASE),
        params.benchmark,
        params.chunk,
        params.seed,
        Noise(**params.noise) if params.noise else None,
        Drift(**params.drift) if params.drift else None,
        Wording.load(inputs.wording) if inputs.wording else None,
    )
    records.write(cases, snakemake.output.cases, records.CASE)


script_main(main, snakemake)  # noqa: F821
