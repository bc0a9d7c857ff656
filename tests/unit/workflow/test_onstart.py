"""Checks at the start of a run: API keys and training settings."""

import contextlib
import io
import json
import multiprocessing
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from types import SimpleNamespace

import polars as pl
import pytest
from alignxplore.engines.journal import CALL, Journal
from alignxplore.errors import UserError
from alignxplore.workflow import onstart as checks
from alignxplore.workflow.launcher import processes, uses_deepspeed
from alignxplore.workflow.onstart import check_data, check_keys, check_training

MODELS = {"far": {"path": "gpt", "run": {"key_env": "SET_NOWHERE"}}, "near": {"path": "models/near"}}


def test_a_model_whose_answers_may_be_kept_is_a_warning(tmp_path):
    with pytest.raises(UserError, match="models.far: the environment variable SET_NOWHERE"):
        check_keys(MODELS, tmp_path / "none")
    call = {"call": {"model": "gpt", "kind": "generate", "new": 0}}
    Journal(tmp_path).add([("a" * 32, {"model": "other", "finish_reason": "stop"}), (CALL, call)])
    with pytest.raises(UserError, match="SET_NOWHERE"):
        check_keys(MODELS, tmp_path)
    Journal(tmp_path).add([("b" * 32, {"model": "gpt", "finish_reason": "stop"})])
    (warning,) = check_keys(MODELS, tmp_path)
    assert "models.far" in warning and "SET_NOWHERE" in warning


def test_wrong_raw_files_are_all_named_before_any_job(tmp_path):
    records = [
        {"prompt": f"post {n}", "chosen": f"{word} {n}", "rejected": f"plain {n}", "ground_truth_persona": word}
        for word in ("funny", "stern")
        for n in range(6)
    ]
    (tmp_path / "style.json").write_text(json.dumps(records))
    (tmp_path / "raw.jsonl").write_text("{}\n" * 5)
    pl.DataFrame({"x": [1, 2]}).write_parquet(tmp_path / "raw.parquet")
    sources = [str(tmp_path / name) for name in ("raw.jsonl", "raw.parquet")]

    def jobs(size: int, *read: tuple[str, str, int], absent: str = "") -> list[SimpleNamespace]:
        """Planned jobs: P-SOUPS files with `positive` and signals, raw AlignX, and a split of `size` examples."""
        files = [
            ("benchmark_psoups", {"raw": str(tmp_path / file)},
             {"dimension": "style", "positive": positive, "signals": signals, "seed": 1})
            for file, positive, signals in read
        ]  # fmt: skip
        raw = ("refine", {"sources": [*sources, *filter(None, [absent])]}, {})
        return [
            SimpleNamespace(rule=SimpleNamespace(name=rule), input=SimpleNamespace(**inputs), params=params)
            for rule, inputs, params in (*files, raw, ("split", {}, {"size": size}))
        ]

    check_data([])
    check_data(jobs(7, ("style.json", "funny", 4)))
    check_data(jobs(99, ("style.json", "funny", 4), ("absent.json", "funny", 4), absent="absent"))
    with pytest.raises(UserError, match="3 mistakes") as error:
        check_data(jobs(8, ("style.json", "witty", 4), ("style.json", "stern", 6)))
    _, persona, signals, sizes = str(error.value).splitlines()
    assert "'witty' (data.psoups.style.positive) must occur in exactly one" in persona
    assert "record 1: 6 signals are needed, but only 5" in signals
    assert sizes.strip() == (
        "the splits want 8 examples in all, but the sources hold 7 records: lower splits.NAME.size"
    )


def test_a_key_that_is_set_is_not_shown(tmp_path, monkeypatch):
    monkeypatch.setenv("SET_NOWHERE", "canary")
    assert check_keys(MODELS, tmp_path) == []


