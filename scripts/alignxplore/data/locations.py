"""Find raw files: local names and globs, `hf://OWNER/DATASET@REVISION[/FILE]` on the Hugging Face hub, and files on the
web, `https://HOST/FILE#sha256=HEX`, with their checksum unless the address names the commit of a Git repository."""

import glob
import re
import shutil
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from alignxplore.digests import digest
from alignxplore.errors import UserError

HUB_DIRECTORY, WEB_DIRECTORY = "data/raw/hub", "data/raw/web"
_WEB = re.compile(r"(?P<url>https?://[^\s#?]+[^\s#?/])(?:#sha256=(?P<sha256>[0-9a-f]{64}))?")
_COMMIT = re.compile(r"https://.*/[0-9a-f]{40}/")
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


@dataclass(frozen=True)
class WebFile:
    """A file at an address, and what it must contain: the SHA-256 of its bytes, in hexadecimal.

    It is None for a file of one commit of a Git repository, which cannot change.
    """

    url: str
    sha256: str | None

    @classmethod
    def parse(cls, source: str) -> "WebFile":
        """Parse an address. Raises UserError if it pins neither checksum nor commit: the file might change unseen."""
        match = _WEB.fullmatch(source)
        if not match or not (match["sha256"] or _COMMIT.match(source)):
            raise UserError(
                f"{source!r} is not of the form https://HOST/FILE#sha256=HEX, with 64 digits; only the address of a"
                " file in a Git commit, with all 40 digits of it, needs no checksum"
            )
        return cls(match["url"], match["sha256"])

    @property
    def path(self) -> str:
        """Path of the local copy, relative to WEB_DIRECTORY."""
        return self.url.partition("://")[2]


def is_remote(source: str) -> bool:
    """Whether a source is on the hub or the web, so that it must be downloaded."""
    return source.startswith(("hf://", "https://", "http://"))


def local_copy(source: str) -> str:
    """The path of a remote source's local copy. Raises UserError if its address is malformed or pins nothing."""
    if source.startswith("hf://"):
        return f"{HUB_DIRECTORY}/{HubFile.parse(source).path}"
    return f"{WEB_DIRECTORY}/{WebFile.parse(source).path}"


def local_files(sources: Sequence[str]) -> list[str]:
    """The local paths of all sources, in order and without repeats.

    Raises UserError if a glob matches nothing.
    """
    paths: list[str] = []
    for source in sources:
        if is_remote(source):
            paths.append(local_copy(source))
        elif glob.has_magic(source):
            found = sorted(glob.glob(source, recursive=True))
            if not found:
                raise UserError(f"no file matches {source!r}")
            paths += found
        else:
            paths.append(source)
    return list(dict.fromkeys(paths))


def download(source: str, output: str | Path) -> None:
    """Write the local copy of a remote source to `output`; a hub dataset without a file becomes Parquet.

    Raises UserError if it cannot be reached, or differs from its checksum.
    """
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    if source.startswith("hf://"):
        _download_from_hub(source, output)
    else:
        _download_from_web(source, Path(output))


def _download_from_hub(source: str, output: str | Path) -> None:
    # Imported here because they take seconds, and the workflow imports this module whenever it starts.
    import datasets
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    hub = HubFile.parse(source)
    try:
        if hub.file is not None:
            cached = huggingface_hub.hf_hub_download(hub.dataset, hub.file, repo_type="dataset", revision=hub.revision)
            shutil.copyfile(cached, output)
        else:
            datasets.load_dataset(hub.dataset, split="train", revision=hub.revision).to_parquet(str(output))
    except (OSError, ValueError, HfHubHTTPError) as error:
        raise UserError(f"{source}: {error}") from error


def _download_from_web(source: str, output: Path) -> None:
    """Fetch a file. One that was cut off is continued, if the server can; its checksum decides whether it is whole."""
    web = WebFile.parse(source)
    partial = output.with_name(f"{output.name}.partial")
    begun = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(web.url, headers={"Range": f"bytes={begun}-"} if begun else {})
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            with open(partial, "ab" if reply.status == 206 else "wb") as file:
                shutil.copyfileobj(reply, file, 1 << 20)
            if reply.length:
                raise OSError("the connection was lost")
    except urllib.error.HTTPError as error:
        if error.code != 416:  # all of it is there already
            raise UserError(f"{web.url}: HTTP {error.code} {error.reason}") from error
    except OSError as error:
        raise UserError(f"{web.url}: {getattr(error, 'reason', error)}; what was fetched is kept, run again") from error
    found = digest(partial)
    if web.sha256 not in (found, None):
        partial.unlink()
        raise UserError(f"{web.url}: has the SHA-256 {found}, not {web.sha256}: another version, or damaged on the way")
    partial.replace(output)
