# Cold start (paper 3.2): the teacher's generations, and D_cold, those that a judge verifies; also for updates.

COLD = config["cold_start"]
COLD_PROMPT = COLD.get("prompt", "preference")
TEACHER, COLD_JUDGE = tracked_model(COLD["teacher"]), tracked_judge(COLD["judge"])


rule dimensions:
    input:
        split="data/splits/cold.parquet",
        names=home("resources/dimensions.csv"),
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
        **needs(1000, 30),
    params:
        source=COLD.get("dimensions", "history"),
    message:
        "Naming the key dimensions that the teacher is told (paper 3.2)"
    script:
        "../scripts/dimensions.py"


rule teacher:
    input:
        **asks(["teacher.py"], [TEACHER], prompts=[COLD_PROMPT]),
        cold="data/splits/cold.parquet",
        dimensions=rules.dimensions.output.dimensions,
    output:
        generations="data/cold/generations.parquet",
    log:
        "logs/teacher.log",
    benchmark:
        "logs/timings/teacher.tsv"
    priority: 3
    conda:
        environment([TEACHER])
    resources:
        **needs(2000, 240, [TEACHER]),
    params:
        model=TEACHER,
        generations=COLD["generations"],
        prompt=COLD_PROMPT,
        answer=COLD.get("answer", "tags"),
        sampling=COLD["sampling"],
        seed=config["seed"],
    message:
        "Generating the teacher's reasoning and descriptions for the cold-start examples"
    script:
        "../scripts/teacher.py"


rule verify:
    input:
        **asks(["verify.py"], [COLD_JUDGE]),
        cold="data/splits/cold.parquet",
        generations=rules.teacher.output.generations,
    output:
        scored="data/cold/generations_scored.parquet",
        d_cold="data/cold/d_cold.parquet",
    log:
        "logs/verify.log",
    benchmark:
        "logs/timings/verify.tsv"
    priority: 3
    conda:
        environment([COLD_JUDGE])
    resources:
        **needs(2000, 120, [COLD_JUDGE]),
    params:
        judge=COLD_JUDGE,
        limit=setting("cold_start/limit"),
    message:
        "Verifying the teacher's generations: D_cold (Eq. 7)"
    script:
        "../scripts/verify.py"


if "streaming" in COLD:

    UPDATES = {"prompt": "update", "answer": COLD.get("answer", "tags")} | COLD[
        "streaming"
    ]
    UPDATING_TEACHER = tracked_model(UPDATES.get("teacher", COLD["teacher"]))

    use rule dimensions as dimensions_streaming with:
        input:
            split=f"data/splits/{UPDATES['split']}.parquet",
            names=home("resources/dimensions.csv"),
            library=library("dimensions.py"),
        output:
            dimensions="data/cold/streaming/dimensions.parquet",
        log:
            "logs/cold_streaming/dimensions.log",
        benchmark:
            "logs/timings/cold_streaming/dimensions.tsv"

    rule teacher_streaming:
        input:
            **asks(
                ["teacher_streaming.py"],
                [UPDATING_TEACHER, COLD_JUDGE],
                prompts=[UPDATES["prompt"]],
            ),
            steps=f"data/splits/{UPDATES['split']}.parquet",
            dimensions=rules.dimensions_streaming.output.dimensions,
        output:
            scored="data/cold/streaming/generations_scored.parquet",
            d_cold="data/cold/streaming/d_cold.parquet",
        log:
            "logs/cold_streaming/teacher.log",
        benchmark:
            "logs/timings/cold_streaming/teacher.tsv"
        priority: 3
        conda:
            environment([UPDATING_TEACHER, COLD_JUDGE])
        resources:
            **needs(3000, 480, [UPDATING_TEACHER, COLD_JUDGE]),
        params:
            model=UPDATING_TEACHER,
            judge=COLD_JUDGE,
            generations=COLD["generations"],
            prompt=UPDATES["prompt"],
            answer=UPDATES["answer"],
            limit=UPDATES.get("limit"),
            sampling=COLD["sampling"],
            seed=config["seed"],
        message:
            "Asking the teacher step by step, and verifying its descriptions: D_cold of updates (Eq. 7)"
        script:
            "../scripts/teacher_streaming.py"
