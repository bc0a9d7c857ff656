# Tables: DuckDB queries over the records, with intervals, significance, and the paper's figures.


rule table_benchmarks:
    input:
        cases=lambda wildcards: cases_of(
            config["tables"][wildcards.table]["benchmarks"]
        ),
        sql="scripts/sql/benchmarks.sql",
        library=library("table_benchmarks.py"),
    output:
        csv=report(
            "results/{table}.csv",
            caption="../resources/report/benchmarks.rst",
            category="Tables",
        ),
        markdown="results/{table}.md",
    log:
        "logs/tables/{table}.log",
    benchmark:
        "benchmarks/tables/{table}.tsv"
    wildcard_constraints:
        table=one_of(tables_of("benchmarks")),
    conda:
        "../envs/cpu.yaml"
    resources:
        mem_mb=1000,
        runtime=30,
    params:
        title=table_title,
        note="Labelled directions by sign; signals are means over cases.",
        benchmarks=table_benchmarks,
    message:
        "{wildcards.table}: what the benchmarks hold"
    script:
        "../scripts/table_benchmarks.py"


rule table_accuracy:
    input:
        judgements=table_judgements,
        published=config["published"],
        sql="scripts/sql/accuracy.sql",
        library=library("table_accuracy.py"),
    output:
        csv=report(
            "results/{table}.csv",
            caption="../resources/report/accuracy.rst",
            category="Tables",
        ),
        markdown="results/{table}.md",
    log:
        "logs/tables/{table}.log",
    benchmark:
        "benchmarks/tables/{table}.tsv"
    wildcard_constraints:
        table=one_of(tables_of("accuracy")),
    conda:
        "../envs/cpu.yaml"
    resources:
        mem_mb=1000,
        runtime=30,
    params:
        table="{table}",
        title=table_title,
        note="Percent of cases, with 95% bootstrap intervals over cases; * significantly below the column's best "
        "method that is not for reference (paired t-test, p < 0.05).",
        methods=table_methods,
        columns=lambda wildcards: config["tables"][wildcards.table]["columns"],
        resamples=config["resamples"],
        seed=config["seed"],
    message:
        "{wildcards.table}: accuracies"
    script:
        "../scripts/table_accuracy.py"


rule table_win_rates:
    input:
        wins=table_wins,
        published=config["published"],
        sql="scripts/sql/win_rates.sql",
        library=library("table_win_rates.py"),
    output:
        csv=report(
            "results/{table}.csv",
            caption="../resources/report/win_rates.rst",
            category="Tables",
        ),
        markdown="results/{table}.md",
    log:
        "logs/tables/{table}.log",
    benchmark:
        "benchmarks/tables/{table}.tsv"
    wildcard_constraints:
        table=one_of(tables_of("win_rates")),
    conda:
        "../envs/cpu.yaml"
    resources:
        mem_mb=1000,
        runtime=30,
    params:
        table="{table}",
        title=table_title,
        note="Percent of cases won, ties counting half, with 95% bootstrap intervals over cases; * significantly "
        "above 50% (t-test, p < 0.05).",
        methods=table_methods,
        columns=win_rate_columns,
        resamples=config["resamples"],
        seed=config["seed"],
    message:
        "{wildcards.table}: win rates"
    script:
        "../scripts/table_win_rates.py"
