"""`python -m mose.eval card`: a stored report's figures into a model card."""

import argparse
from typing import Any

from mose.eval.commands.shared import ArgumentError, read_report


def add(commands: Any) -> None:
    card = commands.add_parser(
        "card",
        help="put a stored report's figures into a model card",
        description="Writes every exit's figures into the card's model-index, which the Hub shows. Nothing else "
        "of the card changes; figures of other data sets stay.",
    )
    card.add_argument("report", metavar="FILE", help="what --json wrote; - means stdin")
    card.add_argument("--write-card", required=True, metavar="FILE", help="the card, such as README.md")
    card.add_argument("--metrics", nargs="+", metavar="METRIC", help="which, such as mrr ndcg@10 (default: all)")
    card.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    from mose.eval.model_index import write_card

    report = read_report(options.report)
    try:
        write_card(report, options.write_card, options.metrics)
    except FileNotFoundError:
        raise ArgumentError(f"--write-card {options.write_card}: no such file") from None
