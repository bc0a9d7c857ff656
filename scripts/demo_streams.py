"""Write users of the demo world who have long histories, for tests and for training."""

from pathlib import Path

from alignxplore.demo.raw import Users, write_streams
from alignxplore.demo.world import Lexicon, Reveal, World
from alignxplore.workflow.job import script_main


def main(snakemake):
    params, streams = snakemake.params, snakemake.params.streams
    lexicon, axes = Lexicon.load(snakemake.input.lexicon), [str(index) for index in params.dimensions]
    for name, count in (("test", streams["users"]), ("training", streams["training"])):
        # Random streams of their own, so that these users are not those of other files.
        users = Users(World(lexicon, Reveal(**params.reveal), f"{params.seed} streams {name}"), axes)
        write_streams(users, count, streams["signals"], Reveal(**streams["reveal"]), Path(snakemake.output[name]))


script_main(main, snakemake)  # noqa: F821
