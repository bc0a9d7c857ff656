"""Jobs killed with SIGKILL and started again give what an undisturbed job gives."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from alignx_samples import clear_record
from alignxplore import user_states
from alignxplore.data.shards import FILES
from alignxplore.engines.journal import CALL
from alignxplore.training.checkpoints import partial_directory
from small_training import outcome, train

TESTS = Path(__file__).parents[1]
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{TESTS.parent / 'scripts'}:{TESTS / 'support'}"}


def test_killed_in_the_middle_of_a_shard_leaves_nothing_and_reruns_alike(tmp_path):
    raw = "".join(json.dumps(clear_record(str(i))) + "\n" for i in range(6_000))
    (tmp_path / "a.jsonl").write_text(raw)
    outputs = {name: str(tmp_path / f"out/{name}.parquet") for name in FILES}
    code = (
        "from alignxplore.data import sources; sources.BLOCK_BYTES = 1 << 20\n"
        "from alignxplore.data.shards import refine_shard\nfrom alignxplore.data.refine import Rules\n"
        f"refine_shard(sources.plan([{str(tmp_path / 'a.jsonl')!r}], 1)[0], Rules(5, 4), 1000, {outputs!r})"
    )
    worker = subprocess.Popen([sys.executable, "-c", code], env=ENVIRONMENT)
    while not (partials := [*(tmp_path / "out").glob(".*.partial")]) or partials[0].stat().st_size < 5_000:
        assert worker.poll() is None, "it ended before it could be killed"
        time.sleep(0.01)
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    assert not [path for path in (tmp_path / "out").iterdir() if not path.name.startswith(".")]

    subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, check=True)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {f"{name}.parquet" for name in FILES}
    again = {name: (tmp_path / f"out/{name}.parquet").read_bytes() for name in FILES}
    for path in (tmp_path / "out").iterdir():
        path.unlink()
    subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, check=True)
    assert again == {name: (tmp_path / f"out/{name}.parquet").read_bytes() for name in FILES}


JOURNALED = """
import sys, time
from alignxplore.engines import Completion, Sampling
from alignxplore.engines.engine import Engine
from alignxplore.engines.journal import Journal
from alignxplore.prompts import Prompt

class Backend:
    def generate(self, prompts, seeds, sampling, done=()):
        for start in range(0, len(prompts), 7):
            batch = range(start, min(start + 7, len(prompts)))
            if all(index in done for index in batch):
                continue
            with open(sys.argv[2], "a") as asked:
                asked.write(f"{start}\\\\n")
            time.sleep(0.002)
            # As with a real model, an answer depends on the other prompts in its batch.
            company = sum(seeds[index] for index in batch) % 1000
            yield [(i, Completion(f"{prompts[i].user} {seeds[i]} {company}", "stop", 1, 1)) for i in batch]

engine = Engine("m", {"path": "m"}, Backend, Journal(sys.argv[1]))
prompts = [Prompt(f"post {i % 1900}") for i in range(2000)]
answers = engine.generate(prompts, Sampling(1.0, 1.0, 0, 8, 1))
with open(sys.argv[3], "w") as file:
    file.write("\\\\n".join(c.text for c in answers))
""".replace("\\\\n", "\\n")


def keys(directory: Path) -> list[str]:
    """The keys of all lines in a journal."""
    files = sorted(directory.glob("*.jsonl"))
    return [json.loads(line)["key"] for file in files for line in file.read_text().splitlines()]


def test_a_job_killed_at_random_moments_gives_the_answers_of_an_undisturbed_one(tmp_path):
    """kill -9 at 20 random moments of a job with 2,000 prompts."""

    def start(name: str) -> subprocess.Popen:
        arguments = [str(tmp_path / f"{name}{part}") for part in ("", ".asked", ".out")]
        return subprocess.Popen([sys.executable, "-c", JOURNALED, *arguments], env=ENVIRONMENT)

    assert start("quiet").wait() == 0
    rng = random.Random(4)
    kills = 0
    asked = tmp_path / "killed.asked"
    asked.touch()
    while kills < 20:
        process = start("killed")
        before, wanted = len(asked.read_text().split()), rng.randint(0, 15)
        while len(asked.read_text().split()) < before + wanted and process.poll() is None:
            time.sleep(0.001)
        time.sleep(rng.random() * 0.003)
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
        assert not (tmp_path / "killed.out").exists()
    assert start("killed").wait() == 0
    assert (tmp_path / "killed.out").read_bytes() == (tmp_path / "quiet.out").read_bytes()
    # Only batches in flight at a kill are asked again.
    batches = asked.read_text().split()
    assert len(set(batches)) == 286 and len(batches) - 286 <= kills
    quiet, killed = (keys(tmp_path / name) for name in ("quiet", "killed"))
    without_calls = sorted(k for k in killed if k != CALL)
    assert without_calls == sorted(k for k in quiet if k != CALL)
    assert len(set(without_calls)) == len(without_calls)


UPDATING = """
import sys
from pathlib import Path
from alignxplore import user_states

