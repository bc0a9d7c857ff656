import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from alignxplore.imports import _defer

ASK = """
import gc, sys, torch_or_nothing
from alignxplore import engines
from alignxplore.prompts import Prompt

backend = engines.start({"engine": "transformers", "path": sys.argv[1]})
prompts = [Prompt("Tell me about the post."), Prompt("Response A is short.")]
sampling = engines.Sampling(0.9, 0.95, 10, 8, 0, stop=("travel",))
list(backend.generate(prompts, [1, 2], sampling))
list(backend.choice_logprobs(prompts, ["A", "B"]))
list(backend.loglikelihood(prompts, ["humor", "travel"]))

SPARED = {
    "SciPy": "scipy.optimize" in sys.modules,
    "compiler": "torch._dynamo.symbolic_convert" in sys.modules,
    "sharded tensors": "torch.distributed.tensor" in sys.modules,
    "list of models": type(sys.modules["transformers.models"]).__name__ == "_LazyModule",
}
"""


def run(program: str, *arguments: object, first: str = "") -> None:
    """Run a Python program behind ASK, which is preceded by the import of `first`, and check that it succeeds."""
    begin = ASK.replace(", torch_or_nothing", f", {first}" if first else "")
    done = subprocess.run(
        [sys.executable, "-c", begin + textwrap.dedent(program), *map(str, arguments)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "leaked" not in done.stderr


def test_asking_a_model_imports_no_library_that_answers_do_not_need(tiny_model):
    run(
        """
        assert not any(SPARED.values()), SPARED
        others = {"datasets", "duckdb", "matplotlib", "openai", "pandas", "peft", "sklearn", "trl"} & set(sys.modules)
        assert not others, others
        assert gc.isenabled() and gc.get_freeze_count() > 100_000
        """,
        tiny_model,
    )


def test_transformers_imports_with_every_model_what_is_spared(tiny_model):
    """A process with torch spares nothing. If this fails, a part of `spare_transformers` is no longer needed."""
    run(
        """
        assert all(SPARED.values()), SPARED
        assert gc.get_freeze_count() == 0
        """,
        tiny_model,
        first="torch",
    )


def test_what_was_spared_is_there_when_it_is_asked_for(tiny_model):
    """Decorators of torch's compiler are applied when it is imported, and compiled models give the same numbers."""
    run(
        """
        import torch

        ids = torch.tensor([[5, 6, 7, 8]])
        with torch.inference_mode():
            expected = backend.model(ids).logits
            called = torch._refs.normal
            while "__dynamo_disable" not in vars(called):
                called = called.__wrapped__
            assert vars(called)["__dynamo_disable"] is called, "it was called as it is"
            compiled = torch.compile(backend.model, backend="eager", fullgraph=True)(ids).logits
        assert torch.equal(compiled, expected)
        assert "torch._dynamo.symbolic_convert" in sys.modules and "__dynamo_disable" not in vars(called)
        torch.empty(2, device="meta").normal_()
        assert vars(called)["__dynamo_disable"] is not called

        from transformers import PreTrainedModel

        marked = vars(PreTrainedModel)["can_record_outputs"].fget
        assert id(marked) in torch._dynamo.trace_rules._allowed_callable_ids
        from torch.distributed.tensor import DTensor
        from transformers.models import Qwen2Config, albert
        import transformers

        assert transformers.models.qwen2.Qwen2Config is Qwen2Config is transformers.Qwen2Config
        """,
        tiny_model,
    )


@pytest.fixture
def slow_package(tmp_path, monkeypatch):
    """The name of a package, with a submodule `part`, that takes a moment to import."""
    package = tmp_path / "parent/slow"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("import time\ntime.sleep(0.2)\nvalue = object()\n")
    (package / "part.py").write_text("number = 3\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield "parent.slow"
    for name in [name for name in sys.modules if name.partition(".")[0] == "parent"]:
        del sys.modules[name]


def test_deferred_packages_are_imported_once_for_all_threads(slow_package):
    then = []
    _defer(slow_package, then.append, ready=1)
    began = time.monotonic()
    from parent import slow
    from parent.slow.part import number

    assert (number, slow.ready, slow.part.number) == (3, 1, 3)
    assert not hasattr(slow, "__all__") and then == [] and time.monotonic() - began < 0.2
    with ThreadPoolExecutor(4) as threads:
        found = set(threads.map(lambda _: slow.value, range(4)))
    assert len(found) == 1 and then == [slow]
    with pytest.raises(AttributeError, match="'parent.slow' has no attribute 'other'"):
        _ = slow.other
