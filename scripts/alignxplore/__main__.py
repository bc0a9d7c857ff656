"""`python -m alignxplore`: what users do beside the workflow."""

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

from alignxplore import engines, sweep
from alignxplore import signals as product
from alignxplore.engines.journal import account, prune
from alignxplore.errors import UserError
from alignxplore.formats import Parsed
from alignxplore.prompts import Templates
from alignxplore.workflow import job as cli
from alignxplore.workflow import plan, provenance
from alignxplore.workflow.config import check_document

log = logging.getLogger(__name__)

WORKFLOW = Path(__file__).parents[2]
PROMPTS = WORKFLOW / "resources/prompts"


def journal_stats(arguments: argparse.Namespace) -> None:
    """Print what each model was asked, what it cost, and what the journal has saved."""
    with pl.Config(
        tbl_rows=-1, tbl_cols=-1, tbl_width_chars=220, fmt_str_lengths=60, tbl_hide_dataframe_shape=True,
        tbl_hide_column_data_types=True, thousands_separator=True, tbl_formatting="ASCII_MARKDOWN", float_precision=2,
    ):  # fmt: skip
        print(account(arguments.directory))


def journal_prune(arguments: argparse.Namespace) -> None:
    """Join the journal's files into one, and drop answers that are not wanted any more."""
    newest_dropped = time.time() - 86400 * arguments.days if arguments.days is not None else 0.0
    kept, dropped = prune(arguments.directory, arguments.keep, newest_dropped)
    print(f"{kept} records kept, {dropped} dropped")


def verify(arguments: argparse.Namespace) -> None:
    """Compare a finished tree with the records that its jobs left, and print what differs."""
    faults = provenance.verify(arguments.tree)
    for fault in faults:
        print(fault)
    if faults:
        sys.exit(1)
    records = [provenance.read(path) for path in provenance.sidecars(arguments.tree)]
    outputs = sum(len(record["outputs"]) for record in records)
    print(f"{len(records)} jobs, {outputs} outputs: all as they were recorded")


def plan_run(arguments: argparse.Namespace) -> None:
    """Print what a run would do and why, and what it would cost as far as earlier runs tell; nothing is run."""
    jobs, journal = plan.workflow_jobs(arguments.configfile, arguments.targets)
    print(plan.describe(plan.estimate(jobs, journal), len(jobs)))


def infer(arguments: argparse.Namespace) -> None:
    """Print the reasoning and the preference description for one user's signals."""
    signals = product.read_signals(_text(arguments.signals), arguments.signals)
    sampling = engines.Sampling(
        arguments.temperature, arguments.top_p, arguments.top_k, arguments.max_new_tokens, arguments.seed
    )
    templates = _templates(arguments, "concise" if arguments.concise else "preference")
    completion, parsed = product.infer(_engine(arguments), templates, signals, sampling, not arguments.concise)
    if warning := _shortcoming(completion, parsed, arguments):
        log.warning("What is shown may be no description: %s", warning)
    if arguments.json:
        print(json.dumps({**vars(parsed), "finish_reason": completion.finish_reason}, ensure_ascii=False))
    else:
        print("\n\n".join(filter(None, (parsed.reasoning, parsed.preference))))


def _shortcoming(completion: engines.Completion, parsed: Parsed, arguments: argparse.Namespace) -> str | None:
    """What is wrong with an answer, and what may help."""
    if completion.finish_reason == "length":
        count = completion.completion_tokens
        full = count < arguments.max_new_tokens
        advice = "the model's context is full; give it less to read" if full else "--max-new-tokens allows more"
        return f"the answer was cut off at {count} tokens: {advice}"
    if parsed.format_ok:
        return None
    if arguments.concise:
        return "the answer is empty: another --seed may give one"
    return (
        "the answer is out of format, which is <think>reasoning</think> and then <answer>description</answer>: another"
        " --seed may help; a model that was not trained to reason so is asked with --concise"
    )


def judge(arguments: argparse.Namespace) -> None:
    """Print which of two responses suits a preference, and how probably."""
    texts = arguments.preference, arguments.post, arguments.first, arguments.second
    p_first = product.compare(_engine(arguments), _templates(arguments, "judge"), *texts)
    selected = "tie" if p_first == 0.5 else "first" if p_first > 0.5 else "second"
    if arguments.json:
        print(json.dumps({"selected": selected, "p_first": p_first}))
    else:
        print(f"{selected} ({max(p_first, 1 - p_first):.1%})")


def sweep_variants(arguments: argparse.Namespace) -> None:
    """Run the variants of a sweep, and compare them in one table."""
    variants = sweep.load(arguments.file)
    directory = arguments.directory / variants.name
    sweep.run(variants, directory, [Path("."), *arguments.finished], arguments.options)
    if {"-n", "--dry-run", "--dryrun"}.intersection(arguments.options):
        return
    cells = sweep.compare(variants, directory)
    cells.write_csv(directory / "comparison.csv")
    table = sweep.markdown(variants, cells)
    (directory / "comparison.md").write_text(table, encoding="utf-8")
    print(table)


