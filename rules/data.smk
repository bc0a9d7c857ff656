# From raw files to disjoint splits; nothing here needs torch.

from alignxplore.data.locations import HubFile, is_hub, local_files

DATA = config["data"]
DATA_SEED = DATA.get("seed", config["seed"])

# Sources on the hub, by the path of their copy in data/raw/hub.
HUB_FILES = {
    HubFile.parse(source).path: source
    for source in [
        *DATA["alignx"]["sources"],
        *(p["path"] for p in DATA["psoups"].values()),
    ]
    if is_hub(source)
}


def raw_files(sources):
    """The local files of sources; rule download fetches those on the hub."""
    try:
        return local_files(sources)
    except UserError as error:
        raise WorkflowError(str(error)) from None


rule download:
    input:
        library=library("download.py"),
    output:
        raw="data/raw/hub/{raw}",
    log:
        "logs/download/{raw}.log",
    benchmark:
        "logs/timings/download/{raw}.tsv"
    wildcard_constraints:
        raw=one_of(HUB_FILES),
    conda:
        "../envs/cpu.yaml"
    resources:
        **needs(4000, 240),
    params:
        source=lambda wildcards: HUB_FILES[wildcards.raw],
    message:
        "Fetching {params.source}"
    script:
        "../scripts/download.py"


scattergather:
    shards=DATA["alignx"]["shards"],


rule refine:
    input:
        sources=raw_files(DATA["alignx"]["sources"]),
        sql="scripts/sql/refine.sql",
        library=library("refine.py"),
    output:
        candidates=temp("data/shards/{scatteritem}/candidates.parquet"),
        rejects=temp("data/shards/{scatteritem}/rejects.parquet"),
        seen=temp("data/shards/{scatteritem}/seen.parquet"),
        lines=temp("data/shards/{scatteritem}/lines.parquet"),
        funnel=temp("data/shards/{scatteritem}/funnel.parquet"),
    log:
        "logs/refine/{scatteritem}.log",
    benchmark:
        "logs/timings/refine/{scatteritem}.tsv"
    conda:
        "../envs/cpu.yaml"
    resources:
        **needs(2000, 240),
    params:
        shard="{scatteritem}",
        rules=DATA["refine"],
        max_characters=DATA["alignx"]["max_characters"],
    message:
        "Reading shard {wildcards.scatteritem} of raw AlignX and keeping clear histories (A.1)"
    script:
        "../scripts/refine.py"


rule gather_refined:
    input:
        candidates=gather.shards("data/shards/{scatteritem}/candidates.parquet"),
        rejects=gather.shards("data/shards/{scatteritem}/rejects.parquet"),
        seen=gather.shards("data/shards/{scatteritem}/seen.parquet"),
        lines=gather.shards("data/shards/{scatteritem}/lines.parquet"),
        funnel=gather.shards("data/shards/{scatteritem}/funnel.parquet"),
        library=library("gather_refined.py"),
    output:
        refined="data/refined.parquet",
        rejects="data/rejects.parquet",
        funnel="results/data/funnel.csv",
    log:
        "logs/gather_refined.log",
    benchmark:
        "logs/timings/gather_refined.tsv"
    conda:
        "../envs/cpu.yaml"
    resources:
        **needs(4000, 120),
    params:
        max_reject_share=DATA["alignx"]["max_reject_share"],
    message:
        "Joining the shards and dropping duplicates; {output.rejects} lists bad records"
    script:
        "../scripts/gather_refined.py"


rule split:
    input:
        refined=rules.gather_refined.output.refined,
        library=library("split.py"),
    output:
        examples="data/splits/{split}.parquet",
    log:
        "logs/split/{split}.log",
    benchmark:
        "logs/timings/split/{split}.tsv"
    wildcard_constraints:
        split=one_of(DATA["splits"]),
    conda:
        "../envs/cpu.yaml"
    resources:
        **needs(2000, 30),
    params:
        name="{split}",
        size=setting("data/splits/{split}/size"),
        shares={name: split["share"] for name, split in DATA["splits"].items()},
        balance=DATA["balance"],
        seed=DATA_SEED,
    message:
        "Drawing split {wildcards.split}"
    script:
        "../scripts/split.py"


rule check_splits:
    input:
        splits=expand("data/splits/{split}.parquet", split=DATA["splits"]),
        library=library("check_splits.py"),
    output:
        counts="results/data/splits.csv",
    log:
        "logs/check_splits.log",
    benchmark:
        "logs/timings/check_splits.tsv"
    priority: 3
    conda:
        "../envs/cpu.yaml"
    resources:
        **needs(2000, 30),
    params:
        names=list(DATA["splits"]),
    message:
        "Checking that the splits are disjoint"
    script:
        "../scripts/check_splits.py"


rule dimensions:
    input:
        split="data/splits/cold.parquet",
        names="resources/dimensions.csv",
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
    message:
        "Naming the key dimensions that the teacher is told (paper 3.2)"
    script:
        "../scripts/dimensions.py"
