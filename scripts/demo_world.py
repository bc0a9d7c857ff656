"""Write the demo world's raw AlignX and P-SOUPS files, and the wording table of its poles."""

from pathlib import Path

from alignxplore.demo.raw import Population, Users, write_alignx, write_psoups, write_wording
from alignxplore.demo.world import PSOUPS_DIMENSIONS, Lexicon, Reveal, World
from alignxplore.workflow.job import script_main


def main(snakemake):
    params, output = snakemake.params, snakemake.output
    lexicon = Lexicon.load(snakemake.input.lexicon)
    reveal = Reveal(**params.reveal)
    axes = [str(index) for index in params.dimensions]
    users = Users(World(lexicon, reveal, f"{params.seed} users"), axes)
    records = write_alignx(users, Population(**params.population), Path(output.jsonl), Path(output.parquet))
    print(f"{records} raw AlignX records")
    psoups = Reveal(**params.psoups_reveal)
    for dimension in PSOUPS_DIMENSIONS:
        world = World(lexicon, psoups, f"{params.seed} psoups {dimension}")
        write_psoups(world, dimension, params.psoups_cases, Path(output[dimension]))
    write_wording(lexicon, Path(output.wording))


script_main(main, snakemake)  # noqa: F821
