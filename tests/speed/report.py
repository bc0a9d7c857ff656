"""Measures the report site with 30,000 cases and 13 methods: `python tests/speed/report.py DIR [--cases N]`.

Writes records with texts as long as a real run's to DIR (only once), builds the site in a separate process to measure
time and peak memory, opens it from disk in a headless Chromium, and measures there:

- first paint: first contentful paint of the results and of the explorer, each in a new browser context;
- list: from the start of navigation until the explorer shows its first page of cases;
- a filter or search: from the changed address to the new list, with words loaded from disk but without the pause after
  a keystroke; each search is measured the first time and again;
- a case: from the click to its details, including the load of their file.
"""

import argparse
import json
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
from alignxplore import records
from alignxplore.results.site.explorer import Sources
from alignxplore.results.site.pages import Inputs, write_site
from playwright.sync_api import Browser, Page, sync_playwright

METHODS = [f"method_{number}" for number in range(13)]
JUDGES = ["judge", "judge2", "gen"]
WORDS = {"post": 120, "response": 60, "reasoning": 320, "description": 60}
"""Words per text on average; the length of a reasoning model's answers is the paper's (section 4.5)."""
POOL = 6_000
BLOCK = 5_000
CHROMIUM = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
SEARCHES = ["word0 unlikely", "w1203", "w3 w88 w1040", "qu", "absentword", "w77"]


def texts(rng: np.random.Generator, kind: str) -> list[str]:
    """A pool of texts over 60,000 words whose frequencies follow Zipf's law, as in natural language."""
    lengths = rng.poisson(WORDS[kind], POOL)
    ranks = np.minimum(rng.zipf(1.15, lengths.sum()), 60_000)
    words = np.array([f"w{rank}" if rank % 7 else f"quite{rank}" for rank in range(60_001)])[ranks]
    ends = lengths.cumsum()
    return [" ".join(words[end - length : end]) for end, length in zip(ends, lengths, strict=True)]


def write_records(directory: Path, count: int) -> None:
    rng = np.random.default_rng(1)
    pool = {kind: pl.Series(texts(rng, kind)) for kind in WORDS}

    def drawn(kind: str, rows: int) -> pl.Series:
        return pool[kind].gather(rng.integers(POOL, size=rows))

    def keys(start: int) -> pl.DataFrame:
        number = pl.int_range(start, min(start + BLOCK, count), eager=True)
        return pl.DataFrame({"case_id": number.cast(pl.String).str.pad_start(16, "c")})

    neutral = [0] * records.N_DIMENSIONS
    with records.Writer(directory / "cases.parquet", records.CASE) as file:
        for start in range(0, count, BLOCK):
            table = keys(start)
            signals = [drawn(kind, 4 * table.height) for kind in ("post", "response", "response")]
            pairs = [
                [
                    {"prompt": p, "chosen": c, "rejected": r, "direction": neutral}
                    for p, c, r in zip(*(part[i : i + 4] for part in signals), strict=True)
                ]
                for i in range(0, 4 * table.height, 4)
            ]
            directions = []
            for _ in range(table.height):
                direction = list(neutral)
                for place in rng.choice(records.N_DIMENSIONS, 6, replace=False):
                    direction[place] = int(rng.choice([-1, 1]))
                directions.append(direction)
            posts = drawn("post", table.height)
            file.write(
                table.with_columns(
                    benchmark=pl.lit("test"),
                    dimension=pl.lit(""),
                    direction=pl.Series(directions, dtype=records.DIRECTION),
                    pairs=pl.Series(pairs, dtype=pl.List(records.PAIR)),
                    ugc=pl.Series([[]] * table.height, dtype=pl.List(records.UGC)),
                    prompt=posts + pl.Series([f" word0 case{start + i}" for i in range(table.height)]),
                    chosen=drawn("response", table.height),
                    rejected=drawn("response", table.height),
                    golden_preference=drawn("description", table.height),
                    rendered=pl.lit(""),
                    profile=pl.lit(""),
                    stream=pl.lit(""),
                    chunks=pl.Series([[]] * table.height, dtype=pl.List(pl.Int32)),
                )
            )
    for method in METHODS:
        with records.Writer(directory / f"preferences/{method}.parquet", records.PREFERENCE) as file:
            for start in range(0, count, BLOCK):
                table = keys(start)
                file.write(
                    table.with_columns(
                        benchmark=pl.lit("test"),
                        method=pl.lit(method),
                        reasoning=drawn("reasoning", table.height),
                        preference=drawn("description", table.height),
                        format_ok=pl.lit(True),
                        finish_reason=pl.lit("stop"),
                        prompt_tokens=pl.lit(900),
                        completion_tokens=pl.lit(500),
                    )
                )
        for judge in JUDGES:
            with records.Writer(directory / f"judgements/{judge}/{method}.parquet", records.JUDGEMENT) as file:
                for start in range(0, count, BLOCK):
                    table = keys(start)
                    p = pl.Series(rng.random(table.height))
                    file.write(
                        table.with_columns(
                            benchmark=pl.lit("test"),
                            method=pl.lit(method),
                            judge=pl.lit(judge),
                            p_chosen_ab=p,
                            p_chosen_ba=p,
                            correct=p > 0.5,
                            position_flip=pl.lit(False),
                            unparsed=pl.lit(0),
                            format_ok=pl.lit(True),
                            completion_tokens=pl.lit(500),
                            target=pl.col("case_id"),
                        )
                    )
    pl.DataFrame(schema=records.REJECT).write_parquet(directory / "rejects.parquet")
    (directory / "funnel.csv").write_text("step,rows,lost\nraw records,1,0\n")
    (directory / "splits.csv").write_text("set,examples\ntest,1\n")
    pl.DataFrame(schema=records.PROVENANCE).write_parquet(directory / "provenance.parquet")
    (directory / "done").touch()


