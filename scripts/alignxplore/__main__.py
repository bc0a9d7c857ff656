"""`python -m alignxplore`: what users do beside the workflow."""

import argparse
import time

import polars as pl

from alignxplore import cli
from alignxplore.engines.journal import account, prune


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


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(prog="python -m alignxplore", description=__doc__)
    commands = result.add_subparsers(required=True, metavar="COMMAND")
    journal = commands.add_parser("journal", help="the record of every answer of a model")
    actions = journal.add_subparsers(required=True, metavar="ACTION")
    for name, action in (("stats", journal_stats), ("prune", journal_prune)):
        command = actions.add_parser(name, help=action.__doc__, description=action.__doc__)
        command.add_argument("--directory", default="journal", help="the config's `journal` (default: %(default)s)")
        command.set_defaults(run=action)
        if name == "prune":
            command.add_argument("--keep", nargs="+", metavar="PATH", help="models, by `path`, whose answers stay")
            command.add_argument("--days", type=float, help="drop files not written to for so many days")
    return result


def main() -> None:
    """Run the command that was asked for."""
    arguments = parser().parse_args()
    cli.run(lambda: arguments.run(arguments))


if __name__ == "__main__":
    main()
