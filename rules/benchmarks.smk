# Benchmark cases, from splits, P-SOUPS files, and other benchmarks.


def made_by(key):
    """A wildcard constraint: the benchmarks whose entry has this key."""
    return one_of(n for n, entry in config["benchmarks"].items() if key in entry)


rule benchmark_split:
    input:
        split=lambda wildcards: f"data/splits/{config['benchmarks'][wildcards.benchmark]['split']}.parquet",
        wording=DATA.get("wording", []),
        library=library("benchmark_split.py"),
    output:
        cases="data/cases/{benchmark}.parquet",
    log:
        "logs/cases/{benchmark}.log",
    benchmark:
        "logs/timings/cases/{benchmark}.tsv"
    wildcard_constraints:
        benchmark=made_by("split"),
    conda:
        "../envs/cpu.yaml"
    resources:
        **needs(1000, 30),
    params:
        benchmark="{benchmark}",
        limit=setting("benchmarks/{benchmark}/limit"),
        script="benchmark_split",
    message:
        "Writing the cases of {wildcards.benchmark}"
    script:
        "../scripts/{params.script}.py"


def psoups(key):
    """An input function: a setting of the P-SOUPS file that a benchmark is made from."""
    return lambda wildcards: setting(
        f"data/psoups/{config['benchmarks'][wildcards.benchmark]['psoups']}/{key}"
    )(wildcards)


use rule benchmark_split as benchmark_psoups with:
    input:
        raw=lambda wildcards: raw_files([psoups("path")(wildcards)])[0],
        library=library("benchmark_psoups.py"),
    wildcard_constraints:
        benchmark=made_by("psoups"),
    params:
        script="benchmark_psoups",
        benchmark="{benchmark}",
        dimension=setting("benchmarks/{benchmark}/psoups"),
        positive=psoups("positive"),
        signals=setting("data/refine/history"),
        seed=DATA_SEED,


def origin(key):
    """An input function: the cases of the benchmark that this one names under `key`."""
    return (
        lambda wildcards: f"data/cases/{config['benchmarks'][wildcards.benchmark][key]}.parquet"
    )


use rule benchmark_split as benchmark_reverse with:
    input:
        cases=origin("reverse_of"),
        wording=DATA.get("wording", []),
        library=library("benchmark_reverse.py"),
    wildcard_constraints:
        benchmark=made_by("reverse_of"),
    params:
        script="benchmark_reverse",
        benchmark="{benchmark}",


use rule benchmark_split as benchmark_truncate with:
    input:
        cases=origin("truncation_of"),
        library=library("benchmark_truncate.py"),
    wildcard_constraints:
        benchmark=made_by("truncation_of"),
    params:
        script="benchmark_truncate",
        benchmark="{benchmark}",
        signals=setting("benchmarks/{benchmark}/signals"),


use rule benchmark_split as benchmark_stream with:
    input:
        cases=origin("streamed_of"),
        wording=lambda wildcards: (
            DATA.get("wording", [])
            if "drift" in config["benchmarks"][wildcards.benchmark]
            else []
        ),
        library=library("benchmark_stream.py"),
    wildcard_constraints:
        benchmark=made_by("streamed_of"),
    params:
        script="benchmark_stream",
        benchmark="{benchmark}",
        chunk=setting("benchmarks/{benchmark}/chunk"),
        noise=setting("benchmarks/{benchmark}/noise"),
        drift=setting("benchmarks/{benchmark}/drift"),
        seed=DATA_SEED,
