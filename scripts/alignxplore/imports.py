"""How heavy libraries are imported: without looking for garbage, and without what no answer of a model needs.

Imports are most of a small job. `uncollected` saves up to a third of their time, and a second at the exit.
`spare_transformers` saves another second.
"""

import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec, module_from_spec
from threading import RLock
from types import ModuleType
from typing import Any


@contextmanager
def uncollected() -> Iterator[None]:
    """Import libraries inside this block, at the start of a process.

    They make half a million objects, which live until the exit. So no garbage is looked for among them, neither in this
    block nor later: what exists at its end is left out of all collections.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.freeze()


def spare_transformers() -> None:
    """Import transformers so that its models need no SciPy, torch.distributed, torch compiler or list of all models.

    transformers 5.23 imports these with every model, for losses, sharded models and decorators. No setting turns that
    off. It also supports environments without the first two, and remembers whether they are there. The others are
    imported when something asks for them. Test: tests/unit/test_imports.py,
    test_transformers_imports_with_every_model_what_is_spared.
    """
    import torch
    from transformers.utils import import_utils

    _answer_no(import_utils.is_torch_distributed_available, torch.distributed, "is_available", False)
    _answer_no(import_utils.is_scipy_available, import_utils, "_is_package_available", (False, None))
    _defer_compiler()
    _defer("transformers.models")  # read from 1,700 files, although `transformers` itself has just read them


def _answer_no(question: Any, module: ModuleType, name: str, answer: Any) -> None:
    """Let transformers ask a question whose answer it remembers while a function of this name answers it."""
    actual = getattr(module, name)
    setattr(module, name, lambda *_: answer)
    question.cache_clear()
    question()
    setattr(module, name, actual)


def _defer_compiler() -> None:
    """Import torch's compiler (torch 2.13) when something is to be compiled, and not when functions are decorated.

    Its decorators are applied then. Until then, a function that they mark or exclude is called as it is.
    """
    from torch._compile import _disable_dynamo

    marked: list[tuple[str, Any]] = []
    called: list[Any] = []

    def mark(decorator: str, function: Any) -> Any:
        marked.append((decorator, function))
        return function

    def disable(function: Any = None, recursive: bool = True, reason: str | None = None, wrapping: bool = True) -> Any:
        if wrapping:
            return _disable_dynamo(function, recursive)  # torch's own decorator that waits for the first call
        called.append(function)  # the first call, whose result it keeps for the next ones
        return function

    def apply(compiler: ModuleType) -> None:
        for decorator, function in marked:
            getattr(compiler, decorator)(function)
        for function in called:
            del function.__dict__["__dynamo_disable"]

    names = ("allow_in_graph", "assume_constant_result")
    _defer("torch._dynamo", apply, disable=disable, **{name: partial(mark, name) for name in names})
    import torch._dynamo._trace_wrapped_higher_order_op  # what transformers needs of it is light

    # Its other modules import each other in circles, which only work if the package comes first.
    del torch._dynamo.__path__


def _defer(name: str, then: Callable[[ModuleType], None] = lambda module: None, **instead: Any) -> None:
    """Import a package when it is first asked for something other than `instead` and its submodules, and call `then`.

    If its `__path__` is removed, submodules count too. With `importlib.util.LazyLoader`, they always do.
    """
    spec = find_spec(name)
    assert spec is not None and spec.loader is not None
    loader, package, lock = spec.loader, module_from_spec(spec), RLock()
    asked: list[str] = []

    def ask(attribute: str) -> Any:
        if attribute.startswith("__") and attribute != "__path__":
            raise AttributeError(attribute)
        with lock:
            if not asked:
                asked.append(attribute)
                package.__path__ = spec.submodule_search_locations  # type: ignore[assignment]
                loader.exec_module(package)
                then(package)
        actual = sys.modules[name]  # transformers.models puts another module in its place
        if actual is package and attribute not in vars(package):
            raise AttributeError(f"module {name!r} has no attribute {attribute!r}")
        return getattr(actual, attribute)

    vars(package).update(instead, __getattr__=ask)
    sys.modules[name] = package
    parent, _, child = name.rpartition(".")
    setattr(sys.modules[parent], child, package)
