"""`python -m alignxplore`: what users do beside the workflow."""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import polars as pl

from alignxplore import cli, engines, plan, product, provenance, sweep
from alignxplore.engines.journal import account, prune
from alignxplore.errors import UserError

PROMPTS = Path(__file__).parents[2] / "resources/prompts"


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
    sampling = engines.Sampling(arguments.temperature, 0.95, 10, arguments.max_new_tokens, arguments.seed)
    templates = product.packaged_templates(arguments.prompts)
    parsed = product.infer(_engine(arguments), templates, signals, sampling)
    if arguments.json:
        print(json.dumps(vars(parsed), ensure_ascii=False))
    else:
        print(f"{parsed.reasoning}\n\n{parsed.preference}")


def judge(arguments: argparse.Namespace) -> None:
    """Print which of two responses suits a preference, and how probably."""
    templates = product.packaged_templates(arguments.prompts)
    texts = arguments.preference, arguments.post, arguments.first, arguments.second
    p_first = product.compare(_engine(arguments), templates, *texts)
    if arguments.json:
        print(json.dumps({"p_first": p_first}))
    else:
        print(f"{'first' if p_first > 0.5 else 'second'} ({max(p_first, 1 - p_first):.1%})")


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
    if not arguments.model.startswith("{"):
        if arguments.model.startswith(("/", ".", "models/")) and not Path(arguments.model).is_dir():
            raise UserError(f"--model: there is no directory {arguments.model}")
        return engines.load({"engine": "transformers", "path": arguments.model})
    try:
        entry: dict[str, Any] = json.loads(arguments.model)
    except ValueError as error:
        raise UserError(f"--model is not JSON: {error}") from None
    return engines.load(entry)


def _text(source: str) -> str:
    try:
        return sys.stdin.read() if source == "-" else Path(source).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{source}: cannot be read: {error}") from error


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
            command.add_argument("--temperature", type=float, default=0.9)
            command.add_argument("--max-new-tokens", type=int, default=2048)
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
