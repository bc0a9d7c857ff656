"""Time the data stage against a plain Python loop and against parsing alone: `python tests/speed/data.py DIR`.

Writes full-size raw AlignX records to DIR once, as JSON lines and as Parquet. Then it times, each in fresh processes:

- reading and refining all of the JSON lines, half of them, and the Parquet, with one process per core, as Snakemake
  runs them;
- a plain loop over the first lines, with json and the same checks and refinement, record by record;
- DuckDB and polars parsing the same file with all types given, on all cores.
"""

import argparse
import json
import multiprocessing
import os
import random
import resource
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from alignxplore.records import N_DIMENSIONS

DIRECTION, PAIRS, UGC = "Preference Direction", "Pair-wise Comparative Feedback", "User-Generated Content"
CLEAR_SHARE = 0.05
"""Share of users whose history is consistent enough to be kept."""


def raw_records(rows: int, seed: int):
    """Records of about 8 KB: a target, four or five pairs, and for a third of the users four comments."""
    rng = random.Random(seed)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 9))) for _ in range(5000)]
    texts = [" ".join(rng.choices(words, k=rng.randint(10, 70))) for _ in range(20_000)]

    def direction(base: dict[int, float], drop: float) -> list[float]:
        values = [0.5] * N_DIMENSIONS
        for index, value in base.items():
            if rng.random() >= drop:
                values[index] = value
        return values

    for number in range(rows):
        base = {index: rng.choice((0.0, 1.0)) for index in rng.sample(range(N_DIMENSIONS), rng.randint(5, 12))}
        drop = 0.0 if rng.random() < CLEAR_SHARE else 0.4

        def interaction(*names: str, base: dict[int, float] = base, drop: float = drop) -> dict[str, Any]:
            # Neighbours in the list, so that no two texts of an interaction are equal.
            start = rng.randrange(len(texts))
            return {
                **{name: texts[(start + i) % len(texts)] for i, name in enumerate(("prompt", *names))},
                DIRECTION: direction(base, drop),
            }

        target = interaction("chosen", "rejected")
        yield {
            **target,
            "prompt": f"{target['prompt']} {number}",
            "Demographic Information": "a nurse from the north",
            UGC: [interaction("comment") for _ in range(rng.choice((0, 0, 4)))],
            PAIRS: [interaction("chosen", "rejected") for _ in range(rng.choice((4, 4, 4, 5)))],
        }


RAW_FILES = ("raw.jsonl", "half.jsonl", "raw.parquet")


def make_raw(directory: Path, rows: int) -> None:
    """Write the JSON lines, the first half of them, and all of them as Parquet, unless the files exist."""
    import polars as pl

    paths = [directory / name for name in RAW_FILES]
    if all(path.exists() for path in paths):
        return
    directory.mkdir(parents=True, exist_ok=True)
    with paths[0].open("w") as whole, paths[1].open("w") as half:
        for number, record in enumerate(raw_records(rows, seed=1)):
            line = json.dumps(record) + "\n"
            whole.write(line)
            if number < rows // 2:
                half.write(line)
    pl.scan_ndjson(paths[0], infer_schema_length=100, low_memory=True).sink_parquet(paths[2], row_group_size=5000)


def plain_loop(path: Path, start: int, stop: int) -> None:
    """Read, check and refine lines `start` to `stop` one by one, with json and plain Python."""
    from alignxplore.data.alignx import HISTORY_TEXTS, TARGET_TEXTS, BadRecord, parse_example, stable_hash

    kept, rejects, seen = [], [], set()
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file):
            if number < start:
                continue
            if number == stop:
                break
            try:
                example = parse_example(json.loads(line), 100_000)
            except (ValueError, BadRecord) as error:
                rejects.append((number, error))
                continue
            texts = [example[name] for name in TARGET_TEXTS]
            texts += [item[name] for form, names in HISTORY_TEXTS.items() for item in example[form] for name in names]
            if (example_id := stable_hash("\0".join(texts))) in seen:
                continue
            seen.add(example_id)
            target = example["direction"]
            for form in ("pairs", "ugc"):
                history = [item["direction"] for item in example[form]]
                if len(history) < 4 or any({-1, 1} <= set(values) for values in zip(target, *history, strict=True)):
                    continue
                agreeing = [h for h in history if sum(t != 0 and t == v for t, v in zip(target, h, strict=True)) >= 5]
                used = agreeing[:4]
                if len(used) == 4 and sum(t != 0 and all(h[d] == t for h in used) for d, t in enumerate(target)) >= 5:
                    kept.append(example)


def data_stage(path: Path, shard: int, shards: int, output: Path) -> None:
    """Read and refine one shard, as the rule does."""
    from alignxplore.data.refine import Rules
    from alignxplore.data.shards import FILES, refine_shard
    from alignxplore.data.sources import plan

    outputs = {name: str(output / f"{shard}/{name}.parquet") for name in FILES}
    refine_shard(plan([str(path)], shards)[shard], Rules(5, 4), 100_000, outputs)


