"""Use a trained model, inspect the journal, plan or try a run, verify a finished one, or publish what it made."""

import argparse
import json
import logging
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl

from alignxplore import engines, signals, user_states
from alignxplore.changes import Change, changes
from alignxplore.data.streams import signal_count
from alignxplore.engines.journal import account, prune
from alignxplore.errors import UserError
from alignxplore.formats import Parsed
from alignxplore.prompts import Templates
from alignxplore.results import publish
from alignxplore.workflow import integrity, job, plan, provenance
from alignxplore.workflow.config import read_layers
from alignxplore.workflow.schema import check_document
from alignxplore.workflow.workload import Preflight

log = logging.getLogger(__name__)

WORKFLOW = Path(__file__).parents[2]
PROMPTS = WORKFLOW / "resources/prompts"


def infer(arguments: argparse.Namespace) -> None:
    """Print the reasoning and preference description that a model infers from one user's signals.

    With --state, bring a user's description up to date by new signals instead, and print what changed.
    """
    user = signals.read_signals(_text(arguments.signals), arguments.signals)
    sampling = engines.Sampling(
        arguments.temperature, arguments.top_p, arguments.top_k, arguments.max_new_tokens, arguments.seed
    )
    if arguments.state is not None:
        _update(arguments, user, sampling)
        return
    if arguments.chunk is not None:
        raise UserError("--chunk needs --state: without it, all signals are read at once")
    templates = _templates(arguments, "concise" if arguments.concise else "preference")
    completion, parsed = signals.infer(_engine(arguments), templates, user, sampling, not arguments.concise)
    if warning := _shortcoming(completion, parsed, arguments):
        log.warning("The output may not be a valid description: %s", warning)
    if arguments.json:
        print(json.dumps({**vars(parsed), "finish_reason": completion.finish_reason}, ensure_ascii=False))
    else:
        print("\n\n".join(filter(None, (parsed.reasoning, parsed.preference))))


def _update(arguments: argparse.Namespace, user: user_states.Signals, sampling: engines.Sampling) -> None:
    """`infer --state`."""
    entry, templates = _entry(arguments), _templates(arguments, "update")
    engine = engines.load(entry)

    def describe(chunk: user_states.Signals, past: str) -> str:
        completion, parsed = signals.infer(engine, templates, chunk, sampling, not arguments.concise, past)
        if shortcoming := _shortcoming(completion, parsed, arguments):
            raise UserError(
                f"{arguments.state}: a chunk of {signal_count(chunk)} signals could not be read; they and those after"
                f" them count as new: {shortcoming}"
            )
        return parsed.preference

    before, after = user_states.update(
        arguments.state, user, describe, arguments.chunk or 4, entry["path"], engines.identity(entry)
    )
    new, pieces = len(after.seen) - len(before.seen), changes(before.description, after.description)
    if arguments.json:
        changed = {kind: [text.strip() for k, text in pieces if k == kind] for kind in ("added", "dropped")}
        result = {"preference": after.description, "signals": len(after.seen), "new": new, **changed}
        print(json.dumps(result, ensure_ascii=False))
        return
    print(after.description)
    if before.description and new:
        print(f"\nChanged by {new} new signals, {len(after.seen)} in all:\n{''.join(map(_marked, pieces))}")


def _marked(piece: Change) -> str:
    """A piece of text as git's word diff shows it."""
    text = piece.text.rstrip()
    marks = {"same": text, "added": f"{{+{text}+}}", "dropped": f"[-{text}-]"}
    return marks[piece.kind] + piece.text[len(text) :]


