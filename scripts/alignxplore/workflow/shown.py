"""What the results show: the cases that each method describes, and that each judge decides under its descriptions.

Nothing else is asked of a model. For example, if Table 2 shows a method on AlignX alone:

    tables:   table2 {columns: {x: {judge: judge, benchmarks: [alignx_test]}}}
    methods:  no_rl {tables: [table2]}           ->  judged     (judge, no_rl): alignx_test
                                                     described  no_rl: alignx_test
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

from alignxplore.workflow.config import Config, judged_benchmarks, table_methods

Judged = Mapping[tuple[str, str], set[str]]


def judged(config: Config) -> Judged:
    """The benchmarks that results show by judge and method. `config` is `completed`."""
    found: dict[tuple[str, str], set[str]] = defaultdict(set)
    for judge, methods, benchmarks in _parts(config):
        for method in methods:
            own = config["methods"][method].get("benchmarks", config["benchmarks"])
            wanted = set(judged_benchmarks(config, judge, benchmarks)).intersection(own)
            if wanted:
                found[judge, method] |= wanted
    return found


def _parts(config: Config) -> Iterator[tuple[str, Iterable[str], Iterable[str]]]:
    """Judge, methods and benchmarks of each column of a table, panel of a figure, and of the case study."""
    for name, entry in config["tables"].items():
        methods = table_methods(config, name)
        for column in entry.get("columns", {}).values():
            yield column["judge"], methods, column["benchmarks"]
        for judge in entry.get("judges", ()):
            yield judge, methods, entry["benchmarks"]
    for entry in config.get("figures", {}).values():
        for judge in entry.get("judges", ()):
            yield judge, entry["methods"], entry["benchmarks"]
    if study := config.get("case_study"):
        yield study["judge"], study["methods"], [study["benchmark"]]


def described(config: Config) -> dict[str, set[str]]:
    """The benchmarks whose cases results need descriptions of, by method."""
    found: dict[str, set[str]] = defaultdict(set)
    for (_, method), benchmarks in judged(config).items():
        found[method] |= benchmarks
    for entry in config.get("figures", {}).values():
        if "benchmark" in entry:
            for method in entry["methods"]:
                found[method].add(entry["benchmark"])
    groups = config.get("online", {}).get("groups", {}).values()
    for name, entry in config["tables"].items():
        if entry["kind"] in ("win_rates", "strengths"):
            for method in table_methods(config, name):
                found[method].update(*groups)
    return found
