"""Run the default experiment with several seeds and precisions, and pool the results.

    python tests/slow/seeds.py DIR --seeds 1 2 3 4 5 6 --precisions bfloat16 float32

A run that has finished in DIR is not repeated. Prints ACC_jud on alignx_test run by run, the differences between
methods on the same cases, the mean and range of ACC_jud of every method, and how the reward rises in training. With
`--effects`, only what the first two need is run.
"""

import argparse
import shutil
import subprocess
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import polars as pl
import yaml
from alignxplore.results.stats import bootstrap_interval

ROOT = Path(__file__).parents[2]
PARTS = ("Snakefile", "rules", "scripts", "config", "envs", "profiles", "resources")
PRECISIONS = ("bfloat16", "float32")
COLUMNS = {
    "alignx_test": ["alignx_test"],
    "reversed": ["alignx_test_reverse"],
    "UGC": ["alignx_test_ugc"],
    "P-SOUPS": ["psoups_expertise", "psoups_informativeness", "psoups_style"],
    "P-SOUPS reversed": [f"psoups_{name}_reverse" for name in ("expertise", "informativeness", "style")],
}
EFFECTS = (
    ("no_rl", "backbone"),
    ("alignxplore", "no_rl"),
    ("alignxplore", "no_cold_start"),
    ("alignxplore", "r_gen"),
)
"""Pairs of methods of which the first should be better: cold start, reinforcement learning, both together, R_jud."""

COMPARED = ("backbone", "no_cold_start", "no_rl", "r_gen", "alignxplore", "golden")


def run_seed(directory: Path, seed: int, *targets: str, precision: str = "", layer: str = "") -> Path:
    """The tree of a finished run with this seed; runs it if needed.

    `targets` are the files to make (default: all), `precision` is demo.precision, and `layer` is YAML that goes over
    the default configuration.
    """
    tree = directory / "-".join(filter(None, ("seed", str(seed), precision)))
    tree.mkdir(parents=True, exist_ok=True)
    for name in PARTS:
        if not (tree / name).exists():
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
            copy(ROOT / name, tree / name)
    command = [sys.executable, "-m", "snakemake", *targets, "--cores", "all", "--config", f"seed={seed}"]
    if layer or precision:
        settings = yaml.safe_load(layer or "{}")
        if precision:
            settings.setdefault("demo", {})["precision"] = precision
        (tree / "layer.yaml").write_text(yaml.dump(settings))
        command += ["--configfile", "config/demo.yaml", "layer.yaml"]
    subprocess.run(command, cwd=tree, check=True)
    return tree


def judged(trees: Sequence[Path], judge: str = "judge") -> pl.DataFrame:
    """All judgements of these trees, with the name of their `run`."""
    return pl.concat(
        pl.read_parquet(path).with_columns(pl.col("correct").cast(pl.Float64), run=pl.lit(tree.name))
        for tree in trees
        for path in sorted((tree / "results/judgements" / judge).glob("*.parquet"))
    )


def accuracies(trees: Sequence[Path], judge: str = "judge") -> pl.DataFrame:
    """ACC_jud of each method in each of COLUMNS, in percent: over all cases with its interval, and the runs' range."""
    rows = []
    for (method,), group in judged(trees, judge).group_by("method", maintain_order=True):
        for column, benchmarks in COLUMNS.items():
            own = group.filter(pl.col("benchmark").is_in(benchmarks))
            if own.height:
                low, high = bootstrap_interval(own["correct"], own["target"].to_list(), 10_000, seed=0)
                runs = own.group_by("run").agg(pl.col("correct").mean())["correct"]
                figures = (own["correct"].mean(), low, high, runs.min(), runs.max())
                rows.append((method, column, own.height, *(100 * figure for figure in figures)))
    schema = ["method", "column", "n", "percent", "low", "high", "least", "most"]
    return pl.DataFrame(rows, schema=schema, orient="row")


def by_run(trees: Sequence[Path]) -> pl.DataFrame:
    """ACC_jud on alignx_test in percent: one row per run, one column per method of COMPARED."""
    own = judged(trees).filter(pl.col("benchmark") == "alignx_test", pl.col("method").is_in(COMPARED))
    wide = own.pivot("method", index="run", values="correct", aggregate_function="mean")
    return wide.select("run", pl.col(COMPARED) * 100).sort("run")


def effects(trees: Sequence[Path]) -> pl.DataFrame:
    """For each of EFFECTS, the mean difference in points on the same cases of alignx_test.

    `low` and `high` are its 95% interval over cases, `runs_low` and `runs_high` over whole runs, so over what training
    makes of a seed, and `least` and `most` are the smallest and the largest difference of a run.
    """
    own = judged(trees).filter(pl.col("benchmark") == "alignx_test")
    wide = own.pivot("method", index=["run", "case_id", "target"], values="correct")
    rows = []
    for first, second in EFFECTS:
        differences = wide.select("run", "target", points=100 * (pl.col(first) - pl.col(second)))
        runs = differences.group_by("run").agg(pl.col("points").mean())["points"]
        intervals = [
            figure
            for cluster in ("target", "run")
            for figure in bootstrap_interval(differences["points"], differences[cluster].to_list(), 10_000, seed=0)
        ]
        rows.append((f"{first} - {second}", differences["points"].mean(), *intervals, runs.min(), runs.max()))
    schema = ["effect", "points", "low", "high", "runs_low", "runs_high", "least", "most"]
    return pl.DataFrame(rows, schema=schema, orient="row")


def reward_gain(trees: Sequence[Path], variant: str) -> tuple[float, float]:
    """Mean reward in the first and in the last quarter of a variant's steps, over all trees."""
    first, last = [], []
    for tree in trees:
        rewards = pl.read_parquet(tree / f"results/training/{variant}.parquet")["reward"].drop_nans()
        quarter = len(rewards) // 4
        first += rewards.head(quarter).to_list()
        last += rewards.tail(quarter).to_list()
    return sum(first) / len(first), sum(last) / len(last)


def arguments_of_runs(description: str) -> argparse.ArgumentParser:
    """A parser of the directory, seeds and precisions of several runs."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=[""])
    return parser


def main() -> None:
    parser = arguments_of_runs(__doc__)
    parser.add_argument("--effects", action="store_true", help="run only what the effects need")
    arguments = parser.parse_args()
    targets = [f"results/judgements/judge/{method}.parquet" for method in COMPARED] if arguments.effects else []
    trees = [
        run_seed(arguments.directory, seed, *targets, precision=precision)
        for seed, precision in product(arguments.seeds, arguments.precisions)
    ]
    with pl.Config(tbl_formatting="MARKDOWN", tbl_hide_column_data_types=True, float_precision=1, tbl_rows=-1):
        print(by_run(trees), effects(trees), sep="\n\n")
    table = accuracies(trees)
    print("\n| method | " + " | ".join(COLUMNS) + " |\n| --- |" + " --- |" * len(COLUMNS))
    for (method,), group in table.group_by("method", maintain_order=True):
        cells = {
            row["column"]: f"{row['percent']:.1f} ({row['least']:.1f}–{row['most']:.1f})" for row in group.to_dicts()
        }
        print(f"| {method} | " + " | ".join(cells.get(column, "–") for column in COLUMNS) + " |")
    for variant in ("alignxplore", "no_cold_start", "r_gen"):
        first, last = reward_gain(trees, variant)
        print(f"reward of {variant}: {first:.3f} in the first quarter of steps, {last:.3f} in the last")


if __name__ == "__main__":
    main()
