"""The import closure that rules declare as inputs."""

import ast
import importlib.util
from pathlib import Path

from alignxplore.workflow.dependencies import SCRIPTS, library_modules


def names(script: str, engines: frozenset[str] = frozenset()) -> set[str]:
    return {str(path.relative_to(SCRIPTS / "alignxplore")) for path in library_modules(SCRIPTS / script, engines)}


def test_closure_follows_imports_and_stops_there():
    refine = names("refine.py")
    assert {"__init__.py", "errors.py", "records.py", "data/refine.py"} <= refine
    assert not any(name.startswith("demo/") for name in refine)
    assert {"demo/world.py", "demo/raw.py", "data/wording.py"} <= names("demo_world.py")


def test_how_jobs_are_started_and_recorded_is_no_part_of_what_they_make():
    assert not {"workflow/job.py", "workflow/provenance.py"} & names("refine.py")
    assert "workflow/provenance.py" in names("provenance.py")


def test_engines_that_no_model_uses_are_left_out():
    backends = {"engines/transformers.py", "engines/vllm.py", "engines/openai.py"}
    assert backends <= names("judgements.py", frozenset({"transformers", "vllm", "openai"}))
    assert not backends & names("judgements.py")
    assert backends & names("judgements.py", frozenset({"openai"})) == {"engines/openai.py"}
    assert not backends & names("sft.py", frozenset())
    assert "engines/transformers.py" in names("vpl.py", frozenset()), "it is imported by name"


def test_light_scripts_never_import_torch():
    heavy = ("torch", "transformers", "trl")
    for script in ("refine.py", "gather_refined.py", "split.py", "benchmark_split.py", "demo_world.py"):
        for path in [SCRIPTS / script, *library_modules(SCRIPTS / script)]:
            top_level = [
                line.split()[1] for line in Path(path).read_text().splitlines() if line.startswith(("import ", "from "))
            ]
            assert not [name for name in top_level if name.split(".")[0] in heavy], path


def test_every_name_that_a_script_imports_from_the_library_is_there():
    for script in sorted(SCRIPTS.glob("*.py")):
        for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("alignxplore"):
                for alias in node.names:
                    module = importlib.import_module(node.module)
                    found = hasattr(module, alias.name) or importlib.util.find_spec(f"{node.module}.{alias.name}")
                    assert found, f"{script.name}: {node.module}.{alias.name}"
