"""Streaming against full history, over seeds and precisions.

    python tests/slow/streams.py DIR --seeds 1 2 3 4 5 6 --precisions bfloat16 float32

Runs only what the tables of streams need; a run that has finished in DIR, by this script or by seeds.py, is not
repeated. Prints ACC_jud after each chunk, and differences of methods on the same cases, with 95% bootstrap intervals
over the users of all seeds; which of the planted preferences the first run's descriptions name; and the tokens that
one more chunk takes in a history of up to 32 signals.
"""

from itertools import product
from pathlib import Path

import polars as pl
import yaml
from alignxplore.results.stats import bootstrap_interval
from seeds import arguments_of_runs, judged, run_seed

LONG = {
    "demo": {"streams": {"users": 10, "signals": 32}},
    "tables": {"streaming": {"benchmarks": ["long_stream"]}},
    "figures": {"drift": None},
}
"""The layer of the run that counts tokens."""


TABLES = ("streaming", "updates")
PAIRS = (
    ("streaming", "full_history", "long_stream", (2, 3, 4)),
    ("streaming", "last_chunk", "long_stream", (2, 3, 4)),
    ("streaming", "full_history", "long_noisy", (2, 3, 4)),
    ("streaming", "last_chunk", "long_noisy", (2, 3, 4)),
    ("streaming", "full_history", "long_drift", (3,)),
    ("streaming", "last_chunk", "long_drift", (3,)),
    ("streaming", "full_history", "long_drift", (4,)),
    ("streaming", "last_chunk", "long_drift", (4,)),
    ("updates", "untrained_updates", "long_stream", (2, 3, 4)),
    ("updates", "untrained_updates", "long_drift", (3, 4)),
)
"""Two methods, and the benchmark and chunks on which they are compared."""


def judged_steps(tree: Path, seed: int, judge: str = "judge") -> pl.DataFrame:
    """The judgements of a tree's streams, with the number of chunks that were read, the `run` and the `user`.

    A seed has the same users in both precisions.
    """
    cases = pl.concat([pl.read_parquet(path) for path in sorted((tree / "data/cases").glob("long_*.parquet"))])
    chunk = cases.select("benchmark", "case_id", "stream", chunk=pl.col("chunks").list.len())
    steps = judged([tree], judge).filter(pl.col("method").is_in(methods_of_streams()))
    return steps.join(chunk, on=["benchmark", "case_id"]).with_columns(user=pl.format("{} {}", pl.lit(seed), "stream"))


def methods_of_streams() -> list[str]:
    """The rows of the tables of streams."""
    config = yaml.safe_load(Path("config/demo.yaml").read_text())
    return [name for name, entry in config["methods"].items() if {*TABLES} & {*entry.get("tables", ())}]


def accuracy(steps: pl.DataFrame) -> str:
    """A Markdown table of ACC_jud by benchmark, method and chunk."""
    chunks = sorted(steps["chunk"].unique())
    lines = [f"| benchmark | method | {' | '.join(f'chunk {c}' for c in chunks)} |", "| --- " * (2 + len(chunks)) + "|"]
    for (benchmark, method), group in steps.group_by("benchmark", "method", maintain_order=True):
        cells = []
        for chunk in chunks:
            own = group.filter(pl.col("chunk") == chunk)
            correct = own["correct"].to_numpy()
            low, high = bootstrap_interval(correct, own["user"].to_list(), 10_000, seed=0)
            cells.append(f"{100 * correct.mean():.1f} [{100 * low:.1f}, {100 * high:.1f}]")
        lines.append(f"| {benchmark} | {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def differences(steps: pl.DataFrame) -> str:
    """A Markdown table of the points by which one method is above another on the same cases."""
    lines = ["| benchmark | chunks | method | above | points |", "| --- " * 5 + "|"]
    for first, second, benchmark, chunks in PAIRS:
        own = steps.filter(pl.col("benchmark") == benchmark, pl.col("chunk").is_in(chunks))
        cases = own.pivot(on="method", index=["run", "user", "chunk"], values="correct")
        above = (cases[first] - cases[second]).to_numpy()
        low, high = bootstrap_interval(above, cases["user"].to_list(), 10_000, seed=0)
        cells = f"{100 * above.mean():.1f} [{100 * low:.1f}, {100 * high:.1f}]"
        lines.append(f"| {benchmark} | {', '.join(map(str, chunks))} | {first} | {second} | {cells} |")
    return "\n".join(lines)


def named(tree: Path) -> str:
    """A Markdown table of the percentages of planted preferences that are named, and of named ones that are right."""
    cases = pl.concat([pl.read_parquet(path) for path in sorted((tree / "data/cases").glob("long_*.parquet"))])
    golden = cases.select("benchmark", "case_id", "golden_preference", chunk=pl.col("chunks").list.len())
    files = [tree / f"results/preferences/{name}.parquet" for name in methods_of_streams()]
    described = pl.concat([pl.read_parquet(path) for path in files]).join(golden, on=["benchmark", "case_id"])
    labels = (
        pl.col(name).str.strip_prefix("This person: ").str.strip_suffix(".").str.split(", ").list.unique()
        for name in ("preference", "golden_preference")
    )
    said, planted = labels
    right = said.list.set_intersection(planted).list.len()
    shares = described.with_columns(found=right / planted.list.len(), right=right / said.list.len())
    lines = ["| benchmark | method | named after each chunk | of them right |", "| --- " * 4 + "|"]
    for (benchmark, method), group in shares.group_by("benchmark", "method", maintain_order=True):
        means = group.group_by("chunk").agg(pl.col("found", "right").mean()).sort("chunk")
        cells = (", ".join(f"{100 * share:.0f}" for share in means[name]) for name in ("found", "right"))
        lines.append(f"| {benchmark} | {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def tokens(tree: Path) -> str:
    """A Markdown table of the tokens that one more chunk takes, by the signals that the history then has."""
    table = pl.read_csv(tree / "results/streaming.csv").filter(pl.col("chunk").is_in([1, 2, 4, 8]))
    lines = ["| method | 4 signals | 8 | 16 | 32 |", "| --- " * 5 + "|"]
    for (method,), group in table.drop_nulls("tokens_read").group_by("method", maintain_order=True):
        read = group.sort("chunk").select("tokens_read", "tokens_written").iter_rows()
        lines.append(f"| {method} | " + " | ".join(f"{first:.0f} + {second:.0f}" for first, second in read) + " |")
    return "\n".join(lines)


def main() -> None:
    arguments = arguments_of_runs(__doc__).parse_args()
    targets = [f"results/{name}.csv" for name in TABLES]
    runs = [
        (seed, run_seed(arguments.directory, seed, *targets, precision=precision))
        for seed, precision in product(arguments.seeds, arguments.precisions)
    ]
    steps = pl.concat([judged_steps(tree, seed) for seed, tree in runs])
    print(accuracy(steps))
    print(differences(steps))
    print(named(runs[0][1]))
    long = run_seed(arguments.directory / "long", arguments.seeds[0], "results/streaming.csv", layer=yaml.dump(LONG))
    print(tokens(long))


if __name__ == "__main__":
    main()
