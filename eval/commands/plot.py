"""`python -m mose.eval plot`: plots of a stored report."""

import argparse

from mose.eval.commands.shared import read_report_argument
from mose.utils.command_line import ArgumentError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Write PNG files: quality against latency with the Pareto front of exits and baselines, queries of one "
        "exit on documents of another, and quality per language, as far as the report has them."
    )
    parser.add_argument("report", metavar="FILE", help="report written by --json; - means stdin")
    parser.add_argument("--output-dir", required=True, metavar="DIR", help="folder of the PNG files")
    parser.add_argument("--measure", help="measure to plot against latency (default: mrr, or the report's first)")


def run(options: argparse.Namespace) -> None:
    """Draw the plots, and print the paths of the files."""
    # Needs matplotlib, an optional extra.
    from mose.eval.plots import plot_report

    report = read_report_argument(options.report)
    try:
        written = plot_report(report, options.output_dir, options.measure)
    except ValueError as error:
        raise ArgumentError(str(error)) from None

    print("\n".join(map(str, written)))
