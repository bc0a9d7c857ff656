"""Publish on the Hugging Face hub: a trained model with its card, or a run's results as a dataset."""

from collections.abc import Mapping
from itertools import chain
from pathlib import Path

import yaml

from alignxplore import adapters
from alignxplore.errors import UserError
from alignxplore.workflow import provenance

PREDICTIONS = ("preferences", "judgements", "responses", "wins")
"""Directories of results whose Parquet files become parts of the dataset."""

Files = Mapping[str, Path | bytes]
"""What to publish, by path in the repository: a local file, or its content."""


def model_files(directory: Path) -> Files:
    """The files of a trained model, without logged completions.

    Raises UserError if it is not a model with a card, or an adapter of a model that others do not have.
    """
    is_adapter = adapters.is_adapter(directory)
    for name in (adapters.CONFIG if is_adapter else "config.json", "README.md"):
        if not (directory / name).is_file():
            raise UserError(f"{directory}: there is no {name}; name the directory of a trained model")
    if is_adapter and Path(base := adapters.source(directory).base).is_dir():
        raise UserError(
            f"{directory}: this adapter belongs to {base}, a directory that others do not have; publish that, and write"
            f" its name on the hub into {adapters.CONFIG}; or train with lora.merge: true"
        )
    paths = [path for path in sorted(directory.rglob("*")) if path.is_file() and path.parent.name != "completions"]
    return {str(path.relative_to(directory)): path for path in paths}


def dataset_files(results: Path) -> Files:
    """The predictions, judgements and tables of a run, with a card.

    Cases are left out, and so are descriptions that consist of their texts, which are their authors'. Case ids are
    hashes of the texts, so whoever has the data can join them.
    """
    parts = {part: list(filter(_is_ours, sorted((results / part).rglob("*.parquet")))) for part in PREDICTIONS}
    parts = {part: paths for part, paths in parts.items() if paths}
    if not parts:
        raise UserError(f"{results}: there are no predictions here; name the results of a finished run")
    tables = sorted([*results.glob("*.csv"), *results.glob("provenance.parquet")])
    paths = [*tables, *chain(*parts.values())]
    return {"README.md": _card(parts).encode(), **{str(path.relative_to(results)): path for path in paths}}


def _is_ours(path: Path) -> bool:
    """Whether a file holds no texts of cases, by the kind of its method."""
    entry = provenance.read(provenance.sidecar(path)).get("params", {}).get("entry") or {}
    return entry.get("kind") not in ("signals", "liked")


def _card(parts: Mapping[str, list[Path]]) -> str:
    front = {
        "configs": [{"config_name": part, "data_files": f"{part}/**/*.parquet"} for part in parts],
        "tags": ["preference-inference"],
    }
    counts = "\n".join(f"| `{part}` | {len(paths)} |" for part, paths in parts.items())
    return f"""---
{yaml.safe_dump(front, sort_keys=False)}---
# Preference inference: predictions and judgements

Descriptions of users' preferences by several methods, and what judges decide under them. The tables (`*.csv`) are
computed from these files, and `provenance.parquet` says how each file was made.

| part | files |
| --- | --- |
{counts}

`case_id` is a hash of a case's texts. These are not part of this dataset, nor are descriptions that consist of them.
"""


def summary(files: Files, repository: str, kind: str) -> str:
    """What would be published, with its size."""
    sizes = {name: len(part) if isinstance(part, bytes) else part.stat().st_size for name, part in files.items()}
    lines = [f"{size:>14,}  {name}" for name, size in sizes.items()]
    return "\n".join([*lines, f"{sum(sizes.values()):>14,}  bytes in {len(sizes)} files, to the {kind} {repository}"])


def send(files: Files, repository: str, kind: str, public: bool) -> str:
    """Put the files into a repository of the hub, in one commit; a new one is private unless `public`.

    Returns the commit's address. Raises UserError if the hub refuses.
    """
    from huggingface_hub import CommitOperationAdd, HfApi  # slow to import
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    hub = HfApi()
    additions = [CommitOperationAdd(name, part) for name, part in files.items()]
    try:
        hub.create_repo(repository, repo_type=kind, private=not public, exist_ok=True)
        return str(hub.create_commit(repository, additions, commit_message="Publish", repo_type=kind).commit_url)
    except (HfHubHTTPError, LocalTokenNotFoundError, OSError, ValueError) as error:
        raise UserError(f"{repository}: {str(error).strip()}") from error
