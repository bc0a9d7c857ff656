# The embedded default makes its own raw data and models; other configurations have none of these rules.

DEMO = config["demo"]
DEMO_SEED = DEMO.get("seed", config["seed"])
DEMO_PROMPTS = ("preference", "concise", "judge", "respond")


rule demo_world:
    input:
        lexicon=DEMO["lexicon"],
        library=library("demo_world.py"),
    output:
        jsonl="data/raw/alignx/part-0.jsonl",
        parquet="data/raw/alignx/part-1.parquet",
        expertise="data/raw/psoups/expertise.json",
        informativeness="data/raw/psoups/informativeness.json",
        style="data/raw/psoups/style.json",
        wording="data/raw/wording.csv",
    log:
        "logs/demo/world.log",
    benchmark:
        "logs/timings/demo/world.tsv"
    conda:
        "../envs/cpu.yaml"
    resources:
        mem_mb=memory(1000),
        runtime=10,
    params:
        dimensions=DEMO["dimensions"],
        reveal=DEMO["reveal"],
        psoups_reveal=DEMO["psoups_reveal"],
        population=DEMO["population"],
        psoups_cases=DEMO["psoups_cases"],
        seed=DEMO_SEED,
    message:
        "Populating the demo world: raw AlignX and P-SOUPS files"
    script:
        "../scripts/demo_world.py"


rule demo_tokenizer:
    input:
        **prompt_files(*DEMO_PROMPTS),
        lexicon=DEMO["lexicon"],
        names="resources/dimensions.csv",
        library=library("demo_tokenizer.py"),
    output:
        tokenizer=directory("models/demo/tokenizer"),
    log:
        "logs/demo/tokenizer.log",
    benchmark:
        "logs/timings/demo/tokenizer.tsv"
    conda:
        "../envs/cpu.yaml"
    resources:
        mem_mb=memory(2000),
        runtime=10,
    params:
        dimensions=DEMO["dimensions"],
        vocabulary=DEMO["vocabulary"],
        seed=DEMO_SEED,
    message:
        "Training the scale models' tokenizer"
    script:
        "../scripts/demo_tokenizer.py"


rule demo_model:
    input:
        unpack(demo_base),
        **prompt_files(*DEMO_PROMPTS),
        tokenizer=rules.demo_tokenizer.output.tokenizer,
        lexicon=DEMO["lexicon"],
        names="resources/dimensions.csv",
        library=library("demo_model.py"),
    output:
        model=directory("models/demo/{model}"),
    log:
        "logs/demo/{model}.log",
    benchmark:
        "logs/timings/demo/{model}.tsv"
    wildcard_constraints:
        model=one_of(DEMO["models"]),
    priority: demo_priority
    conda:
        "../envs/cpu.yaml"
    threads: 1
    resources:
        mem_mb=memory(3000),
        runtime=30,
    params:
        name="{model}",
        dimensions=DEMO["dimensions"],
        entry=lambda wildcards: DEMO["models"][wildcards.model],
        seed=DEMO_SEED,
    message:
        "Training the scale model {wildcards.model} from scratch"
    script:
        "../scripts/demo_model.py"
