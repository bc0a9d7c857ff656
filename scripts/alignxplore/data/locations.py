"""Find raw files: local names and globs, and `hf://OWNER/DATASET@REVISION[/FILE]` on the Hugging Face hub."""

import glob
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from alignxplore.errors import UserError

HUB_DIRECTORY = "data/raw/hub"
_HUB = re.compile(r"hf://(?P<dataset>[^/@]+/[^/@]+)@(?P<revision>[^/@]+)(?:/(?P<file>.+))?")


@dataclass(frozen=True)
class HubFile:
    """One file of a hub dataset, or its whole train split if `file` is None."""

    dataset: str
    revision: str
    file: str | None

    @classmethod
    def parse(cls, source: str) -> "HubFile":
        """Parse an address. Raises UserError if it is malformed or pins no revision."""
        match = _HUB.fullmatch(source)
        if not match:
            raise UserError(
                f"{source!r} is not of the form hf://OWNER/DATASET@REVISION or hf://OWNER/DATASET@REVISION/FILE"
            )
        return cls(**match.groupdict())

    @property
    def path(self) -> str:
        """Path of the local copy, relative to HUB_DIRECTORY."""
        return f"{self.dataset}@{self.revision}/{self.file or 'train.parquet'}"


def is_hub(source: str) -> bool:
    """Whether a source is on the hub."""
    return source.startswith("hf://")


def local_files(sources: Sequence[str]) -> list[str]:
    """The local paths of all sources, in order and without repeats.

    Raises UserError if a glob matches nothing.
    """
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


def download(source: str, output: str | Path) -> None:
    """Copy a file of a hub dataset to `output`, or write its train split there as Parquet.

    Raises UserError if the hub, the dataset, its revision or the file cannot be reached.
    """
    # Imported here because they take seconds, and the workflow imports this module whenever it starts.
    import datasets
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    hub = HubFile.parse(source)
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    try:
        if hub.file is not None:
            cached = huggingface_hub.hf_hub_download(hub.dataset, hub.file, repo_type="dataset", revision=hub.revision)
            shutil.copyfile(cached, output)
        else:
            datasets.load_dataset(hub.dataset, split="train", revision=hub.revision).to_parquet(str(output))
    except (OSError, ValueError, HfHubHTTPError) as error:
        raise UserError(f"{source}: {error}") from error
