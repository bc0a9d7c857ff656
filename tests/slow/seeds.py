"""Run the default experiment once per seed and pool the results: `python tests/slow/seeds.py DIR --seeds 1 2 3`.

A seed that has finished in DIR is not run again. Prints ACC_jud with 95% bootstrap intervals over the cases of all
seeds, and the mean reward of the first and last quarter of reinforcement learning.
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
from alignxplore.results.stats import bootstrap_interval

ROOT = Path(__file__).parents[2]
PARTS = ("Snakefile", "rules", "scripts", "config", "envs", "profiles", "resources")
COLUMNS = {
    "alignx_test": ["alignx_test"],
    "reversed": ["alignx_test_reverse"],
    "UGC": ["alignx_test_ugc"],
    "P-SOUPS": ["psoups_expertise", "psoups_informativeness", "psoups_style"],
    "P-SOUPS reversed": [f"psoups_{name}_reverse" for name in ("expertise", "informativeness", "style")],
}


def run_seed(directory: Path, seed: int, *targets: str, layer: str = "") -> Path:
    """The tree of a finished run with this seed; runs it if needed.

    `targets` are the files to make (default: all), and `layer` is YAML that goes over the default configuration.
    """
    tree = directory / f"seed-{seed}"
    tree.mkdir(parents=True, exist_ok=True)
    for name in PARTS:
        if not (tree / name).exists():
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
            copy(ROOT / name, tree / name)
    command = [sys.executable, "-m", "snakemake", *targets, "--cores", "all", "--config", f"seed={seed}"]
    if layer:
        (tree / "layer.yaml").write_text(layer)
        command += ["--configfile", "config/demo.yaml", "layer.yaml"]
    subprocess.run(command, cwd=tree, check=True)
    return tree


def accuracies(trees: list[Path], judge: str = "judge") -> pl.DataFrame:
    """ACC_jud of each method in each of COLUMNS, in percent, with its interval, pooled over the cases of all trees."""
    files = [path for tree in trees for path in sorted((tree / "results/judgements" / judge).glob("*.parquet"))]
    judged = pl.concat([pl.read_parquet(path) for path in files])
    rows = []
    for (method,), group in judged.group_by("method", maintain_order=True):
        for column, benchmarks in COLUMNS.items():
            own = group.filter(pl.col("benchmark").is_in(benchmarks))
            correct = own["correct"].cast(float).to_numpy()
            if len(correct):
                low, high = bootstrap_interval(correct, own["target"].to_list(), 10_000, seed=0)
                rows.append((method, column, len(correct), 100 * correct.mean(), 100 * low, 100 * high))
    return pl.DataFrame(rows, schema=["method", "column", "n", "percent", "low", "high"], orient="row")


def reward_gain(trees: list[Path], variant: str) -> tuple[float, float]:
    """Mean reward in the first and in the last quarter of a variant's steps, over all trees."""
    first, last = [], []
    for tree in trees:
        rewards = pl.read_parquet(tree / f"results/training/{variant}.parquet")["reward"].drop_nans()
        quarter = len(rewards) // 4
        first += rewards.head(quarter).to_list()
        last += rewards.tail(quarter).to_list()
    return sum(first) / len(first), sum(last) / len(last)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    arguments = parser.parse_args()
    trees = [run_seed(arguments.directory, seed) for seed in arguments.seeds]
    table = accuracies(trees)
    print("| method | " + " | ".join(COLUMNS) + " |\n| --- |" + " --- |" * len(COLUMNS))
    for (method,), group in table.group_by("method", maintain_order=True):
        cells = {
            row["column"]: f"{row['percent']:.1f} [{row['low']:.1f}, {row['high']:.1f}]" for row in group.to_dicts()
        }
        print(f"| {method} | " + " | ".join(cells.get(column, "–") for column in COLUMNS) + " |")
    for variant in ("alignxplore", "no_cold_start", "r_gen"):
        first, last = reward_gain(trees, variant)
        print(f"reward of {variant}: {first:.3f} in the first quarter of steps, {last:.3f} in the last")


if __name__ == "__main__":
    main()