path, done = Path(sys.argv[1]), open(sys.argv[2], "a")
while True:
    number = len(user_states.read_state(path).seen)
    pair = {"prompt": f"p{number}", "chosen": "c", "rejected": "r"}
    signals = {"pairs": [pair, {**pair, "rejected": "s"}], "ugc": []}
    _, state = user_states.update(
        path, signals, lambda chunk, past: f"{past}{len(chunk['pairs'])}", 1, "m", {"path": "m"}
    )
    print(len(state.seen), file=done, flush=True)
"""


def test_a_users_state_killed_at_random_moments_is_the_old_or_the_new_one(tmp_path):
    """kill -9 at 8 random moments of updates of two signals each, of which each is a step of its own."""
    path, done = tmp_path / "user.json", tmp_path / "done"
    done.touch()
    rng = random.Random(2)
    for _ in range(8):
        process = subprocess.Popen([sys.executable, "-c", UPDATING, str(path), str(done)], env=ENVIRONMENT)
        before = len(done.read_text().split())
        while len(done.read_text().split()) <= before + rng.randint(0, 30):
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.001)
        time.sleep(rng.random() * 0.003)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        state = user_states.read_state(path)
        finished = int(done.read_text().split()[-1])
        assert finished <= len(state.seen) <= finished + 2
        assert state.description == "1" * len(state.seen)


TRAINING = """
import json, sys
from pathlib import Path
from small_training import train
train(Path(sys.argv[1]), Path(sys.argv[2]), **json.loads(sys.argv[3]))
"""


def killed_at_random_moments(model: Path, output: Path, kills: int, seed: int, settings: dict) -> None:
    """Train in one process after another: kill the first `kills` of them, and let the last one finish."""
    command = [sys.executable, "-c", TRAINING, str(model), str(output), json.dumps(settings)]
    rng = random.Random(seed)
    partial = partial_directory(output)
    while kills:
        process = subprocess.Popen(command, env=ENVIRONMENT)
        before, wanted = sorted(partial.glob("checkpoint-*")), rng.random() < 0.8
        while process.poll() is None and wanted and sorted(partial.glob("checkpoint-*")) == before:
            time.sleep(0.005)
        # Kill it while it writes a checkpoint, some steps later, or while the process starts.
        time.sleep(rng.random() * 0.5)
        process.kill()
        assert process.wait() == -signal.SIGKILL or output.exists()
        if output.exists():
            break
        kills -= 1
    subprocess.run(command, env=ENVIRONMENT, check=True)


@pytest.mark.parametrize(("kills", "settings"), [
    (2, {"held_out": 5, "eval_steps": 2}),
    pytest.param(10, {"held_out": 5, "eval_steps": 2}, marks=pytest.mark.slow),
    pytest.param(1, {"lora": {"r": 4}}, marks=pytest.mark.slow),
])  # fmt: skip
def test_a_training_killed_at_random_moments_gives_the_model_of_an_undisturbed_one(
    ending_model, tmp_path, kills, settings
):
    undisturbed, output = tmp_path / "undisturbed/policy", tmp_path / "killed/policy"
    train(ending_model, undisturbed, **settings)
    killed_at_random_moments(ending_model, output, kills, kills, settings)
    assert outcome(output) == outcome(undisturbed)
    assert not list(output.parent.glob(".*"))
