"""Raw data from the Hugging Face hub."""

import shutil
from pathlib import Path

import datasets
import huggingface_hub
from huggingface_hub.errors import HfHubHTTPError

from alignxplore.errors import UserError


def download(dataset: str, revision: str, output: str | Path, file: str | None = None, split: str = "train") -> None:
    """Write one file of a hub dataset to `output`; without `file`, the rows of a split as Parquet.

    Raises UserError where the hub, the dataset, its revision or the file cannot be reached.
    """
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    try:
        if file is not None:
            cached = huggingface_hub.hf_hub_download(dataset, file, repo_type="dataset", revision=revision)
            shutil.copyfile(cached, output)
        else:
            rows = datasets.load_dataset(dataset, split=split, revision=revision)
            rows.to_parquet(str(output))
    except (OSError, ValueError, HfHubHTTPError) as error:
        raise UserError(f"dataset {dataset} at {revision}: {error}") from error
