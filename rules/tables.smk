# Tables: DuckDB queries over the records, with intervals, significance, and the paper's figures.

from alignxplore.workflow.config import (
    benchmark_origin,
    judged_benchmarks,
    origin_name,
    updates_descriptions,
)


def table_entry(wildcards):
    return config["tables"][wildcards.table]


def benchmark_rows(wildcards):
    """A table's benchmarks. Those of a drawn split are in domain: training sees data of their kind."""
    return [
        {
            "benchmark": name,
            "in_domain": benchmark_origin(config, name).get("split") in DRAWN_SPLITS,
        }
        for name in table_entry(wildcards)["benchmarks"]
    ]


rule table_benchmarks:
    input:
        cases=lambda wildcards: cases_of(table_entry(wildcards)["benchmarks"]),
        sql=home("scripts/sql/benchmarks.sql"),
        library=library("table_benchmarks.py"),
    output:
        csv=reported("results/{table}.csv", "benchmarks", "Tables"),
        markdown="results/{table}.md",
    log:
        "logs/tables/{table}.log",
    benchmark:
        "logs/timings/tables/{table}.tsv"
    wildcard_constraints:
        table=one_of(names_in("tables", kind="benchmarks")),
    conda:
        "../envs/cpu.yaml"
    resources:
        **needs(1000, 30),
    params:
        kind="benchmarks",
        title=setting("tables/{table}/title"),
        columns=benchmark_rows,
    message:
        "Writing {wildcards.table}: {params.title}"
    script:
        "../scripts/table_{params.kind}.py"


use rule table_benchmarks as table_win_rates with:
    input:
        wins=lambda wildcards: wins_between(methods_in(wildcards.table)),
        published=config.get("published", []),
        sql=home("scripts/sql/win_rates.sql"),
        library=library("table_win_rates.py"),
    output:
        csv=reported("results/{table}.csv", "win_rates", "Tables"),
        markdown="results/{table}.md",
    wildcard_constraints:
        table=one_of(names_in("tables", kind="win_rates")),
    params:
        kind="win_rates",
        table="{table}",
        methods=lambda wildcards: methods_shown(methods_in(wildcards.table)),
        columns=[
            {"name": name, "benchmarks": group, "paper": f"win_rate/{name}"}
            for name, group in config.get("online", {}).get("groups", {}).items()
        ],
        resamples=config["resamples"],
        seed=config["seed"],


use rule table_win_rates as table_strengths with:
    input:
        wins=lambda wildcards: wins_between(methods_in(wildcards.table)),
        published=config.get("published", []),
        sql=home("scripts/sql/win_rates.sql"),
        library=library("table_strengths.py"),
    output:
        csv=reported("results/{table}.csv", "strengths", "Tables"),
        markdown="results/{table}.md",
    wildcard_constraints:
        table=one_of(names_in("tables", kind="strengths")),
    params:
        kind="strengths",


def accuracy_columns(wildcards):
    return [
        {"name": name, **column}
        for name, column in table_entry(wildcards)["columns"].items()
    ]


def origins(wildcards):
    """What each benchmark of a table is made from. `change_from` pairs cases of the same origin."""
    benchmarks = {
        name for column in accuracy_columns(wildcards) for name in column["benchmarks"]
    }
    return {name: origin_name(config, name) for name in sorted(benchmarks)}


use rule table_win_rates as table_accuracy with:
    input:
        judgements=lambda wildcards: judgements_shown(
            wildcards.table, table_entry(wildcards)
        ),
        published=config.get("published", []),
        sql=home("scripts/sql/accuracy.sql"),
        library=library("table_accuracy.py"),
    output:
        csv=reported("results/{table}.csv", "accuracy", "Tables"),
        markdown="results/{table}.md",
    wildcard_constraints:
        table=one_of(names_in("tables", kind="accuracy")),
    params:
        kind="accuracy",
        columns=accuracy_columns,
        origins=origins,
        compare_with=setting("tables/{table}/compare_with"),


use rule table_win_rates as table_judges with:
    input:
        judgements=lambda wildcards: judgements_shown(
            wildcards.table, table_entry(wildcards)
        ),
        published=config.get("published", []),
        sql=home("scripts/sql/accuracy.sql"),
        library=library("table_judges.py"),
    output:
        csv=reported("results/{table}.csv", "judges", "Tables"),
        markdown="results/{table}.md",
    wildcard_constraints:
        table=one_of(names_in("tables", kind="judges")),
    params:
        kind="judges",
        columns=lambda wildcards: judge_columns(table_entry(wildcards)),


def validity_columns(wildcards):
    """One column per judge and benchmark of a table that it judges."""
    entry = table_entry(wildcards)
    return [
        {"name": f"{judge}, {name}", "judge": judge, "benchmarks": [name]}
        for judge in entry["judges"]
        for name in judged_benchmarks(config, judge, entry["benchmarks"])
    ]


def streaming_columns(wildcards):
    """The columns of validity, named by the benchmark alone if there is one judge."""
    columns = validity_columns(wildcards)
    if len(table_entry(wildcards)["judges"]) > 1:
        return columns
    return [{**column, "name": column["benchmarks"][0]} for column in columns]


def updating_methods(wildcards):
    """The methods of a table that bring descriptions up to date."""
    return [
        name
        for name in methods_in(wildcards.table)
        if updates_descriptions(config["methods"][name])
    ]


use rule table_win_rates as table_streaming with:
    input:
        judgements=lambda wildcards: judgements_shown(
            wildcards.table, table_entry(wildcards)
        ),
        cases=lambda wildcards: cases_of(table_entry(wildcards)["benchmarks"]),
        preferences=lambda wildcards: expand(
            "results/preferences/{method}.parquet", method=methods_in(wildcards.table)
        ),
        sql=home("scripts/sql/streaming.sql"),
        library=library("table_streaming.py"),
    output:
        csv=reported("results/{table}.csv", "streaming", "Tables"),
        markdown="results/{table}.md",
    wildcard_constraints:
        table=one_of(names_in("tables", kind="streaming")),
    params:
        kind="streaming",
        columns=streaming_columns,
        updating=updating_methods,
        drifts=lambda wildcards: {
            name: config["benchmarks"][name]["drift"]["at"]
            for name in table_entry(wildcards)["benchmarks"]
            if "drift" in config["benchmarks"][name]
        },


use rule table_win_rates as table_validity with:
    input:
        judgements=lambda wildcards: judgements_shown(
            wildcards.table, table_entry(wildcards)
        ),
        cases=lambda wildcards: cases_of(table_entry(wildcards)["benchmarks"]),
        sql=home("scripts/sql/validity.sql"),
        library=library("table_validity.py"),
    output:
        csv=reported("results/{table}.csv", "validity", "Tables"),
        markdown="results/{table}.md",
    wildcard_constraints:
        table=one_of(names_in("tables", kind="validity")),
    params:
        kind="validity",
        columns=validity_columns,
