"""The import closure that rules declare as inputs."""

from pathlib import Path

from alignxplore.imports import SCRIPTS, library_modules


def names(script: str) -> set[str]:
    return {str(path.relative_to(SCRIPTS / "alignxplore")) for path in library_modules(SCRIPTS / script)}


def test_closure_follows_imports_and_stops_there():
    refine = names("refine.py")
    assert {"__init__.py", "cli.py", "errors.py", "records.py", "data/refine.py"} <= refine
    assert not any(name.startswith("demo/") for name in refine)
    assert {"demo/world.py", "demo/raw.py", "data/wording.py"} <= names("demo_world.py")


def test_light_scripts_never_import_torch():
    heavy = ("torch", "transformers", "trl")
    for script in ("refine.py", "gather_refined.py", "split.py", "benchmark_alignx.py", "demo_world.py"):
        for path in [SCRIPTS / script, *library_modules(SCRIPTS / script)]:
            top_level = [
                line.split()[1] for line in Path(path).read_text().splitlines() if line.startswith(("import ", "from "))
            ]
            assert not [name for name in top_level if name.split(".")[0] in heavy], path
