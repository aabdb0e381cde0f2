"""`python -m mose.eval choose`: the exit that fits some bounds, by a stored report."""

import argparse
import json
from typing import Any

from mose.eval.choose import REPORT, NoExitFits, choose_exit
from mose.eval.commands.shared import read_report_argument
from mose.utils.command_line import ArgumentError

SIZES = {"k": 1e3, "m": 1e6, "g": 1e9, "b": 1e9}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Print the exit that fits best: with --min-quality the shallowest that reaches it, otherwise the best "
        "within the other bounds. If no exit fits, fail and name the nearest. Times are those of the report's "
        "machine."
    )
    bounds = parser.add_argument_group("bounds")
    bounds.add_argument("--budget-ms", type=_positive_number, metavar="MS", help="maximum time of one query")
    bounds.add_argument("--max-params", type=_positive_number, metavar="N", help="maximum size, such as 5M")
    bounds.add_argument("--min-quality", type=_positive_number, metavar="Q", help="minimum of the measure")

    text = "written by --json (default: the shipped model's)"
    parser.add_argument("--report", default=str(REPORT), metavar="FILE", help=text)
    text = "quality is the mean of this measure over sets (default: mrr)"
    parser.add_argument("--measure", default="mrr", help=text)
    parser.add_argument("--sets", nargs="+", metavar="SET", help="these sets of the report (default: all)")
    text = "percentile of the query times to compare with --budget-ms (default: 50, the median)"
    parser.add_argument("--percentile", type=int, choices=(50, 95), default=50, help=text)
    parser.add_argument("--json", action="store_true", help="print the exit and its figures as JSON")


def run(options: argparse.Namespace) -> None:
    """Print the exit."""
    report = read_report_argument(options.report)

    try:
        bounds = (options.budget_ms, options.max_params, options.min_quality)
        chosen = choose_exit(report, *bounds, options.measure, options.percentile, options.sets)
    except NoExitFits as error:
        # The exit code says that no exit fits; the document is for scripts that want the nearest.
        if options.json:
            print(json.dumps({"exit_layer": None, "nearest": error.nearest}))
        raise
    except ValueError as error:
        raise ArgumentError(str(error)) from None

    print(json.dumps(chosen) if options.json else _choice_text(chosen))


def _choice_text(chosen: dict[str, Any]) -> str:
    facts = [f"{chosen['measure']} {chosen['quality']:.3f}"]
    if "query_ms_p50" in chosen:
        facts.append(f"{chosen['query_ms_p50']:.1f} ms per query (95 %: {chosen['query_ms_p95']:.1f})")
    if "parameters" in chosen:
        facts.append(f"{chosen['parameters'] / 1e6:.1f} M parameters")

    exit_layer = chosen["exit_layer"]
    return f"exit {exit_layer}: {', '.join(facts)}\nload it with from_pretrained(…, exit_layer={exit_layer})"


def _positive_number(word: str) -> float:
    """Return a number above 0, with an optional suffix K, M, G or B; an argparse type."""
    factor = SIZES.get(word[-1:].lower(), 1)
    try:
        value = float(word[:-1] if factor != 1 else word) * factor
    except ValueError:
        value = 0.0

    # This refuses NaN, too.
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number above 0, such as 20, 0.5 or 5M, got {word!r}")
    return value
