"""Write users of the demo world who have long histories, for tests and for training."""

from pathlib import Path

from alignxplore.demo.raw import Users, write_streams
from alignxplore.demo.world import Lexicon, Reveal, World
from alignxplore.workflow.job import script_main


def main(snakemake):
    params = snakemake.params
    axes = [str(index) for index in params.dimensions]
    for name, count in (("test", params.streams["users"]), ("training", params.streams["training"])):
        # Random streams of their own, so that these users are not those of other files.
        world = World(Lexicon.load(snakemake.input.lexicon), Reveal(**params.reveal), f"{params.seed} streams {name}")
        write_streams(Users(world, axes), count, params.streams["signals"], Path(snakemake.output[name]))


script_main(main, snakemake)  # noqa: F821