def _shortcoming(completion: engines.Completion, parsed: Parsed, arguments: argparse.Namespace) -> str | None:
    """What is wrong with an answer and what may help; None if nothing is wrong."""
    if completion.finish_reason == "length":
        count = completion.completion_tokens
        full = count < arguments.max_new_tokens
        advice = "the model's context is full; shorten the signals" if full else "raise --max-new-tokens"
        return f"the answer was cut off at {count} tokens: {advice}"
    if completion.finish_reason == "refused":
        return "the model refused the prompt; the log says why"
    if parsed.format_ok:
        return None
    if arguments.concise:
        return "the answer is empty: try another --seed"
    return (
        "the answer is not in the format <think>reasoning</think><answer>description</answer>: try another --seed, or"
        " --concise if the model was not trained to reason"
    )


def judge(arguments: argparse.Namespace) -> None:
    """Print which of two responses fits a preference better, and with what probability."""
    texts = arguments.preference, arguments.post, arguments.first, arguments.second
    p_first = signals.judge(_engine(arguments), _templates(arguments, "judge"), *texts)
    selected = "tie" if p_first == 0.5 else "first" if p_first > 0.5 else "second"
    if arguments.json:
        print(json.dumps({"selected": selected, "p_first": p_first}))
    else:
        print(f"{selected} ({max(p_first, 1 - p_first):.1%})")


def journal_stats(arguments: argparse.Namespace) -> None:
    """Print what each model was asked, what that cost, and what the journal saved."""
    with pl.Config(
        tbl_rows=-1, tbl_cols=-1, tbl_width_chars=220, fmt_str_lengths=60, tbl_hide_dataframe_shape=True,
        tbl_hide_column_data_types=True, thousands_separator=True, tbl_formatting="ASCII_MARKDOWN", float_precision=2,
    ):  # fmt: skip
        print(account(arguments.directory))


def journal_prune(arguments: argparse.Namespace) -> None:
    """Merge the journal's files into one, and drop answers that are no longer wanted."""
    newest_dropped = time.time() - 86400 * arguments.days if arguments.days is not None else 0.0
    kept, dropped = prune(arguments.directory, arguments.keep, newest_dropped, arguments.refused)
    print(f"{kept} records kept, {dropped} dropped")


def plan_run(arguments: argparse.Namespace) -> None:
    """Print which jobs would run, why, and what they would cost, estimated from earlier runs. Runs nothing."""
    jobs, config = plan.workflow_jobs(arguments.configfile, arguments.targets, arguments.config)
    estimates = plan.estimate(jobs, config["journal"], config, Preflight.read())
    print(plan.describe(estimates, len(jobs)))


def preflight_run(arguments: argparse.Namespace) -> None:
    """Try what a run asks for: one batch of each model, two steps of each training. Exits with 1 if something fails."""
    from alignxplore.preflight import describe, flight, machine  # imports TRL, which takes seconds
    from alignxplore.training import memory_table

    job.prefer_own_programs()
    job.prefer_own_library(WORKFLOW / "scripts")
    jobs, config = plan.workflow_jobs(arguments.configfile, arguments.targets, arguments.config)
    here = machine.Machine.here()
    card = arguments.card * 1e9 if arguments.card else min(here.cards, default=memory_table.card_of(config))
    tried = flight.Flight(config, jobs, here, card)
    tried.run()
    print(describe.describe(tried))
    if tried.errors:
        sys.exit(1)


def training_memory(arguments: argparse.Namespace) -> None:
    """Print the memory and time that training variants need, calculated. Exits with 1 if one does not fit the card."""
    from alignxplore.training import memory_table  # imports TRL, which takes seconds

    base, demo = (WORKFLOW / f"config/{name}.yaml" for name in ("base", "demo"))
    config = read_layers([base, *(arguments.configfile or [demo])])
    jobs = memory_table.variant_jobs(config, arguments.shape)
    card = arguments.card * memory_table.GB if arguments.card else memory_table.card_of(config)
    print(memory_table.table(config, jobs, card))
    if not all(job.fits(card) for job in jobs.values()):
        sys.exit(1)


