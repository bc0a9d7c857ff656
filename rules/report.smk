# The case study, the provenance of every result, and a site that shows them all.

TABLES = expand("results/{table}.csv", table=config["tables"])
FIGURES = expand("results/{figure}.svg", figure=config.get("figures", {}))
STUDY = config.get("case_study")


if STUDY:

    rule case_study:
        input:
            cases=f"data/cases/{STUDY['benchmark']}.parquet",
            preferences=expand(
                "results/preferences/{method}.parquet", method=STUDY["methods"]
            ),
            judgements=judgement_files([STUDY["judge"]], STUDY["methods"]),
            library=library("case_study.py"),
        output:
            markdown=report(
                "results/case_study.md",
                caption="../resources/report/case_study.rst",
                category="Cases",
                labels={"result": "Case study", "file": "case_study"},
            ),
            cases="results/case_study.json",
        log:
            "logs/case_study.log",
        benchmark:
            "logs/timings/case_study.tsv"
        conda:
            "../envs/cpu.yaml"
        resources:
            **needs(1000, 30),
        params:
            wanted=STUDY["cases"],
            labels={
                method: config["methods"][method]["label"]
                for method in STUDY["methods"]
            },
        message:
            "Writing the case study: methods side by side"
        script:
            "../scripts/case_study.py"


rule provenance:
    input:
        results=[
            *TABLES,
            *FIGURES,
            *SPLITS_CHECKED,
            *(["results/case_study.md"] if STUDY else []),
        ],
        library=library("provenance.py"),
    output:
        provenance="results/provenance.parquet",
    log:
        "logs/provenance.log",
    benchmark:
        "logs/timings/provenance.tsv"
    conda:
        "../envs/cpu.yaml"
    resources:
        **needs(1000, 30),
    message:
        "Gathering the provenance of every result"
    script:
        "../scripts/provenance.py"


# Results that the report shows, by name. The case study has the same keys as a figure.
SHOWN = {**config["tables"], **config.get("figures", {})}
if STUDY:
    SHOWN["case_study"] = {
        "methods": STUDY["methods"],
        "judges": [STUDY["judge"]],
        "benchmarks": [STUDY["benchmark"]],
    }
ONLINE_TABLES = [
    n
    for n, table in config["tables"].items()
    if table["kind"] in ("win_rates", "strengths")
]
METHODS_SHOWN = [
    name
    for name in config["methods"]
    if any(
        name in (entry.get("methods") or methods_in(shown))
        for shown, entry in SHOWN.items()
    )
]


def benchmarks_shown():
    """Benchmarks of all results, in the config's order."""
    wanted = set()
    for entry in SHOWN.values():
        wanted.update(entry.get("benchmarks", ()), [entry.get("benchmark")])
        wanted.update(
            *(column["benchmarks"] for column in entry.get("columns", {}).values())
        )
    if ONLINE_TABLES:
        wanted.update(*config["online"]["groups"].values())
    return [name for name in config["benchmarks"] if name in wanted]


def trained_shown():
    """Variants that a figure draws or a method in the report uses, and methods that are trained (VPL)."""
    entries = [config["methods"][name] for name in METHODS_SHOWN]
    paths = {
        trained_path(config["models"][entry["model"]])
        for entry in entries
        if "model" in entry
    }
    drawn = {
        v
        for figure in config.get("figures", {}).values()
        for v in figure.get("variants", ())
    }
    trained = [
        v for v in variants(config) if v in drawn or f"models/trained/{v}" in paths
    ]
    return [
        *trained,
        *(name for name in METHODS_SHOWN if config["methods"][name]["kind"] == "vpl"),
    ]


def sampled_shown():
    """Those of the variants shown whose training samples rollouts."""
    return [
        v for v in trained_shown() if variants(config).get(v, {}).get("stage") == "grpo"
    ]


def captions():
    """The caption file of each table and figure whose kind has one."""
    kinds = {name: entry["kind"] for name, entry in config["tables"].items()}
    for name, entry in config.get("figures", {}).items():
        kinds[name] = "accuracy_by" if "by" in entry else entry["kind"]
    files = {name: home(f"resources/report/{kind}.rst") for name, kind in kinds.items()}
    return {name: file for name, file in files.items() if Path(file).exists()}


def online_files(files):
    """What `files` returns for the methods of each online table, without repeats."""
    return list(
        dict.fromkeys(
            file for name in ONLINE_TABLES for file in files(methods_in(name))
        )
    )


rule report:
    input:
        tables=TABLES,
        figures=FIGURES,
        points=expand(
            "results/{figure}.csv", figure=names_in("figures", kind="accuracy")
        ),
        cases=cases_of(benchmarks_shown()),
        preferences=expand(
            "results/preferences/{method}.parquet", method=describing(METHODS_SHOWN)
        ),
        judgements=list(
            dict.fromkeys(
                file
                for name, entry in SHOWN.items()
                for file in judgements_shown(name, entry)
            )
        ),
        responses=online_files(
            lambda methods: expand(
                "results/responses/{method}.parquet", method=methods
            )
        ),
        wins=online_files(wins_between),
        metrics=expand("results/training/{variant}.parquet", variant=trained_shown()),
        rollouts=expand("results/rollouts/{variant}.parquet", variant=sampled_shown()),
        study=rules.case_study.output.cases if STUDY else [],
        funnel="results/data/funnel.csv" if "sources" in ALIGNX else [],
        rejects=[
            *(["data/rejects.parquet"] if "sources" in ALIGNX else []),
            *expand("data/rejects/{split}.parquet", split=GIVEN_SPLITS),
        ],
        splits=SPLITS_CHECKED,
        provenance=rules.provenance.output.provenance,
        dimensions=home("resources/dimensions.csv"),
        captions=list(dict.fromkeys(captions().values())),
        site=sorted(
            home(str(path.relative_to(workflow.basedir)))
            for path in Path(workflow.basedir).glob("resources/report/*/*")
        ),
        library=library("report.py"),
    output:
        site=directory("results/report"),
    log:
        "logs/report.log",
    benchmark:
        "logs/timings/report.tsv"
    conda:
        "../envs/cpu.yaml"
    resources:
        **needs(4000, 120),
    params:
        titles={
            name: entry["title"] for name, entry in SHOWN.items() if "title" in entry
        },
        captions=captions(),
        labels={name: config["methods"][name]["label"] for name in METHODS_SHOWN},
        trained=trained_labels(trained_shown()),
        references=[
            config["methods"][name]["label"]
            for name in METHODS_SHOWN
            if config["methods"][name].get("reference")
        ],
        demo="demo" in config,
    message:
        "Writing the site {output.site}/index.html"
    script:
        "../scripts/report.py"
