"""Models and results are published with their cards, by the hub's own client to a stand-in of the hub."""

import base64
import http.server
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import ClassVar

import polars as pl
import pytest
from alignxplore.workflow.provenance import sidecar

ROOT = Path(__file__).parents[2]


class Hub(http.server.BaseHTTPRequestHandler):
    """Takes repositories and commits as the hub does, for files that are small."""

    created: ClassVar[list] = []
    committed: ClassVar[dict] = {}

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        repository = self.path.removeprefix("/api/").partition("/preupload/")[0].partition("/commit/")[0]
        if self.headers.get("Authorization") != "Bearer hf_test":
            self.answer(401, {"error": "Invalid username or password."})
        elif self.path == "/api/repos/create":
            Hub.created.append(json.loads(body))
            self.answer(200, {"url": "https://huggingface.co/me/x"})
        elif self.path == "/api/validate-yaml":  # the client asks before it sends a card
            self.answer(200, {"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            names = [file["path"] for file in json.loads(body)["files"]]
            self.answer(200, {"files": [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]})
        elif "/commit/" in self.path:
            entries = [json.loads(line)["value"] for line in body.splitlines()]
            Hub.committed[repository] = {e["path"]: base64.b64decode(e["content"]) for e in entries if "content" in e}
            self.answer(200, {"commitUrl": "https://huggingface.co/me/x/commit/1", "commitOid": "1", "success": True})
        else:
            self.answer(404, {"error": self.path})

    def answer(self, status: int, value: dict) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def publish(tmp_path, monkeypatch):
    monkeypatch.setattr(Hub, "created", [])
    monkeypatch.setattr(Hub, "committed", {})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def publish(*arguments: object, token: str = "hf_test") -> subprocess.CompletedProcess:
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "scripts"), "HF_HOME": str(tmp_path / "home"),
                       "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_TOKEN": token}  # fmt: skip
        environment.pop("HF_HUB_OFFLINE", None)
        command = [sys.executable, "-m", "alignxplore", "publish", *map(str, arguments)]
        return subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)

    yield publish
    server.shutdown()


@pytest.fixture
def model(tiny_model, tmp_path) -> Path:
    directory = tmp_path / "models/trained/no_rl"
    directory.mkdir(parents=True)
    for file in tiny_model.iterdir():
        (directory / file.name).write_bytes(file.read_bytes())
    (directory / "README.md").write_text("# no_rl\n")
    (directory / "completions").mkdir()
    (directory / "completions/1.parquet").write_text("prompts of users")
    return directory


def test_nothing_is_sent_unless_asked(publish, model):
    shown = publish(model, "me/no_rl")
    assert shown.returncode == 0, shown.stderr
    assert "README.md" in shown.stdout and "to the model me/no_rl\nNothing was sent" in shown.stdout
    assert Hub.created == [] and Hub.committed == {}


def test_a_model_is_published_whole_with_its_card(publish, model):
    sent = publish(model, "me/no_rl", "--send")
    assert sent.returncode == 0, sent.stderr
    assert sent.stdout.endswith("https://huggingface.co/me/x/commit/1\n")
    (created,) = Hub.created
    assert created["name"] == "no_rl" and created["visibility"] == "private"
    assert Hub.committed["models/me/no_rl"] == {file.name: file.read_bytes() for file in model.glob("*.*")}


def test_results_become_a_dataset_that_loads_by_its_card(publish, tmp_path):
    import datasets

    results = tmp_path / "results"
    made = {"preferences/a": "model", "preferences/b": "golden", "preferences/c": "liked", "judgements/judge/a": None}
    for name, kind in made.items():
        path = results / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pl.DataFrame({"case_id": [name, "2"]}).write_parquet(path)
        record = {"rule": "r", "inputs": {}, "outputs": {}, "params": {"entry": {"kind": kind}} if kind else {}}
        sidecar(path).write_text(json.dumps(record))
    (results / "table2.csv").write_text("a\n1\n")
    sent = publish(results, "me/runs", "--send", "--public")
    assert sent.returncode == 0, sent.stderr
    assert Hub.created[0]["visibility"] == "public" and Hub.created[0]["type"] == "dataset"
    files = Hub.committed["datasets/me/runs"]
    assert "table2.csv" in files and "preferences/a.parquet" in files and "preferences/c.parquet" not in files
    for name, content in files.items():
        path = tmp_path / "hub" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    hub, cache = str(tmp_path / "hub"), str(tmp_path / "cache")
    loaded = datasets.load_dataset(hub, "preferences", split="train", cache_dir=cache)
    assert sorted(loaded["case_id"]) == ["2", "2", "preferences/a", "preferences/b"]


def test_a_refusal_and_a_wrong_directory_are_one_line(publish, model, tmp_path):
    refused = publish(model, "me/no_rl", "--send", token="hf_wrong")
    assert refused.returncode == 1 and "me/no_rl: " in refused.stderr and "401" in refused.stderr
    assert "Traceback" not in refused.stderr
    (tmp_path / "results").mkdir()
    for directory, said in ((tmp_path / "results", "there are no predictions here"), (tmp_path, "no config.json")):
        assert said in publish(directory, "me/x").stderr
