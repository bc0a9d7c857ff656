# Cold start (paper 3.2): teacher generations, and D_cold, those that a judge finds right.

COLD = config["cold_start"]


rule teacher:
    input:
        **prompt_files(),
        model=model_files(COLD["teacher"]),
        cold=rules.split.output.cold,
        dimensions=rules.dimensions.output.dimensions,
        library=library("teacher.py"),
    output:
        generations="data/cold/generations.parquet",
    log:
        "logs/teacher.log",
    benchmark:
        "benchmarks/teacher.tsv"
    priority: 3
    conda:
        "../envs/cpu.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=240,
        gpu=model_entry(COLD["teacher"]).get("gpu", 0),
    params:
        model=model_entry(COLD["teacher"]),
        generations=COLD["generations"],
        sampling=COLD["sampling"],
        seed=config["seed"],
    message:
        "The teacher reasons about the cold-start examples"
    script:
        "../scripts/teacher.py"


rule verify:
    input:
        **prompt_files(),
        model=model_files(config["judges"][COLD["judge"]]["model"]),
        cold=rules.split.output.cold,
        generations=rules.teacher.output.generations,
        library=library("verify.py"),
    output:
        scored="data/cold/generations_scored.parquet",
        d_cold="data/cold/d_cold.parquet",
    log:
        "logs/verify.log",
    benchmark:
        "benchmarks/verify.tsv"
    priority: 3
    conda:
        "../envs/cpu.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=120,
        gpu=model_entry(config["judges"][COLD["judge"]]["model"]).get("gpu", 0),
    params:
        kind=config["judges"][COLD["judge"]]["kind"],
        model=model_entry(config["judges"][COLD["judge"]]["model"]),
    message:
        "Verifying the teacher's generations: D_cold (Eq. 7)"
    script:
        "../scripts/verify.py"
