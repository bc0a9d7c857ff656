"""Sweeps: what variants share, that sharing changes nothing, and the table that compares them."""

import json
from base64 import urlsafe_b64encode
from collections import defaultdict
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml
from alignxplore import sweep
from alignxplore.errors import UserError
from faulty_server import Server
from scipy.stats import ttest_rel
from served_workflow import COLUMNS, METHODS, ROOT, python, served_config, verdict, write_config

WRITTEN = {"temperature": 0.5, "top_p": 0.9, "top_k": 0, "max_new_tokens": 50}
FEWER = {"data.splits.test.size": 15}
WRITES = {"data.psoups.style.positive": "witty", "judges.judge.sampling": WRITTEN}
VARIANTS = {"first": {}, "fewer": FEWER, "writes": WRITES, "both": {**FEWER, **WRITES}}


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A directory with a finished sweep, its server still there."""
    path = tmp_path_factory.mktemp("sweep")
    with Server(reply=verdict) as server:
        write_config(path / "base.yaml", served_config(server))
        # The table's columns come from each variant, and may differ in their judge.
        write_config(path / "small.yaml", {"base": "base.yaml", "table": "served", "variants": VARIANTS})
        result = run(path)
        assert result.returncode == 0, result.stderr
        yield path, server, result


def run(path: Path):
    return python("-m", "alignxplore", "sweep", "small.yaml", "--cores", "2", cwd=path)


def ran(path: Path, variant: str) -> set[str]:
    """The jobs that ran in a variant's tree: each leaves a log."""
    logs = path / "sweeps/small" / variant / "logs"
    return {str(log.relative_to(logs).with_suffix("")) for log in logs.rglob("*.log")}


def test_variants_make_what_differs_alone(swept):
    path, _, _ = swept
    results = {f"{stage}/{method}" for stage in ("preferences", "judgements/judge") for method in METHODS}
    assert {"demo/world", "split/test", "cases/psoups_style", *results} < ran(path, "first")
    assert ran(path, "fewer") == {"split/test", "cases/alignx_test", *results}
    assert ran(path, "writes") == {"cases/psoups_style", *results}
    # The cases of `both` were made in two other trees, and are there with the records of how.
    assert ran(path, "both") == results
    tree = path / "sweeps/small"
    for file, origin in {
        "data/raw/alignx/part-0.jsonl": "first",
        "data/refined.parquet": "first",
        "data/cases/alignx_test.parquet": "fewer",
        "data/cases/psoups_style.parquet": "writes",
    }.items():
        assert (tree / "both" / file).samefile(tree / origin / file)


