# From raw files to disjoint sets and benchmark cases; nothing here needs torch.

if "downloads" in config["data"]:

    rule download:
        input:
            library=library("download.py"),
        output:
            raw="{raw}",
        log:
            "logs/download/{raw}.log",
        benchmark:
            "benchmarks/download/{raw}.tsv"
        wildcard_constraints:
            raw=one_of(map(re.escape, config["data"]["downloads"])),
        conda:
            "../envs/cpu.yaml"
        resources:
            mem_mb=4000,
            runtime=240,
        params:
            entry=lambda wildcards: config["data"]["downloads"][wildcards.raw],
        message:
            "Fetching {output.raw}"
        script:
            "../scripts/download.py"


rule parse_alignx:
    input:
        sources=config["data"]["alignx"]["sources"],
        library=library("parse_alignx.py"),
    output:
        examples="data/examples.parquet",
        rejects="data/rejects.parquet",
    log:
        "logs/parse_alignx.log",
    benchmark:
        "benchmarks/parse_alignx.tsv"
    conda:
        "../envs/cpu.yaml"
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        max_reject_share=config["data"]["alignx"]["max_reject_share"],
    message:
        "Reading raw AlignX files; bad records go to {output.rejects}"
    script:
        "../scripts/parse_alignx.py"


rule refine:
    input:
        examples=rules.parse_alignx.output.examples,
        library=library("refine.py"),
    output:
        refined="data/refined.parquet",
        funnel="results/data/funnel.csv",
    log:
        "logs/refine.log",
    benchmark:
        "benchmarks/refine.tsv"
    conda:
        "../envs/cpu.yaml"
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        **config["data"]["refine"],
    message:
        "Keeping the targets whose histories agree with them (paper A.1)"
    script:
        "../scripts/refine.py"


rule split:
    input:
        refined=rules.refine.output.refined,
        library=library("split.py"),
    output:
        cold="data/splits/cold.parquet",
        rl="data/splits/rl.parquet",
        test="data/splits/test.parquet",
        test_ugc="data/splits/test_ugc.parquet",
    log:
        "logs/split.log",
    benchmark:
        "benchmarks/split.tsv"
    conda:
        "../envs/cpu.yaml"
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        sizes=config["data"]["splits"],
        seed=config["seed"],
    message:
        "Dividing users between cold start, reinforcement learning and test sets"
    script:
        "../scripts/split.py"


rule dimensions:
    input:
        split=rules.split.output.cold,
        names="resources/dimensions.csv",
        library=library("dimensions.py"),
    output:
        dimensions="data/cold/dimensions.parquet",
    log:
        "logs/dimensions.log",
    benchmark:
        "benchmarks/dimensions.tsv"
    conda:
        "../envs/cpu.yaml"
    resources:
        mem_mb=1000,
        runtime=30,
    message:
        "Naming the key dimensions that the teacher is told of (paper 3.2)"
    script:
        "../scripts/dimensions.py"


rule benchmark_alignx:
    input:
        split=lambda wildcards: f"data/splits/{config['benchmarks'][wildcards.benchmark]['split']}.parquet",
        wording=config["data"]["wording"],
        library=library("benchmark_alignx.py"),
    output:
        cases="data/cases/{benchmark}.parquet",
    log:
        "logs/cases/{benchmark}.log",
    benchmark:
        "benchmarks/cases/{benchmark}.tsv"
    wildcard_constraints:
        benchmark=one_of(benchmarks_of("alignx")),
    conda:
        "../envs/cpu.yaml"
    resources:
        mem_mb=1000,
        runtime=30,
    params:
        benchmark="{benchmark}",
    message:
        "Writing the cases of {wildcards.benchmark}"
    script:
        "../scripts/benchmark_alignx.py"


rule benchmark_psoups:
    input:
        raw=lambda wildcards: psoups_entry(wildcards)["path"],
        library=library("benchmark_psoups.py"),
    output:
        cases="data/cases/{benchmark}.parquet",
    log:
        "logs/cases/{benchmark}.log",
    benchmark:
        "benchmarks/cases/{benchmark}.tsv"
    wildcard_constraints:
        benchmark=one_of(benchmarks_of("psoups")),
    conda:
        "../envs/cpu.yaml"
    resources:
        mem_mb=1000,
        runtime=30,
    params:
        benchmark="{benchmark}",
        dimension=lambda wildcards: config["benchmarks"][wildcards.benchmark][
            "dimension"
        ],
        positive=lambda wildcards: psoups_entry(wildcards)["positive"],
    message:
        "Writing the cases of {wildcards.benchmark}"
    script:
        "../scripts/benchmark_psoups.py"


rule benchmark_reverse:
    input:
        cases=lambda wildcards: f"data/cases/{config['benchmarks'][wildcards.benchmark]['reverse_of']}.parquet",
        wording=config["data"]["wording"],
        library=library("benchmark_reverse.py"),
    output:
        cases="data/cases/{benchmark}.parquet",
    log:
        "logs/cases/{benchmark}.log",
    benchmark:
        "benchmarks/cases/{benchmark}.tsv"
    wildcard_constraints:
        benchmark=one_of(reversed_benchmarks()),
    conda:
        "../envs/cpu.yaml"
    resources:
        mem_mb=1000,
        runtime=30,
    params:
        benchmark="{benchmark}",
    message:
        "Reversing signals and targets: {wildcards.benchmark}"
    script:
        "../scripts/benchmark_reverse.py"
