"""Raw data from the Hugging Face hub."""

import shutil
from pathlib import Path

import datasets
import huggingface_hub
from huggingface_hub.errors import HfHubHTTPError

from alignxplore.data.locations import HubFile
from alignxplore.errors import UserError


def download(source: str, output: str | Path) -> None:
    """Write one file of a hub dataset to `output`; without a file, the rows of the train split as Parquet.

    Raises UserError where the hub, the dataset, its revision or the file cannot be reached.
    """
    hub = HubFile.parse(source)
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    try:
        if hub.file is not None:
            cached = huggingface_hub.hf_hub_download(hub.dataset, hub.file, repo_type="dataset", revision=hub.revision)
            shutil.copyfile(cached, output)
        else:
            rows = datasets.load_dataset(hub.dataset, split="train", revision=hub.revision)
            rows.to_parquet(str(output))
    except (OSError, ValueError, HfHubHTTPError) as error:
        raise UserError(f"{source}: {error}") from error