def test_a_variant_is_what_it_would_be_alone(swept, tmp_path):
    path, server, _ = swept
    tree, alone = path / "sweeps/small/both", tmp_path / "alone"
    alone.mkdir()
    config = yaml.safe_load((tree / "sweep.yaml").read_text())
    for name in ("config", "resources", "scripts"):
        (alone / name).symlink_to(ROOT / name)
    file = write_config(tmp_path / "alone.yaml", {**config, "journal": "journal"})
    targets = [f"results/judgements/judge/{method}.parquet" for method in METHODS]
    command = ["-m", "snakemake", *targets, "--snakefile", str(ROOT / "Snakefile"), "--directory", str(alone)]
    asked = len(server.requests)
    result = python(*command, "--configfile", str(file), "--cores", "2", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert len(server.requests) > asked
    made = {str(file.relative_to(alone)) for file in alone.rglob("*.parquet") if not file.is_symlink()}
    made = {name for name in made if name.startswith(("data/", "results/"))}
    assert {*targets, "data/cases/alignx_test.parquet", "data/refined.parquet"} <= made
    for name in made:
        assert (alone / name).read_bytes() == (tree / name).read_bytes(), name


def test_a_finished_run_where_the_sweep_starts_is_shared(tmp_path):
    for name in ("config", "resources", "scripts"):
        (tmp_path / name).symlink_to(ROOT / name)
    with Server(reply=verdict) as server:
        file = write_config(tmp_path / "base.yaml", served_config(server))
        targets = [f"results/judgements/judge/{method}.parquet" for method in METHODS]
        command = ["-m", "snakemake", *targets, "--snakefile", str(ROOT / "Snakefile"), "--directory", str(tmp_path)]
        finished = python(*command, "--configfile", str(file), "--cores", "2", cwd=tmp_path)
        assert finished.returncode == 0, finished.stderr
        variants = {"same": {}, "fewer": FEWER}
        write_config(tmp_path / "small.yaml", {"base": "base.yaml", "table": "served", "variants": variants})
        result = run(tmp_path)
    assert result.returncode == 0, result.stderr
    assert ran(tmp_path, "same") == set()
    assert ran(tmp_path, "fewer") == {"split/test", "cases/alignx_test"} | {
        f"{stage}/{method}" for stage in ("preferences", "judgements/judge") for method in METHODS
    }


def test_the_table_compares_them_all(swept):
    path, _, result = swept
    tree = path / "sweeps/small"
    cells = pl.read_csv(tree / "comparison.csv", schema=sweep.COMPARISON)
    assert cells["variant"].to_list() == list(VARIANTS) * len(COLUMNS)
    fewer = cells.filter(variant="fewer", column="pairs").row(0, named=True)
    assert fewer["n"] == 15 and fewer["difference"] is not None and fewer["p_value"] is None
    writes = cells.filter(variant="writes", column="pairs").row(0, named=True)
    assert writes["n"] == 20 and writes["p_value"] is not None
    assert (tree / "comparison.md").read_text().rstrip("\n") == result.stdout.rstrip("\n")


def test_the_comparison_against_pandas(tmp_path):
    """Three variants of two methods, one with other cases in one benchmark, and a judge of its own in one column."""
    methods, rng = {"a": "Method A", "b": "Method B"}, np.random.default_rng(5)
    configs = {}
    for place, variant in enumerate(("first", "same", "other")):
        judge = "judge2" if variant == "other" else "judge"
        columns = [
            {"name": "one", "judge": "judge", "benchmarks": ["x"]},
            {"name": "two", "judge": judge, "benchmarks": ["x", "y"]},
        ]
        entries = {name: {"label": label} for name, label in methods.items()}
        table = {"columns": columns}
        configs[variant] = {"methods": entries, "tables": {"t": table}, "resamples": 200, "seed": 1}
        for name in {"judge", judge}:
            for method in methods:
                cases = [("x", f"x{i}") for i in range(80)] + [("y", f"y{i + 9 * (place == 2)}") for i in range(40)]
                rng.shuffle(cases)
                rows = {
                    "benchmark": [benchmark for benchmark, _ in cases],
                    "case_id": [case for _, case in cases],
                    "target": [case for _, case in cases],
                    "judge": name,
                    "correct": rng.random(len(cases)) < 0.3 + 0.2 * place,
                }
                file = tmp_path / variant / f"results/judgements/{name}/{method}.parquet"
                file.parent.mkdir(parents=True, exist_ok=True)
                pl.DataFrame(rows).write_parquet(file)
    swept = sweep.Sweep("s", "t", tuple(methods), configs)
    cells = sweep.compare(swept, tmp_path).to_pandas().set_index(["variant", "method", "column"])
    assert len(cells) == 12

    def outcomes(variant: str, method: str, column: dict):
        file = tmp_path / variant / f"results/judgements/{column['judge']}/{method}.parquet"
        rows = pl.read_parquet(file).to_pandas()
        rows = rows[rows["benchmark"].isin(column["benchmarks"])]
        return rows.set_index(["benchmark", "case_id"])["correct"].astype(float).sort_index()

    p_values = defaultdict(list)
    for variant in configs:
        for method, label in methods.items():
            for column, first_column in zip(swept.columns(variant), swept.columns("first"), strict=True):
                here, there = outcomes(variant, method, column), outcomes("first", method, first_column)
                row = cells.loc[variant, label, column["name"]]
                assert (row["n"], row["percent"]) == (len(here), pytest.approx(100 * here.mean(), abs=0.005))
                assert row["low"] < row["percent"] < row["high"]
                if variant == "first":
                    assert row[["difference", "difference_low", "p_value", "p_holm"]].isna().all()
                    continue
                assert row["difference"] == pytest.approx(100 * (here.mean() - there.mean()), abs=0.006)
                if not here.index.equals(there.index):
                    assert variant == "other" and column["name"] == "two"
                    assert row[["difference_low", "difference_high", "p_value", "p_holm"]].isna().all()
                    continue
                assert row["difference_low"] < row["difference"] < row["difference_high"]
                assert row["p_value"] == pytest.approx(ttest_rel(here, there).pvalue, rel=6e-4)
                p_values[label, column["name"]].append((row["p_value"], row["p_holm"]))
    assert sorted(map(len, p_values.values())) == [1, 1, 2, 2]
    for tests in p_values.values():
        (small, adjusted), *others = sorted(tests)
        assert adjusted == pytest.approx(min(1, len(tests) * small), rel=2e-3)
        assert all(holm == pytest.approx(max(adjusted, p), rel=2e-3) for p, holm in others)
    table = sweep.markdown(swept, sweep.compare(swept, tmp_path))
    assert table.count("| Method B |") == 3 and "*" in table
    (tmp_path / "same/results/judgements/judge/b.parquet").unlink()
    with pytest.raises(UserError, match="same/results/judgements/judge/b.parquet is missing: run the sweep"):
        sweep.compare(swept, tmp_path)


def test_what_is_finished_is_left_alone_when_a_variant_changes(swept):
    path, server, _ = swept
    tree = path / "sweeps/small"
    asked = len(server.requests)
    kept = {file: file.read_bytes() for file in tree.rglob("*.parquet") if tree / "both" not in file.parents}
    changed = {**VARIANTS, "both": {**FEWER, "data.balance": 0.2}}
    write_config(path / "small.yaml", {"base": "base.yaml", "table": "served", "variants": changed})
    result = run(path)
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("Nothing to be done") == 3
    assert "split/test" in ran(path, "both") and len(server.requests) >= asked
    assert kept == {file: file.read_bytes() for file in kept}


def test_what_a_killed_job_has_left_half_done_is_not_taken_over(swept, tmp_path):
    path, _, _ = swept
    other, tree = path / "sweeps/small/first", tmp_path / "tree"
    sweep._lay_out(tree, yaml.safe_load((other / "sweep.yaml").read_text()))
    judgements = "results/judgements/judge/golden.parquet"
    torn = "data/cases/alignx_test.parquet"
    marker = other / ".snakemake/incomplete" / urlsafe_b64encode(torn.encode()).decode()
    marker.write_text("{}")
    try:
        assert sweep._take_over(other, tree, [judgements]) > 0
    finally:
        marker.unlink()
    assert (tree / judgements).exists() and not (tree / torn).exists()


def test_a_dry_run_says_what_would_run_and_compares_nothing(swept):
    path, _, _ = swept
    entry = {"base": "base.yaml", "table": "served", "variants": {"first": {}, "fewer": FEWER}}
    write_config(path / "dry.yaml", entry)
    result = python("-m", "alignxplore", "sweep", "dry.yaml", "--cores", "2", "--dry-run", cwd=path)
    assert (result.returncode, result.stdout) == (0, ""), result.stderr
    assert result.stderr.count("judgements") >= 2 and not list((path / "sweeps/dry").rglob("*.parquet"))


def test_a_variant_that_fails_is_named(swept):
    path, _, _ = swept
    entry = {
        "base": "base.yaml",
        "table": "served",
        "variants": {"first": {}, "greedy": {"data.splits.test.size": 9000}},
    }
    write_config(path / "greedy.yaml", entry)
    finished = ("--finished", "sweeps/small/first")
    result = python("-m", "alignxplore", "sweep", *finished, "greedy.yaml", "--cores", "2", cwd=path)
    assert result.returncode == 1 and "Traceback (most" not in result.stderr
    assert "Nothing to be done" in result.stderr
    assert "greedy: Snakemake ended with status 1; its logs are in sweeps/greedy/greedy/logs" in result.stderr
    assert not (path / "sweeps/greedy/comparison.csv").exists()


def test_the_surest_difference_is_marked(tmp_path):
    figures = {"percent": 90.0, "low": 85.0, "high": 95.0, "difference": 40.0, "difference_low": 30.0}
    row = {"variant": "b", "method": "m", "column": "c", "n": 1, **figures, "difference_high": 50.0, "p_value": 0.0}
    swept = sweep.Sweep("s", "t", ("m",), {"a": {}, "b": {}})
    for adjusted, mark in ((0.0, "+40.0*"), (0.2, "+40.0 "), (None, "+40.0 ")):
        assert mark in sweep.markdown(swept, pl.DataFrame([{**row, "p_holm": adjusted}], schema=sweep.COMPARISON))


def test_names_of_variants_are_text(tmp_path):
    figures = dict.fromkeys(("percent", "low", "high"), 50.0)
    rows = [{"variant": "b", "method": "<b>|m", "column": "c | <i>", "n": 1, **figures}]
    empty = pl.DataFrame(rows, schema=sweep.COMPARISON, strict=False)
    text = sweep.markdown(sweep.Sweep("s_1", "t", ("m",), {"a_1": {}}), empty)
    assert "# Sweep s\\_1\n" in text and "difference to a\\_1 in" in text
    assert "| method | variant | c \\| \\<i\\> |" in text and "| \\<b\\>\\|m | b | 50" in text


def changing(key: str, value: object = 3) -> dict:
    return {"variants": {"a": {}, "b": {key: value}}}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (changing("data.splitz.test.size"), "b: data.splitz.test.size: the configuration has no data.splitz"),
        (changing("data.splits.test.sise"), "b: config: data.splits.test.sise: unknown key; did you mean 'size'?"),
        (changing("tables.served.columns.7.judge"), "the configuration has no tables.served.columns.7"),
        (changing("seed.x"), "b: seed.x: the configuration has no seed.x"),
        (changing("judges.judge.model", "sreved"), "no such name 'sreved'; did you mean 'served'?"),
        ({"variants": {"a": {}, "../b": {}}}, "variants: '../b' does not match"),
        ({"variants": {"a": {}}}, "variants: {'a': {}}"),
        ({"base": "list.yaml"}, "base: list.yaml holds no configuration"),
        ({"methods": ["golden", "golden"]}, "non-unique elements"),
        ({"table": "table9"}, "table: no such name 'table9'; there are served"),
        ({"methods": ["golem"]}, "methods: no such name 'golem'; did you mean 'golden'?"),
        ({"metods": ["golden"]}, "metods: unknown key; did you mean 'methods'?"),
    ],
)
def test_a_wrong_sweep_is_named_before_anything_runs(tmp_path, entry, message):
    with Server() as server:
        write_config(tmp_path / "base.yaml", served_config(server))
    write_config(tmp_path / "list.yaml", ["a list"])
    given = {"base": "base.yaml", "table": "served", "variants": {"a": {}, "b": {"seed": 2}}, **entry}
    path = write_config(tmp_path / "wrong.yaml", given)
    with pytest.raises(UserError, match=".") as error:
        sweep.load(path, tmp_path)
    assert str(path) in str(error.value) and message in str(error.value)


