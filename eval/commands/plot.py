"""`python -m mose.eval plot`: the pictures of a stored report."""

import argparse
from typing import Any

from mose.eval.commands.shared import ArgumentError, read_report


def add(commands: Any) -> None:
    plot = commands.add_parser(
        "plot",
        help="draw a stored report",
        description="Writes PNG files: quality against latency with the Pareto front of exits and peers, queries "
        "of one exit on documents of another, and quality per language, as far as the report has them.",
    )
    plot.add_argument("report", metavar="FILE", help="what --json wrote; - means stdin")
    plot.add_argument("--output-dir", required=True, metavar="DIR", help="where the files go")
    plot.add_argument("--measure", help="what to plot against latency (default: mrr, or the report's first)")
    plot.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    from mose.eval.plots import plot_report

    report = read_report(options.report)
    try:
        written = plot_report(report, options.output_dir, options.measure)
    except ValueError as error:
        raise ArgumentError(str(error)) from None
    print("\n".join(map(str, written)))
