# From raw files to splits; nothing here needs torch.

from alignxplore.data.locations import is_remote, local_copy, local_files
from alignxplore.workflow.config import drawn_splits, given_splits, split_sources

DATA = config.get("data", {})
ALIGNX = DATA.get("alignx", {})
# The check of what splits share, if there are splits.
SPLITS_CHECKED = ["results/data/splits.csv"] if "splits" in DATA else []
DATA_SEED = DATA.get("seed", config["seed"])

# Splits that are drawn from raw AlignX, and splits that are files.
DRAWN_SPLITS, GIVEN_SPLITS = drawn_splits(config), given_splits(config)

# Sources on the hub and the web, by the path of their copy in data/raw.
REMOTE_FILES = {
    local_copy(source).removeprefix("data/raw/"): source
    for source in [
        *ALIGNX.get("sources", []),
        *(p["path"] for p in DATA.get("psoups", {}).values()),
        *(source for entry in GIVEN_SPLITS.values() for source in split_sources(entry)),
    ]
    if is_remote(source)
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
        raw="data/raw/{raw}",
    log:
        "logs/download/{raw}.log",
    benchmark:
        "logs/timings/download/{raw}.tsv"
    wildcard_constraints:
        raw=one_of(REMOTE_FILES),
    conda:
        "../envs/cpu.yaml"
    resources:
        **needs(4000, 240),
    params:
        source=lambda wildcards: REMOTE_FILES[wildcards.raw],
    message:
        "Fetching {params.source}"
    script:
        "../scripts/download.py"


if "sources" in ALIGNX:

    scattergather:
        shards=ALIGNX.get("shards", 1),

    rule refine:
        input:
            sources=raw_files(ALIGNX["sources"]),
            sql=home("scripts/sql/refine.sql"),
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
            max_characters=DATA["max_characters"],
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
            max_reject_share=DATA["max_reject_share"],
        message:
            "Joining the shards and dropping duplicates; {output.rejects} lists bad records"
        script:
            "../scripts/gather_refined.py"


if DRAWN_SPLITS:

    def split_parent(wildcards):
        """The name and size of the split whose rest this one gets."""
        parent = DRAWN_SPLITS[wildcards.split].get("rest_of")
        return [parent, DRAWN_SPLITS[parent]["size"]] if parent else None

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
            split=one_of(DRAWN_SPLITS),
        conda:
            "../envs/cpu.yaml"
        resources:
            **needs(2000, 30),
        params:
            name="{split}",
            size=setting("data/splits/{split}/size"),
            shares={
                name: split["share"]
                for name, split in DRAWN_SPLITS.items()
                if "share" in split
            },
            parent=split_parent,
            balance=DATA["balance"],
            seed=DATA_SEED,
        message:
            "Drawing split {wildcards.split}"
        script:
            "../scripts/split.py"


if GIVEN_SPLITS:

    rule given_split:
        input:
            sources=lambda wildcards: raw_files(
                split_sources(GIVEN_SPLITS[wildcards.split])
            ),
            library=library("given_split.py"),
        output:
            examples="data/splits/{split}.parquet",
            rejects="data/rejects/{split}.parquet",
        log:
            "logs/split/{split}.log",
        benchmark:
            "logs/timings/split/{split}.tsv"
        wildcard_constraints:
            split=one_of(GIVEN_SPLITS),
        conda:
            "../envs/cpu.yaml"
        resources:
            **needs(4000, 60),
        params:
            name="{split}",
            form=setting("data/splits/{split}/form"),
            posts=setting("data/splits/{split}/posts", [0, 1]),
            chunk=setting("data/splits/{split}/chunk"),
            max_characters=DATA["max_characters"],
            max_reject_share=DATA["max_reject_share"],
        message:
            "Reading split {wildcards.split} from its files; {output.rejects} lists bad records"
        script:
            "../scripts/given_split.py"


if "splits" in DATA:

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
            drawn=list(DRAWN_SPLITS),
        message:
            "Checking that the drawn splits are disjoint, and what given ones share"
        script:
            "../scripts/check_splits.py"
