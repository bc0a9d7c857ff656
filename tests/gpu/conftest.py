"""Checks on one GPU: `make test-gpu`. Without one nothing runs; `--toy` runs the same checks small, on a CPU too."""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

FIGURES = pytest.StashKey[dict[str, dict[str, Any]]]()
SHAPE = Path(__file__).parents[1] / "support/shapes/qwen2.5-7b.json"


@dataclass(frozen=True)
class Machine:
    """Where checks run, and whether at toy size."""

    device: str
    is_toy: bool

    def size(self, full: int, toy: int) -> int:
        """A number that toy size makes smaller."""
        return toy if self.is_toy else full

    def seconds(self, action: Callable[[], Any]) -> float:
        """How long `action` takes, with all work of the GPU that it starts."""
        self.finish()
        started = time.perf_counter()
        action()
        self.finish()
        return time.perf_counter() - started

    def finish(self) -> None:
        """Wait for the GPU."""
        if self.device == "cuda":
            torch.cuda.synchronize()

    def model(self, **sizes: Any) -> Any:
        """A model of Qwen2.5-7B's architecture with these sizes and random weights, made on the device in bfloat16."""
        from transformers import AutoConfig, AutoModelForCausalLM

        config = AutoConfig.from_pretrained(SHAPE)
        if layers := sizes.get("num_hidden_layers"):
            sizes["layer_types"] = ["full_attention"] * layers
        config.update(sizes)
        torch.manual_seed(0)
        with torch.device(self.device):
            return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--results", type=Path, metavar="FILE", help="write all figures to this JSON file")
    parser.addoption("--toy", action="store_true", help="toy sizes, which a CPU can run too")


def pytest_configure(config: pytest.Config) -> None:
    if not torch.cuda.is_available() and not config.getoption("--toy"):
        pytest.exit(f"GPU tests skipped: torch {torch.__version__} finds no CUDA device here (--toy needs none)", 0)
    config.stash[FIGURES] = {}


def pytest_sessionfinish(session: pytest.Session) -> None:
    if FIGURES not in session.config.stash:
        return
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    machine = {"device": name, "torch": torch.__version__, "toy": session.config.getoption("--toy")}
    text = json.dumps({"machine": machine, **session.config.stash[FIGURES]}, indent=2)
    print(f"\n{text}")
    if path := session.config.getoption("--results"):
        path.write_text(text + "\n", encoding="utf-8")


@pytest.fixture(scope="session")
def machine(pytestconfig: pytest.Config) -> Machine:
    return Machine("cuda" if torch.cuda.is_available() else "cpu", pytestconfig.getoption("--toy"))


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> Iterator[dict[str, Any]]:
    """What the check found, by name; it goes to the results."""
    found: dict[str, Any] = {}
    yield found
    request.config.stash[FIGURES][request.node.name.removeprefix("test_")] = found
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
