"""`python -m mose.eval table`: a stored report as markdown."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from mose.eval.commands.shared import ArgumentError


def add(commands: Any) -> None:
    table = commands.add_parser(
        "table", help="print a stored report as markdown", description="Print a stored report as markdown."
    )
    table.add_argument("report", metavar="FILE", help="what retrieval --json wrote; - means stdin")
    table.add_argument(
        "--metrics", nargs="+", metavar="METRIC", help="which metrics, such as mrr ndcg@10 (default: all)"
    )
    table.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    from mose.eval.report import markdown

    try:
        text = sys.stdin.read() if options.report == "-" else Path(options.report).read_text(encoding="utf-8")
    except OSError as error:
        raise ArgumentError(f"{options.report}: {error.strerror}") from None
    try:
        report: Any = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{options.report}: not JSON: {error}") from None
    if not isinstance(report, dict) or not {"sets", "speed"} <= report.keys():
        raise ValueError(f"{options.report}: not a report: it must be an object with 'sets' and 'speed'")
    try:
        print(markdown(report, options.metrics))
    except ValueError as error:
        raise ArgumentError(f"--metrics: {error}") from None
