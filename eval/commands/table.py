"""`python -m mose.eval table`: a stored report as markdown."""

import argparse

from mose.eval.commands.shared import read_report_argument
from mose.eval.report import markdown
from mose.utils.command_line import ArgumentError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("report", metavar="FILE", help="report written by --json; - means stdin")
    text = "metrics to show, such as mrr ndcg@10 (default: all)"
    parser.add_argument("--metrics", nargs="+", metavar="METRIC", help=text)
    text = "also show intervals, permutation tests between exits, MRR across exits, and languages"
    parser.add_argument("--details", action="store_true", help=text)


def run(options: argparse.Namespace) -> None:
    """Print the tables."""
    report = read_report_argument(options.report)

    try:
        print(markdown(report, options.metrics, options.details))
    except ValueError as error:
        raise ArgumentError(f"--metrics: {error}") from None