def test_a_launch_command_tells_its_processes(tmp_path):
    file = tmp_path / "launch.yaml"
    file.write_text("num_processes: 8\n")
    (tmp_path / "empty.yaml").write_text("")
    assert processes("/usr/bin/python3 -u") == 1
    assert processes(f"accelerate launch --config_file {file}") == 8
    assert (
        processes(f"srun --nodes 4 accelerate launch --config_file={file} --num_processes 32 --machine_rank $RANK")
        == 32
    )
    assert processes(f"srun --nodes 4 bash nodes.sh --config_file {file} --num_processes 32") == 32
    assert processes(f"accelerate launch --config_file {tmp_path}/empty.yaml") is None
    for unknown in ("accelerate launch", "torchrun --nproc_per_node 8", "python -m torch.distributed.run"):
        assert processes(unknown) is None


def test_a_launch_command_tells_whether_deepspeed_keeps_float32_weights(tmp_path):
    file = tmp_path / "launch.yaml"
    file.write_text("distributed_type: DEEPSPEED\n")
    for sharding in (
        f"accelerate launch --config_file {file}",
        f"srun bash nodes.sh --config_file {file}",
        "accelerate launch --use_deepspeed",
    ):
        assert uses_deepspeed(sharding)
    file.with_name("ddp.yaml").write_text("distributed_type: MULTI_GPU\n")
    for plain in ("python", f"accelerate launch --config_file {tmp_path}/ddp.yaml", "torchrun --nproc_per_node 8"):
        assert not uses_deepspeed(plain)


GRPO = {"bf16": True, "tf32": True, "per_device_train_batch_size": 1, "num_generations": 8}
WRONG = {"no_rl": {"stage": "sft", "settings": {"unknown": 1}}}


def run_program(work: str) -> subprocess.CompletedProcess:
    """Run check_training.py on this input, in this process."""
    import check_training

    sys.stdin = io.StringIO(work)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        check_training.main()
    return subprocess.CompletedProcess([], 0, printed.getvalue(), "")


@pytest.fixture
def forked(monkeypatch) -> None:
    """Runs check_training.py in forks of this process, because a new process takes ten seconds to import TRL."""
    import check_training  # noqa: F401

    def run(command, *, input, **options):
        assert command == [sys.executable, str(checks.PROGRAM)]
        with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
            return pool.submit(run_program, input).result()

    monkeypatch.setattr(checks.subprocess, "run", run)


@pytest.mark.usefixtures("forked")
def test_settings_are_checked_for_the_machines_that_train():
    variants = {"policy": {"stage": "grpo", "settings": GRPO, "held_out": False}}
    check_training(variants, "accelerate launch --num_processes 8")
    check_training(variants, "torchrun --nproc_per_node 8")
    with pytest.raises(UserError, match=r"training.grpo: .* must be divisible by num_generations \(8\)"):
        check_training(variants, "accelerate launch --num_processes 4")
    with pytest.raises(UserError, match="training.sft: training setting 'unknown'"):
        check_training(WRONG, "torchrun")


@pytest.mark.usefixtures("forked")
def test_a_wrong_setting_is_blamed_on_the_variant_or_on_its_stage():
    own = {"sixteen": {**GRPO, "num_generations": 16}, "eight": GRPO}
    variants = {name: {"stage": "grpo", "settings": settings, "held_out": False} for name, settings in own.items()}
    with pytest.raises(UserError, match=r"training.variants.sixteen: .* divisible by num_generations \(16\)"):
        check_training(variants, "accelerate launch --num_processes 8")
    for variant in variants.values():
        variant["settings"] = {**variant["settings"], "learning_rat": 1}
    with pytest.raises(UserError, match=r"training.grpo: .*'learning_rat'.* \(variants: sixteen, eight\)"):
        check_training(variants, "accelerate launch --num_processes 8")


@pytest.mark.usefixtures("forked")
def test_all_wrong_settings_are_named_at_once():
    variants = {**WRONG, "policy": {"stage": "grpo", "settings": {"learning_rat": 1}}}
    with pytest.raises(UserError, match="2 mistakes") as error:
        check_training(variants, "python")
    assert "training.sft: " in str(error.value) and "training.grpo: " in str(error.value)


def test_a_run_that_trains_nothing_checks_no_training(monkeypatch):
    monkeypatch.setattr(checks.subprocess, "run", None)
    check_training({}, "python")


def test_where_trl_is_not_installed_jobs_check_for_themselves(monkeypatch):
    monkeypatch.setattr(checks, "find_spec", lambda name: None)
    check_training(WRONG, "python")