def _engine(arguments: argparse.Namespace) -> engines.Engine:
    """A local directory or hub model by transformers, or what the JSON of a `models` entry says."""
    entry: dict[str, Any] = {"engine": "transformers", "path": arguments.model}
    if arguments.model.startswith("{"):
        try:
            entry = json.loads(arguments.model)
        except (ValueError, RecursionError) as error:
            raise UserError(f"--model is not JSON: {error}") from None
        part = ("properties", "models", "additionalProperties")
        check_document(entry, WORKFLOW / "config/schema.yaml", "--model", part)
    path = entry["path"]
    if entry["engine"] != "openai" and not Path(path).is_dir():
        if path.startswith(("/", ".", "models/")):
            raise UserError(f"--model: there is no directory {path}")
        if path.count("/") != 1:
            raise UserError(f"--model: there is no directory {path}, and a hub id reads OWNER/NAME")
    return engines.load(entry)


def _templates(arguments: argparse.Namespace, name: str) -> Templates:
    return Templates(**{name: arguments.prompts / f"{name}.jinja"})


def _text(source: str) -> str:
    try:
        content = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
        return content.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{source}: cannot be read: {error}") from error


def _number(kind: type[int] | type[float], said: str, within: Callable[[float], bool]) -> Callable[[str], float]:
    """What argparse reads a number with that has to lie within limits."""

    def read(text: str) -> float:
        try:
            value = kind(text)
            if math.isfinite(value) and within(value):
                return value
        except (ValueError, OverflowError):
            pass
        raise argparse.ArgumentTypeError(f"{text} is not {said}")

    return read


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(prog="python -m alignxplore", description=__doc__)
    commands = result.add_subparsers(required=True, metavar="COMMAND")
    for name, action in (("infer", infer), ("judge", judge)):
        command = commands.add_parser(name, help=action.__doc__, description=action.__doc__)
        command.add_argument("--model", required=True, help="directory, hub name, or a `models` entry as JSON")
        command.add_argument("--prompts", type=Path, default=PROMPTS, metavar="DIR", help="where the templates are")
        command.add_argument("--json", action="store_true", help="print one JSON object")
        command.set_defaults(run=action)
        if name == "infer":
            command.add_argument("signals", help="JSON file of pairs (prompt, chosen, rejected); - for standard input")
            command.add_argument("--concise", action="store_true", help="ask for the description without reasoning")
            for option, default, number, said in (
                ("--temperature", 0.9, _number(float, "a number from 0", lambda n: n >= 0), "0 is greedy"),
                ("--top-p", 0.95, _number(float, "a number over 0, up to 1", lambda n: 0 < n <= 1), "1 is all"),
                ("--top-k", 10, _number(int, "a whole number from 0", lambda n: n >= 0), "0 is all"),
                ("--max-new-tokens", 2048, _number(int, "a whole number from 1", lambda n: n >= 1), "at most"),
            ):
                command.add_argument(option, type=number, default=default, help=f"{said} (default: %(default)s)")
            command.add_argument("--seed", type=int, default=1)
        else:
            command.add_argument("preference", help="description of the user's preferences")
            command.add_argument("post")
            command.add_argument("first", help="a response")
            command.add_argument("second", help="another")
    command = commands.add_parser("sweep", help=sweep_variants.__doc__, description=sweep_variants.__doc__)
    command.add_argument("--directory", type=Path, default=Path("sweeps"), help="where sweeps lie (default: sweeps)")
    command.add_argument(
        "--finished", type=Path, action="append", default=[], metavar="DIR", help="take what is equal from here, too"
    )
    command.add_argument("file", help="the sweep: docs/sweeps.md")
    command.add_argument("options", nargs=argparse.REMAINDER, help="what follows goes to Snakemake")
    command.set_defaults(run=sweep_variants)
    journal = commands.add_parser("journal", help="the record of every answer of a model")
    actions = journal.add_subparsers(required=True, metavar="ACTION")
    for name, action in (("stats", journal_stats), ("prune", journal_prune)):
        command = actions.add_parser(name, help=action.__doc__, description=action.__doc__)
        command.add_argument("--directory", default="journal", help="the config's `journal` (default: %(default)s)")
        command.set_defaults(run=action)
        if name == "prune":
            command.add_argument("--keep", nargs="+", metavar="PATH", help="models, by `path`, whose answers stay")
            command.add_argument("--days", type=float, help="drop files not written to for so many days")
    command = commands.add_parser("verify", help=verify.__doc__, description=verify.__doc__)
    command.add_argument("tree", nargs="?", type=Path, default=Path(), metavar="TREE", help="default: where you are")
    command.set_defaults(run=verify)
    command = commands.add_parser("plan", help=plan_run.__doc__, description=plan_run.__doc__)
    command.add_argument("--configfile", metavar="FILE", help="the configuration; config/config.yaml without")
    command.add_argument("targets", nargs="*", metavar="TARGET", help="files or rules to make; everything without")
    command.set_defaults(run=plan_run)
    return result


def main() -> None:
    """Run the command that was asked for."""
    arguments = parser().parse_args()
    cli.run(lambda: arguments.run(arguments))


if __name__ == "__main__":
    main()