def parse_duckdb(path: Path) -> None:
    """Parse with DuckDB, all types given."""
    import duckdb

    pair = f'struct(prompt varchar, chosen varchar, rejected varchar, "{DIRECTION}" float[])[]'
    comment = f'struct(prompt varchar, comment varchar, "{DIRECTION}" float[])[]'
    columns = f"""{{prompt: 'varchar', chosen: 'varchar', rejected: 'varchar', "{DIRECTION}": 'float[]',
        "{PAIRS}": '{pair}', "{UGC}": '{comment}'}}"""
    source = f"read_json('{path}', format = 'newline_delimited', columns = {columns})"
    duckdb.sql(f"""SELECT sum(hash(COLUMNS(*))) FROM {source}""").fetchall()


def parse_polars(path: Path) -> None:
    """Parse with polars, all types given."""
    import polars as pl

    text, signs = pl.String, pl.List(pl.Float32)
    schema = {
        **dict.fromkeys(("prompt", "chosen", "rejected"), text),
        DIRECTION: signs,
        PAIRS: pl.List(pl.Struct({"prompt": text, "chosen": text, "rejected": text, DIRECTION: signs})),
        UGC: pl.List(pl.Struct({"prompt": text, "comment": text, DIRECTION: signs})),
    }
    pl.scan_ndjson(path, schema=schema).select(pl.all().is_null().sum()).collect(engine="streaming")


def timed(tasks: list[tuple[Callable[..., Any], tuple[Any, ...]]]) -> tuple[float, float]:
    """Run the tasks at once in fresh processes. Returns seconds of the slowest, and the sum of their peaks in MiB."""
    context = multiprocessing.get_context("spawn")
    results = context.SimpleQueue()
    workers = [context.Process(target=_measured, args=(results, function, arguments)) for function, arguments in tasks]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        if worker.exitcode:
            raise SystemExit(f"a worker failed: {worker}")
    seconds, peaks = zip(*(results.get() for _ in workers), strict=True)
    return max(seconds), sum(peaks)


def _measured(results: Any, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    import alignxplore.data.shards  # noqa: F401 - imported before the clock starts

    started = time.perf_counter()
    function(*arguments)
    results.put((time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--loop-rows", type=int, default=20_000)
    arguments = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    # In a process of its own, so that the workers do not inherit its memory.
    timed([(make_raw, (arguments.directory, arguments.rows))])
    whole, half, parquet = (arguments.directory / name for name in RAW_FILES)
    sizes = {path: path.stat().st_size / 1e6 for path in (whole, half, parquet)}

    def report(name: str, rows: int, megabytes: float, seconds: float, peak: float) -> float:
        print(
            f"{name:28} {rows / seconds:9,.0f} rows/s {megabytes / seconds:8,.0f} MB/s"
            f" {seconds:7.1f} s {peak:7,.0f} MiB",
            flush=True,
        )
        return rows / seconds

    print(f"{arguments.rows:,} records of {sizes[whole] * 1000 / arguments.rows:.1f} KB, {cores} cores")
    rows, share = arguments.loop_rows, arguments.loop_rows / arguments.rows
    seconds, peak = timed([(plain_loop, (whole, 0, rows))])
    single = report("plain loop, one process", rows, sizes[whole] * share, seconds, peak)
    part = rows // cores
    seconds, peak = timed([(plain_loop, (whole, i * part, (i + 1) * part)) for i in range(cores)])
    loop = report(f"plain loop, {cores} processes", rows, sizes[whole] * share, seconds, peak)
    rates, peaks = {}, {}
    for path, rows in ((half, arguments.rows // 2), (whole, arguments.rows), (parquet, arguments.rows)):
        output = arguments.directory / "shards"
        shutil.rmtree(output, ignore_errors=True)
        seconds, peaks[path] = timed([(data_stage, (path, shard, cores, output)) for shard in range(cores)])
        rates[path] = report(f"data stage, {path.name}", rows, sizes[path], seconds, peaks[path])
    parsers = {}
    for name, function in (("DuckDB", parse_duckdb), ("polars", parse_polars)):
        seconds, peak = timed([(function, (half,))])
        parsers[name] = report(f"{name} parses, half.jsonl", arguments.rows // 2, sizes[half], seconds, peak)
    print(f"data stage / plain loop in one process: {rates[whole] / single:.1f}; in {cores}: {rates[whole] / loop:.1f}")
    for name, rate in parsers.items():
        print(f"data stage / parsing alone by {name}: {rates[whole] / rate:.2f}")
    print(f"Parquet / JSON lines: {rates[parquet] / rates[whole]:.2f}")
    print(f"peak memory, whole / half: {peaks[whole] / peaks[half]:.2f}")


if __name__ == "__main__":
    main()
