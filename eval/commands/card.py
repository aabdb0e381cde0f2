"""`python -m mose.eval card`: put a stored report's figures into a model card."""

import argparse

from mose.eval.commands.shared import read_report_argument
from mose.utils.command_line import ArgumentError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Write every exit's figures into the card's model-index, which the Hub shows. Nothing else of the card "
        "changes; figures of other datasets stay."
    )
    parser.add_argument("report", metavar="FILE", help="report written by --json; - means stdin")
    parser.add_argument("--write-card", required=True, metavar="FILE", help="the card, such as README.md")
    text = "metrics to write, such as mrr ndcg@10 (default: all)"
    parser.add_argument("--metrics", nargs="+", metavar="METRIC", help=text)


def run(options: argparse.Namespace) -> None:
    """Update the card."""
    # Slow to import.
    from mose.eval.model_index import update_card

    report = read_report_argument(options.report)

    try:
        update_card(report, options.write_card, options.metrics)
    except FileNotFoundError:
        raise ArgumentError(f"--write-card {options.write_card}: no such file") from None
