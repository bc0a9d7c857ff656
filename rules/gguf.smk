# Models from GGUF files, converted to directories that every engine and trainer reads.

from importlib.metadata import packages_distributions, version

GGUF = config["gguf"]


def gguf_package(wildcards):
    """The package that contains a model's file: its name, the file, and its version if installed; None for a path."""
    entry = GGUF[wildcards.model]
    if "package" not in entry:
        return None
    carriers = packages_distributions().get(entry["package"], [])
    versions = {carrier: version(carrier) for carrier in carriers}
    return {"name": entry["package"], "file": entry["file"], "versions": versions}


def gguf_file(wildcards):
    """A model's file, unless a package contains it."""
    entry = GGUF[wildcards.model]
    return [] if "package" in entry else entry["file"]


rule gguf_model:
    input:
        file=gguf_file,
        chat_template=setting("gguf/{model}/chat_template", []),
        library=library("gguf_model.py"),
    output:
        model=directory("models/gguf/{model}"),
    log:
        "logs/gguf/{model}.log",
    benchmark:
        "logs/timings/gguf/{model}.tsv"
    wildcard_constraints:
        model=one_of(GGUF),
    priority: 3
    conda:
        "../envs/cpu.yaml"
    resources:
        **needs(4000, 30),
    params:
        package=gguf_package,
        dtype=setting("gguf/{model}/dtype"),
    message:
        "Converting {wildcards.model} from its GGUF file"
    script:
        "../scripts/gguf_model.py"
