# Tables: DuckDB queries over the records, with intervals, significance, and the paper's figures.

from itertools import combinations

from alignxplore.workflow.config import benchmark_origin, origin_name


def table_entry(wildcards):
    return config["tables"][wildcards.table]


def result_labels(wildcards):
    """How Snakemake's own report lists a table or figure."""
    name = wildcards.get("table") or wildcards.get("figure")
    entry = config["tables"].get(name) or config["figures"][name]
    return {"result": entry["title"], "file": name}


def reported(path, caption, category):
    """A table or figure that Snakemake's own report shows too."""
    caption = f"../resources/report/{caption}.rst"
    return report(path, caption=caption, category=category, labels=result_labels)


def benchmark_rows(wildcards):
    """A table's benchmarks, and whether each is of AlignX, whose dimensions training sees."""
    return [
        {
            "benchmark": name,
            "in_domain": benchmark_origin(config, name)["source"] == "alignx",
        }
        for name in table_entry(wildcards)["benchmarks"]
    ]


rule table_benchmarks:
    input:
        cases=lambda wildcards: cases_of(table_entry(wildcards)["benchmarks"]),
        sql="scripts/sql/benchmarks.sql",
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


def methods_shown(methods):
    """What a table or figure prints of its methods; `paper` is a method's name in published tables."""
    entries = {name: config["methods"][name] for name in methods}
    return [
        {
            "name": name,
            "label": entry["label"],
            "paper": entry.get("paper", entry["label"]),
            "reference": entry.get("reference", False),
        }
        for name, entry in entries.items()
    ]


def wins_between(methods):
    """Comparisons of every two of these methods."""
    return [
        f"results/wins/{first}/{second}.parquet"
        for first, second in combinations(methods, 2)
    ]


use rule table_benchmarks as table_win_rates with:
    input:
        wins=lambda wildcards: wins_between(methods_in(wildcards.table)),
        published=config["published"],
        sql="scripts/sql/win_rates.sql",
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
        published=config["published"],
        sql="scripts/sql/win_rates.sql",
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
    """What each benchmark of a table is made from: changes are counted between cases of one origin."""
    benchmarks = {
        name for column in accuracy_columns(wildcards) for name in column["benchmarks"]
    }
    return {name: origin_name(config, name) for name in sorted(benchmarks)}


def judgements_shown(name, entry):
    """Judgements that a table or figure shows: its methods, each by every judge of it."""
    judges = entry.get("judges") or [
        c["judge"] for c in entry.get("columns", {}).values()
    ]
    methods = entry.get("methods") or methods_in(name)
    return judgement_files(dict.fromkeys(judges), methods)


use rule table_win_rates as table_accuracy with:
    input:
        judgements=lambda wildcards: judgements_shown(
            wildcards.table, table_entry(wildcards)
        ),
        published=config["published"],
        sql="scripts/sql/accuracy.sql",
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


def judge_columns(entry):
    """One column for each of the judges that a table or figure compares."""
    benchmarks = entry["benchmarks"]
    return [{"name": j, "judge": j, "benchmarks": benchmarks} for j in entry["judges"]]


use rule table_win_rates as table_judges with:
    input:
        judgements=lambda wildcards: judgements_shown(
            wildcards.table, table_entry(wildcards)
        ),
        published=config["published"],
        sql="scripts/sql/accuracy.sql",
        library=library("table_judges.py"),
    output:
        csv=reported("results/{table}.csv", "judges", "Tables"),
        markdown="results/{table}.md",
    wildcard_constraints:
        table=one_of(names_in("tables", kind="judges")),
    params:
        kind="judges",
        columns=lambda wildcards: judge_columns(table_entry(wildcards)),
