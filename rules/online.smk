# Online evaluation: responses under each method's descriptions, compared two methods at a time.

if "online" in config:
    ONLINE = config["online"]
    ONLINE_CASES = cases_of(
        dict.fromkeys(name for group in ONLINE["groups"].values() for name in group)
    )

    rule responses:
        input:
            **prompt_files("respond"),
            model=model_files(ONLINE["generator"]),
            cases=ONLINE_CASES,
            preferences="results/preferences/{method}.parquet",
            library=library("responses.py", models=[ONLINE["generator"]]),
        output:
            responses="results/responses/{method}.parquet",
        log:
            "logs/responses/{method}.log",
        benchmark:
            "logs/timings/responses/{method}.tsv"
        wildcard_constraints:
            method=one_of(describing_methods()),
        conda:
            environment(ONLINE["generator"])
        threads: 1
        resources:
            mem_mb=memory(2000, gpus_of(ONLINE["generator"])),
            runtime=240,
            gpu=gpus_of(ONLINE["generator"]),
            model=ONLINE["generator"],
        params:
            model=model_entry(ONLINE["generator"]),
            groups=list(ONLINE["groups"].values()),
            cases=ONLINE["cases"],
            sampling=ONLINE["sampling"],
            seed=config["seed"],
        message:
            "Answering posts under the descriptions of {wildcards.method}"
        script:
            "../scripts/responses.py"

    rule wins:
        input:
            **prompt_files("judge"),
            model=judge_files(ONLINE["judge"]),
            cases=ONLINE_CASES,
            first="results/responses/{method_a}.parquet",
            second="results/responses/{method_b}.parquet",
            library=library("wins.py", models=[judge_model(ONLINE["judge"])]),
        output:
            wins="results/wins/{method_a}/{method_b}.parquet",
        log:
            "logs/wins/{method_a}/{method_b}.log",
        benchmark:
            "logs/timings/wins/{method_a}/{method_b}.tsv"
        wildcard_constraints:
            method_a=one_of(describing_methods()),
            method_b=one_of(describing_methods()),
        conda:
            environment(judge_model(ONLINE["judge"]))
        threads: 1
        resources:
            mem_mb=memory(2000, judge_gpus(ONLINE["judge"])),
            runtime=120,
            gpu=judge_gpus(ONLINE["judge"]),
        params:
            name=ONLINE["judge"],
            judge=judge_entry(ONLINE["judge"]),
        message:
            "Comparing the responses of {wildcards.method_a} and {wildcards.method_b}"
        script:
            "../scripts/wins.py"
