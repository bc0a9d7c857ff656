# Online evaluation: responses under each method's descriptions, compared two methods at a time.

if "online" in config:
    ONLINE = config["online"]
    GENERATOR, ONLINE_JUDGE = tracked_model(ONLINE["generator"]), tracked_judge(
        ONLINE["judge"]
    )
    ONLINE_CASES = cases_of(set().union(*ONLINE["groups"].values()))

    rule responses:
        input:
            **asks(["responses.py"], [GENERATOR], prompts=["respond"]),
            cases=ONLINE_CASES,
            preferences="results/preferences/{method}.parquet",
        output:
            responses="results/responses/{method}.parquet",
        log:
            "logs/responses/{method}.log",
        benchmark:
            "logs/timings/responses/{method}.tsv"
        wildcard_constraints:
            method=one_of(describing(config["methods"])),
        conda:
            environment([GENERATOR])
        resources:
            **needs(2000, 240, [GENERATOR]),
        params:
            model=GENERATOR,
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
            **asks(["wins.py"], [ONLINE_JUDGE]),
            cases=ONLINE_CASES,
            first="results/responses/{method_a}.parquet",
            second="results/responses/{method_b}.parquet",
        output:
            wins="results/wins/{method_a}/{method_b}.parquet",
        log:
            "logs/wins/{method_a}/{method_b}.log",
        benchmark:
            "logs/timings/wins/{method_a}/{method_b}.tsv"
        wildcard_constraints:
            method_a=one_of(describing(config["methods"])),
            method_b=one_of(describing(config["methods"])),
        conda:
            environment([ONLINE_JUDGE])
        resources:
            **needs(2000, 120, [ONLINE_JUDGE]),
        params:
            name=ONLINE["judge"],
            judge=ONLINE_JUDGE,
        message:
            "Comparing the responses of {wildcards.method_a} and {wildcards.method_b}"
        script:
            "../scripts/wins.py"