@pytest.mark.parametrize("variants", ["{a: {}, 1: {}}", "{a: {}, on: {}}", "{a: {}, b: {1: 1}}"])
def test_names_that_yaml_reads_as_something_else_are_refused(tmp_path, variants):
    path = tmp_path / "wrong.yaml"
    path.write_text(f"base: base.yaml\ntable: served\nvariants: {variants}\n")
    with pytest.raises(UserError, match=r"wrong.yaml: variants.*'string'"):
        sweep.load(path, tmp_path)


def test_changes_reach_lists_and_leave_what_yaml_shares(tmp_path):
    config = yaml.safe_load("a: &x [1, 2]\nb: *x\nc: {d: {e: 1}}")
    changed = sweep.changed(config, {"a.0": 5, "c.d.f": None, "c.d.e": {"g": 1}}, "here")
    assert changed == {"a": [5, 2], "b": [1, 2], "c": {"d": {"e": {"g": 1}, "f": None}}}
    assert config["a"] == [1, 2] and json.dumps(config["c"]) == '{"d": {"e": 1}}'


@pytest.mark.parametrize("file", sorted((ROOT / "config/sweeps").glob("*[!a].yaml")), ids=lambda path: path.stem)
def test_the_sweeps_that_come_with_the_workflow_are_sound(file):
    if file.name != "schema.yaml":
        assert len(sweep.load(file, ROOT).configs) >= 2


def test_an_output_is_whole_or_not_there(tmp_path):
    source, target = tmp_path / "source", tmp_path / "target/model"
    source.mkdir()
    (source / "a").write_text("a")

    def fail(source, target):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep._copy(source, target, fail)
    assert not target.exists()
    sweep._copy(source, target, sweep._link)
    assert (target / "a").samefile(source / "a")
