"""Which library modules a script depends on: Snakemake itself sees only the script file."""

import ast
from functools import cache
from pathlib import Path

PACKAGE = "alignxplore"
SCRIPTS = Path(__file__).parents[2]

ENGINES = SCRIPTS / PACKAGE / "engines"
"""Where each engine has a module of its name, which is imported when a model is started."""

STARTER = SCRIPTS / PACKAGE / "workflow/job.py"
"""How jobs start, log and are recorded: no result depends on it."""


@cache
def library_modules(path: Path, engines: frozenset[str] = frozenset()) -> frozenset[Path]:
    """The package's files that the Python file at `path` imports, directly or through others, at any level.

    The modules of `engines`, which are imported by name at run time, count too.
    """
    found: set[Path] = set()
    queue = [path, *(ENGINES / f"{engine}.py" for engine in engines)]
    found.update(queue[1:])
    while queue:
        for module in _imported(queue.pop()):
            if module not in found and module != STARTER:
                found.add(module)
                queue.append(module)
    return frozenset(found)


@cache
def _imported(path: Path) -> set[Path]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {file for name in names if name.split(".")[0] == PACKAGE for file in _files(name)}


def _files(name: str) -> list[Path]:
    """The file of module `name`, and the __init__ files that importing it runs."""
    parts = name.split(".")
    candidates = [SCRIPTS.joinpath(*parts[:depth], "__init__.py") for depth in range(1, len(parts) + 1)]
    return [file for file in (*candidates, SCRIPTS.joinpath(*parts).with_suffix(".py")) if file.is_file()]