def build(directory: Path) -> None:
    """Build the site and print its seconds and peak memory as JSON."""
    start = time.perf_counter()
    sources = Sources(
        cases=[directory / "cases.parquet"],
        preferences=[directory / f"preferences/{method}.parquet" for method in METHODS],
        judgements=[directory / f"judgements/{judge}/{method}.parquet" for judge in JUDGES for method in METHODS],
        labels={method: method for method in METHODS},
        dimensions={},
    )
    files = {name: directory / f"{name}.csv" for name in ("funnel", "splits")}
    parquet = {"rejects": [directory / "rejects.parquet"], "provenance": directory / "provenance.parquet"}
    inputs = Inputs(tables=[], figures=[], points={}, metrics={}, rollouts={}, **files, **parquet, sources=sources)
    write_site(Path(__file__).parents[2] / "resources/report", directory / "site", inputs)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": round(time.perf_counter() - start), "peak_mib": round(peak)}))


def measured(page: Page, name: str) -> dict[str, float]:
    """The page's latest measurement of this name, waiting until there is one.

    The page's policy forbids Playwright's wait_for_function, which evaluates strings.
    """
    return page.evaluate(
        """name => new Promise((resolve) => {
            const look = () => {
                const last = performance.getEntriesByName(name).at(-1);
                if (last) resolve({start: last.startTime, duration: last.duration});
                else setTimeout(look, 5);
            };
            look();
        })""",
        name,
    )


def paint(browser: Browser, address: str) -> float:
    context = browser.new_context()
    page = context.new_page()
    page.goto(address)
    at = measured(page, "first-contentful-paint")["start"]
    context.close()
    return at


def step(page: Page, change: str) -> float:
    """Milliseconds from changing the address to the new list."""
    page.evaluate("performance.clearMeasures()")
    page.evaluate(f"location.hash = {json.dumps(change)}")
    return measured(page, "filter")["duration"]


def found(page: Page) -> str:
    return page.locator("#status").inner_text().partition(" cases")[0]


def measure(site: Path) -> None:
    with sync_playwright() as playwright:
        path = shutil.which("chromium")
        browser = playwright.chromium.launch(executable_path=path, args=CHROMIUM)
        for name in ("index", "cases"):
            times = sorted(paint(browser, f"{site.as_uri()}/{name}.html") for _ in range(5))
            print(f"first paint, {name}.html: median {times[2]:.0f} ms, worst {times[-1]:.0f} ms")
        page = browser.new_page()
        page.goto(f"{site.as_uri()}/cases.html")
        list_shown = measured(page, "filter")
        print(f"list: {list_shown['start'] + list_shown['duration']:.0f} ms after the start")
        for name, change in (
            ("outcome", "outcome=1"),
            ("differ", "differ=1"),
            ("dimension", "dimension=dimension+7"),
            ("judge and method", "judge=gen&a=method_4&outcome=0"),
        ):
            print(f"filter by {name}: {step(page, change):.0f} ms, {found(page)}")
        for words in SEARCHES:
            first = step(page, f"q={words}")
            matches = found(page)
            step(page, "q=")
            print(f"search {words!r}: {first:.0f} ms, again {step(page, f'q={words}'):.0f} ms, {matches}")
        step(page, "page=300")
        start = time.perf_counter()
        page.locator("#list a").first.click()
        page.wait_for_selector("#case .method")
        print(f"open a case: {1000 * (time.perf_counter() - start):.0f} ms with the browser's driver")
        browser.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--cases", type=int, default=30_000)
    parser.add_argument("--build", action="store_true", help="only build the site")
    arguments = parser.parse_args()
    directory = arguments.directory.resolve()
    if arguments.build:
        build(directory)
        return
    if not (directory / "done").exists():
        write_records(directory, arguments.cases)
    shutil.rmtree(directory / "site", ignore_errors=True)
    built = subprocess.run(
        [sys.executable, __file__, str(directory), "--build"], check=True, capture_output=True, text=True
    )
    size = sum(path.stat().st_size for path in (directory / "site").rglob("*") if path.is_file())
    cost = json.loads(built.stdout)
    print(f"site of {arguments.cases} cases: {cost['seconds']} s, peak {cost['peak_mib']} MiB, {size / 1e6:.0f} MB")
    measure(directory / "site")


if __name__ == "__main__":
    main()
