"""Files of the web are fetched whole or not at all. Of the hub, only that it cannot be reached is tested."""

import hashlib
import http.server
import os
import subprocess
import sys
import threading
from typing import ClassVar

import pytest
from alignxplore.data.locations import download, local_copy
from alignxplore.errors import UserError


@pytest.mark.parametrize("file", ["", "/a.json"])
def test_unreachable_dataset_is_named(tmp_path, file):
    code = (
        "from alignxplore.data.locations import download\n"
        f"download('hf://nobody/nothing@main{file}', {str(tmp_path / 'sub' / 'x.parquet')!r})"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "cache"), "PYTHONPATH": "scripts"}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert f"UserError: hf://nobody/nothing@main{file}: " in result.stderr
    assert not (tmp_path / "sub" / "x.parquet").exists()


class Files(http.server.SimpleHTTPRequestHandler):
    """Serves one file; understands ranges unless `whole` is set, and cuts the first reply off."""

    content = b"0123456789" * 1000
    whole = False
    cut = False
    ranges: ClassVar[list] = []

    def do_GET(self):
        if self.path != "/a/file.json":
            self.send_error(404)
            return
        asked = self.headers.get("Range")
        Files.ranges.append(asked)
        start = 0 if self.whole or not asked else int(asked.removeprefix("bytes=").removesuffix("-"))
        self.send_response(200 if not start else 206)
        self.send_header("Content-Length", str(len(self.content) - start))
        self.end_headers()
        stop = 3000 if Files.cut else None
        Files.cut = False
        self.wfile.write(self.content[start:stop])

    def log_message(self, *arguments):
        pass


@pytest.fixture
def address(monkeypatch):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Files)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(Files, "ranges", [])
    yield f"http://127.0.0.1:{server.server_port}/a/file.json"
    server.shutdown()


SHA256 = hashlib.sha256(Files.content).hexdigest()


@pytest.mark.parametrize("whole", [False, True])
def test_a_file_of_the_web_is_continued_where_it_was_cut_off(address, tmp_path, monkeypatch, whole):
    monkeypatch.setattr(Files, "cut", True)
    monkeypatch.setattr(Files, "whole", whole)
    output = tmp_path / "sub/file.json"
    with pytest.raises(UserError, match="the connection was lost; what was fetched is kept"):
        download(f"{address}#sha256={SHA256}", output)
    assert not output.exists()
    download(f"{address}#sha256={SHA256}", output)
    assert output.read_bytes() == Files.content and not list(tmp_path.glob("sub/*.partial"))
    assert Files.ranges == [None, "bytes=3000-"]


def test_another_content_is_named_and_not_kept(address, tmp_path):
    with pytest.raises(UserError, match=f"{address}: has the SHA-256 {SHA256}, not {'0' * 64}"):
        download(f"{address}#sha256={'0' * 64}", tmp_path / "file.json")
    assert not list(tmp_path.iterdir())


def test_an_address_that_does_not_exist_is_named(address, tmp_path):
    with pytest.raises(UserError, match="b.json: HTTP 404"):
        download(f"{address.replace('file', 'b')}#sha256={SHA256}", tmp_path / "file.json")


def test_a_file_of_a_git_commit_needs_no_checksum(address, tmp_path):
    commit = "4b86568e89817825f27e2b72f31134b1dec08b21"
    source = f"https://raw.githubusercontent.com/OWNER/REPOSITORY/{commit}/a.json"
    assert local_copy(source) == f"data/raw/web/raw.githubusercontent.com/OWNER/REPOSITORY/{commit}/a.json"
    for moving in (source.replace(commit, "main"), source.replace(commit, commit[:7]), address):
        with pytest.raises(UserError, match="only the address of a file in a Git commit.*needs no checksum"):
            local_copy(moving)