def verify_tree(arguments: argparse.Namespace) -> None:
    """Check the files of a finished run against its job records, and print every difference."""
    faults = integrity.faults(arguments.tree)
    for fault in faults:
        print(fault)
    if faults:
        sys.exit(1)
    records = [provenance.read(path) for path in provenance.sidecars(arguments.tree)]
    outputs = sum(len(record["outputs"]) for record in records)
    print(f"{len(records)} jobs, {outputs} outputs: all match their records")


def publish_files(arguments: argparse.Namespace) -> None:
    """Show what would be published on the Hugging Face hub: a trained model, or a run's predictions. --send does it."""
    kind = "dataset" if arguments.directory.name == "results" else "model"
    found = publish.dataset_files if kind == "dataset" else publish.model_files
    files = found(arguments.directory)
    print(publish.summary(files, arguments.repository, kind))
    if arguments.send:
        print(publish.send(files, arguments.repository, kind, arguments.public))
    else:
        print("Nothing was sent; --send does it.")


def _engine(arguments: argparse.Namespace) -> engines.Engine:
    return engines.load(_entry(arguments))


def _entry(arguments: argparse.Namespace) -> dict[str, Any]:
    """The `models` entry of --model: a directory or hub id for transformers, or an entry as JSON."""
    entry: dict[str, Any] = {"engine": "transformers", "path": arguments.model}
    if arguments.model.startswith("{"):
        try:
            entry = json.loads(arguments.model)
        except (ValueError, RecursionError) as error:
            raise UserError(f"--model: not valid JSON: {error}") from None
        part = ("properties", "models", "additionalProperties")
        check_document(entry, WORKFLOW / "config/schema.yaml", "--model", part)
    path = entry["path"]
    if entry["engine"] != "openai" and not Path(path).is_dir():
        if path.startswith(("/", ".", "models/")):
            raise UserError(f"--model: no such directory: {path}")
        if path.count("/") != 1:
            raise UserError(f"--model: {path} is neither a directory nor a hub id (OWNER/NAME)")
    return entry


def _templates(arguments: argparse.Namespace, name: str) -> Templates:
    return Templates(**{name: arguments.prompts / f"{name}.jinja"})


def _text(source: str) -> str:
    try:
        content = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
        return content.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{source}: cannot be read: {error}") from error


def _number(kind: type[int] | type[float], said: str, within: Callable[[float], bool]) -> Callable[[str], float]:
    """An argparse type for numbers within limits; `said` describes them in errors."""

    def read(text: str) -> float:
        try:
            value = kind(text)
            if math.isfinite(value) and within(value):
                return value
        except (ValueError, OverflowError):
            pass
        raise argparse.ArgumentTypeError(f"{text} is not {said}")

    return read


