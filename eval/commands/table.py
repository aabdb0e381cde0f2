"""`python -m mose.eval table`: a stored report as markdown."""

import argparse
from typing import Any

from mose.eval.commands.shared import ArgumentError, read_report


def add(commands: Any) -> None:
    table = commands.add_parser(
        "table", help="print a stored report as markdown", description="Print a stored report as markdown."
    )
    table.add_argument("report", metavar="FILE", help="what --json wrote; - means stdin")
    table.add_argument(
        "--metrics", nargs="+", metavar="METRIC", help="which metrics, such as mrr ndcg@10 (default: all)"
    )
    table.add_argument(
        "--details",
        action="store_true",
        help="with bootstrap intervals, permutation tests between exits, queries of one exit on documents of "
        "another, and languages",
    )
    table.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    from mose.eval.report import markdown

    report = read_report(options.report)
    try:
        print(markdown(report, options.metrics, options.details))
    except ValueError as error:
        raise ArgumentError(f"--metrics: {error}") from None
