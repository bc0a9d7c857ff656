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
            labels=result_labels,
        ),
        markdown="results/{table}.md",
    log:
        "logs/tables/{table}.log",
    benchmark:
        "logs/timings/tables/{table}.tsv"
    wildcard_constraints:
        table=one_of(tables_of("benchmarks")),
    conda:
        "../envs/cpu.yaml"
    resources:
        mem_mb=memory(1000),
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
            labels=result_labels,
        ),
        markdown="results/{table}.md",
    log:
        "logs/tables/{table}.log",
    benchmark:
        "logs/timings/tables/{table}.tsv"
    wildcard_constraints:
        table=one_of(tables_of("accuracy")),
    conda:
        "../envs/cpu.yaml"
    resources:
        mem_mb=memory(1000),
        runtime=30,
    params:
        table="{table}",
        title=table_title,
        note="Percent of cases, with 95% bootstrap intervals over targets; * significantly below the column's best "
        "method that is not for reference (paired t-test, p < 0.05).",
        methods=table_methods,
        columns=lambda wildcards: config["tables"][wildcards.table]["columns"],
        origins=table_origins,
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
            labels=result_labels,
        ),
        markdown="results/{table}.md",
    log:
        "logs/tables/{table}.log",
    benchmark:
        "logs/timings/tables/{table}.tsv"
    wildcard_constraints:
        table=one_of(tables_of("win_rates")),
    conda:
        "../envs/cpu.yaml"
    resources:
        mem_mb=memory(1000),
        runtime=30,
    params:
        table="{table}",
        title=table_title,
        note="Percent of cases won, ties counting half, with 95% bootstrap intervals over targets; * significantly "
        "above 50% (t-test, p < 0.05). The CSV also counts ties, cases in which the judge's two orders disagree, "
        "and orders in which it selected nothing.",
        methods=table_methods,
        columns=win_rate_columns,
        resamples=config["resamples"],
        seed=config["seed"],
    message:
        "{wildcards.table}: win rates"
    script:
        "../scripts/table_win_rates.py"


rule table_strengths:
    input:
        wins=table_wins,
        published=config["published"],
        sql="scripts/sql/win_rates.sql",
        library=library("table_strengths.py"),
    output:
        csv=report(
            "results/{table}.csv",
            caption="../resources/report/strengths.rst",
            category="Tables",
            labels=result_labels,
        ),
        markdown="results/{table}.md",
    log:
        "logs/tables/{table}.log",
    benchmark:
        "logs/timings/tables/{table}.tsv"
    wildcard_constraints:
        table=one_of(tables_of("strengths")),
    conda:
        "../envs/cpu.yaml"
    resources:
        mem_mb=memory(1000),
        runtime=30,
    params:
        table="{table}",
        title=table_title,
        note="Bradley-Terry log strengths of mean 0 with 95% bootstrap intervals over targets: a difference of 1 is odds of "
        "2.7 to 1. A tie is half a win for each, and one is added between every two methods.",
        methods=table_methods,
        columns=win_rate_columns,
        resamples=config["resamples"],
        seed=config["seed"],
    message:
        "{wildcards.table}: strengths of methods over all comparisons"
    script:
        "../scripts/table_strengths.py"


rule table_judges:
    input:
        judgements=table_judgements,
        published=config["published"],
        sql="scripts/sql/accuracy.sql",
        library=library("table_judges.py"),
    output:
        csv=report(
            "results/{table}.csv",
            caption="../resources/report/judges.rst",
            category="Tables",
            labels=result_labels,
        ),
        markdown="results/{table}.md",
    log:
        "logs/tables/{table}.log",
    benchmark:
        "logs/timings/tables/{table}.tsv"
    wildcard_constraints:
        table=one_of(tables_of("judges")),
    conda:
        "../envs/cpu.yaml"
    resources:
        mem_mb=memory(1000),
        runtime=30,
    params:
        table="{table}",
        title=table_title,
        note="Beside the first judge: percent of verdicts alike, Cohen's kappa, Kendall's tau-b of the two rankings of the "
        "methods with its 95% bootstrap interval over targets, and the pairs of methods that are ranked oppositely.",
        methods=table_methods,
        columns=lambda wildcards: judge_columns(config["tables"][wildcards.table]),
        resamples=config["resamples"],
        seed=config["seed"],
    message:
        "{wildcards.table}: what judges agree on"
    script:
        "../scripts/table_judges.py"
