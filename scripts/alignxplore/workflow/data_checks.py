"""What benchmarks and methods need of data: checks of the configuration."""

from collections.abc import Iterator

from alignxplore.data.forms import WITHOUT_CHUNKS
from alignxplore.data.streams import chunk_sizes
from alignxplore.workflow.config import (
    D_COLD,
    DATA_OF_STAGE,
    DERIVED,
    Config,
    benchmark_origin,
    drawn_splits,
    given_splits,
    held_out_file,
    variants,
)

WITHOUT_DIRECTIONS = ("pairs", "streams", "rl", "cold_start", "psoups")
"""Forms of given splits whose records have no directions."""

NEED_SIGNALS = ("signals", "liked", "lminductreason", "pba", "vpl")
"""Kinds of methods that read signals themselves, not only a prompt with them."""

RENDERED = "has a rendered prompt instead of signals (form 'rl')"


def split_errors(config: Config) -> Iterator[str]:
    """Yield an error unless a split that gets the rest of another can be drawn apart from all others."""
    parents: dict[str, str] = {}
    for name, entry in drawn_splits(config).items():
        parent = entry.get("rest_of")
        if parent is None:
            continue
        if "share" not in drawn_splits(config).get(parent, {}):
            yield f"data.splits.{name}.rest_of: {parent!r} is not drawn by a share"
        elif parent in parents:
            yield f"data.splits.{name}.rest_of: {parents[parent]!r} already gets the rest of {parent!r}"
        parents[parent] = name


def benchmark_errors(config: Config) -> Iterator[str]:
    """Yield an error unless benchmarks can be made from one another, as far as the configuration shows."""
    history = config.get("data", {}).get("refine", {}).get("history", 0)
    for name, entry in config["benchmarks"].items():
        key, origin = f"benchmarks.{name}", benchmark_origin(config, name)
        if not {"split", "psoups"} & origin.keys():
            derived = next(k for k in DERIVED if k in entry)
            yield f"{key}.{derived}: {entry[derived]!r} is itself made from another benchmark"
        if "reverse_of" in entry and has_comments(config, name):
            yield (
                f"{key}.reverse_of: {entry['reverse_of']!r} has comments, which cannot be reversed: they have no"
                " rejected text"
            )
        # Other cases bring their own signals, however many.
        if "truncation_of" in entry and origin.get("split") in drawn_splits(config) and entry["signals"] >= history:
            yield (
                f"{key}.signals: must be fewer than the {history} of every case (data.refine.history), not"
                f" {entry['signals']}"
            )
        of_streams = is_streamed(config, origin.get("split", ""))
        for derived in ("truncation_of", "streamed_of"):
            if derived in entry and of_streams:
                yield f"{key}.{derived}: {entry[derived]!r} has the steps of streams already"
        if "streamed_of" in entry and not of_streams:
            drawn = origin.get("split") in drawn_splits(config)
            yield from _stream_errors(config, name, history if drawn else None)


def _stream_errors(config: Config, name: str, history: int | None) -> Iterator[str]:
    """Yield an error unless a benchmark's histories, of `history` signals if that is known, make the streams wanted."""
    key, entry = f"benchmarks.{name}", config["benchmarks"][name]
    if history is not None and entry["chunk"] > history:
        yield f"{key}.chunk: must be at most the {history} signals of every case (data.refine.history)"
        return
    chunks = None if history is None else len(chunk_sizes(history, entry["chunk"]))
    where = f"but every case has {chunks} (data.refine.history, chunk)"
    if chunks == 1 and entry.get("noise", {}).get("place") == "after":
        yield f"{key}.noise.place: 'after' needs a second chunk, {where}"
    if "drift" not in entry:
        return
    if chunks is not None and entry["drift"]["at"] > chunks:
        yield f"{key}.drift.at: is chunk {entry['drift']['at']}, {where}"
    form = given_splits(config).get(benchmark_origin(config, name).get("split", ""), {}).get("form")
    if form in WITHOUT_DIRECTIONS and form != "rl":
        yield f"{key}.drift: {entry['streamed_of']!r} has no directions (form {form!r}), so none can flip"
    if has_comments(config, name):
        yield f"{key}.drift: {entry['streamed_of']!r} has comments, which cannot drift: they have no rejected text"


