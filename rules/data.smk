# From raw files to disjoint sets and benchmark cases; nothing here needs torch.

HUB_FILES = hub_files()
DATA_SEED = config["data"].get("seed", config["seed"])


rule download:
    input:
        library=library("download.py"),
    output:
        raw="data/raw/hub/{raw}",
    log:
        "logs/download/{raw}.log",
    benchmark:
        "logs/timings/download/{raw}.tsv"
    wildcard_constraints:
        raw=one_of(map(re.escape, HUB_FILES)),
    conda:
        "../envs/cpu.yaml"
    resources:
        mem_mb=memory(4000),
        runtime=240,
    params:
        source=lambda wildcards: HUB_FILES[wildcards.raw],
    message:
        "Fetching {params.source}"
    script:
        "../scripts/download.py"


scattergather:
    shards=config["data"]["alignx"]["shards"],


rule refine:
    input:
        sources=raw_files(config["data"]["alignx"]["sources"]),
        sql="scripts/sql/refine.sql",
        library=library("refine.py"),
    output:
        candidates=temp("data/shards/{scatteritem}/candidates.parquet"),
        rejects=temp("data/shards/{scatteritem}/rejects.parquet"),
        seen=temp("data/shards/{scatteritem}/seen.parquet"),
        lines=temp("data/shards/{scatteritem}/lines.parquet"),
        funnel=temp("data/shards/{scatteritem}/funnel.parquet"),
    log:
        "logs/refine/{scatteritem}.log",
    benchmark:
        "logs/timings/refine/{scatteritem}.tsv"
    conda:
        "../envs/cpu.yaml"
    threads: 1
    resources:
        mem_mb=memory(2000),
        runtime=240,
    params:
        shard="{scatteritem}",
        rules=config["data"]["refine"],
        max_characters=config["data"]["alignx"]["max_characters"],
    message:
        "Reading shard {wildcards.scatteritem} of the raw AlignX files, and keeping clear histories (paper A.1)"
    script:
        "../scripts/refine.py"


rule gather_refined:
    input:
        candidates=gather.shards("data/shards/{scatteritem}/candidates.parquet"),
        rejects=gather.shards("data/shards/{scatteritem}/rejects.parquet"),
        seen=gather.shards("data/shards/{scatteritem}/seen.parquet"),
        lines=gather.shards("data/shards/{scatteritem}/lines.parquet"),
        funnel=gather.shards("data/shards/{scatteritem}/funnel.parquet"),
        library=library("gather_refined.py"),
    output:
        refined="data/refined.parquet",
        rejects="data/rejects.parquet",
        funnel="results/data/funnel.csv",
    log:
        "logs/gather_refined.log",
    benchmark:
        "logs/timings/gather_refined.tsv"
    conda:
        "../envs/cpu.yaml"
    resources:
        mem_mb=memory(4000),
        runtime=120,
    params:
        max_reject_share=config["data"]["alignx"]["max_reject_share"],
    message:
        "Joining the shards without copies; bad records are in {output.rejects}"
    script:
        "../scripts/gather_refined.py"


rule split:
    input:
        refined=rules.gather_refined.output.refined,
        library=library("split.py"),
    output:
        examples="data/splits/{split}.parquet",
    log:
        "logs/split/{split}.log",
    benchmark:
        "logs/timings/split/{split}.tsv"
    wildcard_constraints:
        split=one_of(config["data"]["splits"]),
    conda:
        "../envs/cpu.yaml"
    resources:
        mem_mb=memory(2000),
        runtime=30,
    params:
        name="{split}",
        size=lambda wildcards: config["data"]["splits"][wildcards.split]["size"],
        shares={name: s["share"] for name, s in config["data"]["splits"].items()},
        balance=config["data"]["balance"],
        seed=DATA_SEED,
    message:
        "Choosing the set {wildcards.split}"
    script:
        "../scripts/split.py"


rule check_splits:
    input:
        sets=expand("data/splits/{split}.parquet", split=config["data"]["splits"]),
        library=library("check_splits.py"),
    output:
        counts="results/data/splits.csv",
    log:
        "logs/check_splits.log",
    benchmark:
        "logs/timings/check_splits.tsv"
    priority: 3
    conda:
        "../envs/cpu.yaml"
    resources:
        mem_mb=memory(2000),
        runtime=30,
    params:
        names=list(config["data"]["splits"]),
    message:
        "Seeing that the sets are disjoint"
    script:
        "../scripts/check_splits.py"


rule dimensions:
    input:
        split="data/splits/cold.parquet",
        names="resources/dimensions.csv",
        library=library("dimensions.py"),
    output:
        dimensions="data/cold/dimensions.parquet",
    log:
        "logs/dimensions.log",
    benchmark:
        "logs/timings/dimensions.tsv"
    conda:
        "../envs/cpu.yaml"
    resources:
        mem_mb=memory(1000),
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
        "logs/timings/cases/{benchmark}.tsv"
    wildcard_constraints:
        benchmark=one_of(benchmarks_of("alignx")),
    conda:
        "../envs/cpu.yaml"
    resources:
        mem_mb=memory(1000),
        runtime=30,
    params:
        benchmark="{benchmark}",
    message:
        "Writing the cases of {wildcards.benchmark}"
    script:
        "../scripts/benchmark_alignx.py"


rule benchmark_psoups:
    input:
        raw=lambda wildcards: raw_files([psoups_entry(wildcards)["path"]])[0],
        library=library("benchmark_psoups.py"),
    output:
        cases="data/cases/{benchmark}.parquet",
    log:
        "logs/cases/{benchmark}.log",
    benchmark:
        "logs/timings/cases/{benchmark}.tsv"
    wildcard_constraints:
        benchmark=one_of(benchmarks_of("psoups")),
    conda:
        "../envs/cpu.yaml"
    resources:
        mem_mb=memory(1000),
        runtime=30,
    params:
        benchmark="{benchmark}",
        dimension=lambda wildcards: config["benchmarks"][wildcards.benchmark][
            "dimension"
        ],
        positive=lambda wildcards: psoups_entry(wildcards)["positive"],
        signals=config["data"]["refine"]["history"],
        seed=DATA_SEED,
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
        "logs/timings/cases/{benchmark}.tsv"
    wildcard_constraints:
        benchmark=one_of(benchmarks_with("reverse_of")),
    conda:
        "../envs/cpu.yaml"
    resources:
        mem_mb=memory(1000),
        runtime=30,
    params:
        benchmark="{benchmark}",
    message:
        "Reversing signals and targets: {wildcards.benchmark}"
    script:
        "../scripts/benchmark_reverse.py"


rule benchmark_truncate:
    input:
        cases=lambda wildcards: f"data/cases/{config['benchmarks'][wildcards.benchmark]['truncation_of']}.parquet",
        library=library("benchmark_truncate.py"),
    output:
        cases="data/cases/{benchmark}.parquet",
    log:
        "logs/cases/{benchmark}.log",
    benchmark:
        "logs/timings/cases/{benchmark}.tsv"
    wildcard_constraints:
        benchmark=one_of(benchmarks_with("truncation_of")),
    conda:
        "../envs/cpu.yaml"
    resources:
        mem_mb=memory(1000),
        runtime=30,
    params:
        benchmark="{benchmark}",
        signals=lambda wildcards: config["benchmarks"][wildcards.benchmark]["signals"],
    message:
        "Keeping the first signals: {wildcards.benchmark}"
    script:
        "../scripts/benchmark_truncate.py"
