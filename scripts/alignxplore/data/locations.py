"""Where raw files are: names and globs of this machine, and `hf://OWNER/DATASET@REVISION[/FILE]` on the hub."""

import glob
import re
from collections.abc import Sequence
from dataclasses import dataclass

from alignxplore.errors import UserError

HUB_DIRECTORY = "data/raw/hub"
_HUB = re.compile(r"hf://(?P<dataset>[^/@]+/[^/@]+)@(?P<revision>[^/@]+)(?:/(?P<file>.+))?")


@dataclass(frozen=True)
class HubFile:
    """A file of a hub dataset, or all rows of its train split where `file` is None."""

    dataset: str
    revision: str
    file: str | None

    @classmethod
    def parse(cls, source: str) -> "HubFile":
        """From its address; UserError where it is not one, or pins no revision."""
        match = _HUB.fullmatch(source)
        if not match:
            raise UserError(
                f"{source!r} is not of the form hf://OWNER/DATASET@REVISION or hf://OWNER/DATASET@REVISION/FILE"
            )
        return cls(**match.groupdict())

    @property
    def path(self) -> str:
        """Where it is kept, below HUB_DIRECTORY."""
        return f"{self.dataset}@{self.revision}/{self.file or 'train.parquet'}"


def is_hub(source: str) -> bool:
    """Whether a source is on the hub."""
    return source.startswith("hf://")


def local_files(sources: Sequence[str]) -> list[str]:
    """The local files that sources stand for, in order, each once; UserError for a glob that matches nothing."""
    paths: list[str] = []
    for source in sources:
        if is_hub(source):
            paths.append(f"{HUB_DIRECTORY}/{HubFile.parse(source).path}")
        elif glob.has_magic(source):
            found = sorted(glob.glob(source, recursive=True))
            if not found:
                raise UserError(f"no file matches {source!r}")
            paths += found
        else:
            paths.append(source)
    return list(dict.fromkeys(paths))
