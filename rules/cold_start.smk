# Cold start (paper 3.2): teacher generations, and D_cold, those that a judge finds right.

COLD = config["cold_start"]


rule teacher:
    input:
        **prompt_files("preference"),
        model=model_files(COLD["teacher"]),
        cold="data/splits/cold.parquet",
        dimensions=rules.dimensions.output.dimensions,
        library=library("teacher.py", models=[COLD["teacher"]]),
    output:
        generations="data/cold/generations.parquet",
    log:
        "logs/teacher.log",
    benchmark:
        "logs/timings/teacher.tsv"
    priority: 3
    conda:
        environment(COLD["teacher"])
    threads: 1
    resources:
        mem_mb=memory(2000, gpus_of(COLD["teacher"])),
        runtime=240,
        gpu=gpus_of(COLD["teacher"]),
        model=COLD["teacher"],
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
        **judge_prompts(COLD["judge"]),
        model=judge_files(COLD["judge"]),
        cold="data/splits/cold.parquet",
        generations=rules.teacher.output.generations,
        library=library("verify.py", models=[judge_model(COLD["judge"])]),
    output:
        scored="data/cold/generations_scored.parquet",
        d_cold="data/cold/d_cold.parquet",
    log:
        "logs/verify.log",
    benchmark:
        "logs/timings/verify.tsv"
    priority: 3
    conda:
        environment(judge_model(COLD["judge"]))
    threads: 1
    resources:
        mem_mb=memory(2000, judge_gpus(COLD["judge"])),
        runtime=120,
        gpu=judge_gpus(COLD["judge"]),
        model=judge_model(COLD["judge"]),
    params:
        judge=judge_entry(COLD["judge"]),
    message:
        "Verifying the teacher's generations: D_cold (Eq. 7)"
    script:
        "../scripts/verify.py"
