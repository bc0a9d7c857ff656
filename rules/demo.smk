# Raw data and models of the embedded default; included if the config has a section `demo`.

from alignxplore.workflow.config_paths import DEMO_FILES, DEMO_STREAMS

DEMO = config["demo"]
DEMO_SEED = DEMO.get("seed", config["seed"])
DEMO_PROMPTS = {
    f"{name}_prompt": config["prompts"][name]
    for name in ("preference", "concise", "judge", "respond")
}


rule demo_world:
    input:
        lexicon=DEMO["lexicon"],
        library=library("demo_world.py"),
    output:
        **DEMO_FILES,
    log:
        "logs/demo/world.log",
    benchmark:
        "logs/timings/demo/world.tsv"
    conda:
        "../envs/cpu.yaml"
    resources:
        **needs(1000, 10),
    params:
        dimensions=DEMO["dimensions"],
        reveal=DEMO["reveal"],
        psoups_reveal=DEMO["psoups_reveal"],
        population=DEMO["population"],
        psoups_cases=DEMO["psoups_cases"],
        seed=DEMO_SEED,
    message:
        "Making the demo world: raw AlignX and P-SOUPS files"
    script:
        "../scripts/demo_world.py"


if "streams" in DEMO:

    rule demo_streams:
        input:
            lexicon=DEMO["lexicon"],
            library=library("demo_streams.py"),
        output:
            **DEMO_STREAMS,
        log:
            "logs/demo/streams.log",
        benchmark:
            "logs/timings/demo/streams.tsv"
        conda:
            "../envs/cpu.yaml"
        resources:
            **needs(1000, 10),
        params:
            dimensions=DEMO["dimensions"],
            reveal=DEMO["reveal"],
            streams=DEMO["streams"],
            seed=DEMO_SEED,
        message:
            "Making users of the demo world with long histories"
        script:
            "../scripts/demo_streams.py"


rule demo_tokenizer:
    input:
        **DEMO_PROMPTS,
        lexicon=DEMO["lexicon"],
        names=home("resources/dimensions.csv"),
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
        **needs(2000, 10),
    params:
        dimensions=DEMO["dimensions"],
        vocabulary=DEMO["vocabulary"],
        seed=DEMO_SEED,
    message:
        "Training the scale models' tokenizer"
    script:
        "../scripts/demo_tokenizer.py"


def demo_prompts(wildcards):
    """The templates that a scale model learns; only one that learns updates reads theirs."""
    updates = DEMO["models"][wildcards.model]["role"] == "updater"
    own = {"update_prompt": config["prompts"]["update"]} if updates else {}
    return DEMO_PROMPTS | own


def demo_base(wildcards):
    """The scale model that this one starts from."""
    base = DEMO["models"][wildcards.model].get("base")
    return f"models/demo/{base}" if base else []


def demo_priority(wildcards):
    """Base models run first, then the models that training waits for."""
    if wildcards.model in {entry.get("base") for entry in DEMO["models"].values()}:
        return 2
    waited_for = [entry["from"] for entry in variants(config).values()]
    rewards = {entry.get("judge") for entry in variants(config).values()} - {None}
    waited_for += [config["judges"][judge]["model"] for judge in rewards]
    if cold := config.get("cold_start"):
        teachers = {cold["teacher"], cold.get("streaming", cold).get("teacher")}
        waited_for += [*(teachers - {None}), config["judges"][cold["judge"]]["model"]]
    wanted = {config["models"][name]["path"] for name in waited_for}
    return int(f"models/demo/{wildcards.model}" in wanted)


rule demo_model:
    input:
        unpack(demo_prompts),
        base=demo_base,
        tokenizer=rules.demo_tokenizer.output.tokenizer,
        lexicon=DEMO["lexicon"],
        names=home("resources/dimensions.csv"),
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
    resources:
        **needs(3000, 30),
    params:
        name="{model}",
        dimensions=DEMO["dimensions"],
        entry=setting("demo/models/{model}"),
        precision=DEMO.get("precision"),
        seed=DEMO_SEED,
    message:
        "Training the scale model {wildcards.model} from scratch"
    script:
        "../scripts/demo_model.py"
