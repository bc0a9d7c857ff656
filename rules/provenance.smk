# What every result was made of: the records that jobs leave beside their outputs, joined.

RESULTS = [
    *expand("results/{table}.csv", table=config["tables"]),
    *expand("results/{figure}.svg", figure=config["figures"]),
    "results/data/splits.csv",
    *(["results/case_study.md"] if "case_study" in config else []),
]


rule provenance:
    input:
        results=RESULTS,
        library=library("provenance.py", models=[]),
    output:
        provenance="results/provenance.parquet",
    log:
        "logs/provenance.log",
    benchmark:
        "logs/timings/provenance.tsv"
    conda:
        "../envs/cpu.yaml"
    resources:
        mem_mb=memory(1000),
        runtime=30,
    message:
        "Gathering what every result was made of"
    script:
        "../scripts/provenance.py"