SAMPLING = (
    ("--temperature", 0.9, _number(float, "a number >= 0", lambda n: n >= 0), "0 decodes greedily"),
    ("--top-p", 0.95, _number(float, "a number in (0, 1]", lambda n: 0 < n <= 1), "1 turns nucleus sampling off"),
    ("--top-k", 10, _number(int, "an integer >= 0", lambda n: n >= 0), "0 turns top-k sampling off"),
    ("--max-new-tokens", 2048, _number(int, "an integer >= 1", lambda n: n >= 1), "longer answers are cut off"),
)
MODEL_HELP = (
    "a directory, a hub id (OWNER/NAME), or a `models` entry of the configuration as JSON, such as"
    ' {"engine": "openai", "path": "gpt-4", "run": {"key_env": "OPENAI_API_KEY"}}'
)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(prog="python -m alignxplore", description=__doc__, allow_abbrev=False)
    commands = result.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, action: Callable[..., None], within: Any = commands) -> argparse.ArgumentParser:
        command: argparse.ArgumentParser = within.add_parser(
            name, help=action.__doc__, description=action.__doc__, allow_abbrev=False
        )
        command.set_defaults(run=action)
        return command

    asks = [add("infer", infer), add("judge", judge)]
    for command in asks:
        command.add_argument("--model", required=True, help=MODEL_HELP)
        command.add_argument("--prompts", type=Path, default=PROMPTS, metavar="DIR", help="directory of the templates")
        command.add_argument("--json", action="store_true", help="print one JSON object")
    of_infer, of_judge = asks
    of_infer.add_argument("signals", help="JSON file of pairs (prompt, chosen, rejected) and comments; - reads stdin")
    of_infer.add_argument("--concise", action="store_true", help="ask for a description without reasoning")
    for option, default, number, said in SAMPLING:
        of_infer.add_argument(option, type=number, default=default, help=f"{said} (default: %(default)s)")
    of_infer.add_argument("--seed", type=int, default=1, help="(default: %(default)s)")
    of_infer.add_argument(
        "--state", type=Path, metavar="FILE",
        help="JSON file with what is known of the user, which the signals bring up to date; made if it is not there",
    )  # fmt: skip
    of_infer.add_argument(
        "--chunk", type=_number(int, "an integer >= 1", lambda n: n >= 1),
        help="with --state, signals per update; more are read in several (default: 4)",
    )  # fmt: skip
    of_judge.add_argument("preference", help="description of the user's preferences")
    of_judge.add_argument("post", help="the post that both responses answer")
    of_judge.add_argument("first", help="first response")
    of_judge.add_argument("second", help="second response")

    journal = commands.add_parser(
        "journal", help="Inspect or prune the record of all model answers.", allow_abbrev=False
    )
    actions = journal.add_subparsers(required=True, metavar="ACTION")
    of_stats, of_prune = add("stats", journal_stats, actions), add("prune", journal_prune, actions)
    for command in (of_stats, of_prune):
        command.add_argument("--directory", default="journal", help="the config's `journal` (default: %(default)s)")
    of_prune.add_argument(
        "--keep", nargs="+", metavar="PATH", help="drop answers of all models but these (their `path`)"
    )
    of_prune.add_argument("--days", type=float, help="drop files last written to more than this many days ago")
    of_prune.add_argument("--refused", action="store_true", help="drop refused prompts, so that they are asked again")

    of_preflight = add("preflight", preflight_run)
    for command in (add("plan", plan_run), of_preflight):
        command.add_argument(
            "--configfile", nargs="+", default=[], metavar="FILE",
            help="files over config/base.yaml, as Snakemake takes them (default: config/demo.yaml)",
        )  # fmt: skip
        command.add_argument(
            "--config", nargs="+", default=[], metavar="KEY=VALUE",
            help="values over all files, as Snakemake takes them",
        )  # fmt: skip
        command.add_argument("targets", nargs="*", metavar="TARGET", help="files or rules (default: all results)")

    of_memory = add("memory", training_memory)
    for command, first in ((of_preflight, "this machine's, or "), (of_memory, "")):
        command.add_argument(
            "--card", type=float, metavar="GB",
            help=f"10^9 bytes of one card (default: {first}the config's `card`, or 85.5, an 80 GB card)",
        )  # fmt: skip
    of_memory.add_argument(
        "--configfile", nargs="+", type=Path, metavar="FILE", help="files over config/base.yaml (default: demo.yaml)"
    )
    of_memory.add_argument("--shape", metavar="FILE", help="config.json that all models are taken to have")

    command = add("verify", verify_tree)
    command.add_argument("tree", nargs="?", type=Path, default=Path(), help="default: the working directory")

    command = add("publish", publish_files)
    command.add_argument("directory", type=Path, help="models/trained/VARIANT, or results")
    command.add_argument("repository", help="OWNER/NAME on the hub; you must have logged in with `hf auth login`")
    command.add_argument("--send", action="store_true", help="send the files")
    command.add_argument("--public", action="store_true", help="make a new repository public (default: private)")
    return result


def main() -> None:
    """Run one command."""
    arguments = parser().parse_args()
    job.hide_progress_bars()
    job.run(lambda: arguments.run(arguments))


if __name__ == "__main__":
    main()