def form_errors(config: Config) -> Iterator[str]:
    """Yield an error where something needs what a given split does not have, as far as its `form` is named."""
    forms = {name: entry.get("form", "") for name, entry in given_splits(config).items()}
    for name, entry in given_splits(config).items():
        if "posts" in entry and is_streamed(config, name):
            yield f"data.splits.{name}.posts: a stream has a target post per step, so posts cannot divide streams"
        if "chunk" in entry and forms[name] in WITHOUT_CHUNKS:
            yield f"data.splits.{name}.chunk: does not apply to the form {forms[name]!r}, {WITHOUT_CHUNKS[forms[name]]}"
    for name, entry in config["benchmarks"].items():
        form = forms.get(benchmark_origin(config, name).get("split", ""), "")
        if form == "cold_start":
            yield f"benchmarks.{name}: the split has demonstrations (form 'cold_start'), which have no two responses"
        derived = next((key for key in DERIVED if key in entry), None)
        if form == "rl" and derived:
            yield f"benchmarks.{name}.{derived}: {entry[derived]!r} {RENDERED}"
    for name, entry in config["methods"].items():
        for benchmark in entry.get("benchmarks", config["benchmarks"]):
            form = forms.get(benchmark_origin(config, benchmark).get("split", ""), "")
            turned = bool({"reverse_of", "drift"} & config["benchmarks"][benchmark].keys())
            key = f"methods.{name}.benchmarks: {benchmark!r}"
            if form in WITHOUT_DIRECTIONS and entry["kind"] == "opposite":
                yield f"{key} has no directions (form {form!r}), so no description has an opposite"
            elif entry["kind"] in ("golden", "shuffled") and (form == "rl" or (form in WITHOUT_DIRECTIONS and turned)):
                yield f"{key} has no golden preferences (form {form!r})"
            elif form in WITHOUT_DIRECTIONS and "scores" in entry:
                yield f"{key} has no annotated signals (form {form!r})"
            elif form == "rl" and (entry["kind"] in NEED_SIGNALS or "streaming" in entry):
                yield f"{key} {RENDERED}"
        if entry["kind"] == "vpl" and forms.get("rl") in ("rl", "cold_start"):
            yield f"methods.{name}: data.splits.rl has no pairs to learn from (form {forms['rl']!r})"
    if "cold_start" in config and forms.get("cold") in WITHOUT_DIRECTIONS:
        yield (
            f"cold_start: data.splits.cold has no directions (form {forms['cold']!r}), from which the teacher's key"
            " dimensions come; without a teacher, write cold_start: null"
        )
    if forms.get(split := config.get("cold_start", {}).get("streaming", {}).get("split")) in WITHOUT_DIRECTIONS:
        yield (
            f"cold_start.streaming.split: data.splits.{split} has no directions (form {forms[split]!r}), from which the"
            " teacher's key dimensions come"
        )
    if split in drawn_splits(config):
        yield f"cold_start.streaming.split: the examples of {split!r} are no steps of streams; name a given split"
    for name, entry in variants(config).items():
        data = entry.get("data", DATA_OF_STAGE[entry["stage"]])
        split = _split_of(data)
        wants = entry["stage"] == "sft" and entry.get("reasoning", True)
        if forms.get(split) and wants != (forms[split] == "cold_start"):
            needed = "demonstrations (form 'cold_start')" if wants else "examples"
            yield f"training.variants.{name}.data: needs {needed}, but data.splits.{split} has form {forms[split]!r}"
        if wants and split in drawn_splits(config):
            yield f"training.variants.{name}.data: needs demonstrations, but data.splits.{split} has examples"
        held_out = held_out_file(config, name)
        if held_out in learned_from(config, name):
            yield f"training.variants.{name}: {held_out!r} cannot be held out: it, or a model it starts from, learns it"
        elif held_out and is_streamed(config, split):
            yield (
                f"training.variants.{name}: {data!r} has the steps of streams, and training over them cannot be"
                " evaluated: set held_out: false"
            )
        elif held_out and is_streamed(config, _split_of(held_out)):
            yield f"training.variants.{name}: {held_out!r} has the steps of streams, and held_out needs other examples"
        elif held_out and forms.get(_split_of(held_out)) == "cold_start":
            yield f"training.variants.{name}: {held_out!r} has demonstrations, and held_out needs examples"
    for name, entry in config.get("figures", {}).items():
        if entry.get("by") == "dimension":
            origins = [benchmark_origin(config, benchmark).get("split", "") for benchmark in entry["benchmarks"]]
            if all(forms.get(split) in WITHOUT_DIRECTIONS for split in origins):
                yield f"figures.{name}.by: none of its benchmarks has directions"


def learned_from(config: Config, name: str) -> list[str]:
    """The files of examples that a variant learns from, and the variants that it starts from."""
    streams = config.get("cold_start", {}).get("streaming", {}).get("split")
    origins = {
        D_COLD["cold_start"]: "data/splits/cold.parquet",
        D_COLD["cold_start.streaming"]: f"data/splits/{streams}.parquet",
    }
    found: dict[str, str] = {}
    while name in variants(config) and name not in found:  # cycles are named elsewhere
        entry = variants(config)[name]
        found[name] = entry.get("data", DATA_OF_STAGE[entry["stage"]])
        name = config["models"].get(entry["from"], {}).get("path", "").removeprefix("models/trained/")
    return [origins.get(data, data) for data in found.values()]


def is_streamed(config: Config, split: str) -> bool:
    """Whether a split has the steps of streams, as far as its form is named."""
    entry = given_splits(config).get(split, {})
    return entry.get("form") == "streams" or "chunk" in entry


def may_have_streams(config: Config, benchmark: str) -> bool:
    """Whether a benchmark's cases can be steps of streams. Only given splits whose form is not named leave it open."""
    split = benchmark_origin(config, benchmark).get("split", "")
    unnamed = split in given_splits(config) and "form" not in given_splits(config)[split]
    return "streamed_of" in config["benchmarks"][benchmark] or is_streamed(config, split) or unnamed


def has_comments(config: Config, benchmark: str) -> bool:
    """Whether a drawn benchmark's signals are comments; the configuration does not say it of given splits."""
    split = benchmark_origin(config, benchmark).get("split", "")
    drawn = drawn_splits(config)
    return split in drawn and drawn[split].get("rest_of", split).endswith("_ugc")


def _split_of(path: str) -> str:
    return path.removeprefix("data/splits/").removesuffix(".parquet")
