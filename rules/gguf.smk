# Models that come as GGUF files become directories that every engine and trainer reads.

GGUF = config["gguf"]


rule gguf_model:
    input:
        chat_template=lambda wildcards: GGUF[wildcards.model].get("chat_template", []),
        library=library("gguf_model.py"),
    output:
        model=directory("models/gguf/{model}"),
    log:
        "logs/gguf/{model}.log",
    benchmark:
        "benchmarks/gguf/{model}.tsv"
    wildcard_constraints:
        model=one_of(GGUF),
    priority: 3
    conda:
        "../envs/cpu.yaml"
    threads: 1
    resources:
        mem_mb=memory(4000),
        runtime=30,
    params:
        file=lambda wildcards: GGUF[wildcards.model]["file"],
        package=lambda wildcards: GGUF[wildcards.model].get("package"),
        dtype=lambda wildcards: GGUF[wildcards.model]["dtype"],
    message:
        "Reading {wildcards.model} from its GGUF file"
    script:
        "../scripts/gguf_model.py"
