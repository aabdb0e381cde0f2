"""`python -m mose.eval choose`: the exit that a budget allows, by a stored report."""

import argparse
import json
from typing import Any

from mose.eval.choose import REPORT, NoExitFits, choose_exit
from mose.eval.commands.shared import ArgumentError, read_report

SIZES = {"k": 1e3, "m": 1e6, "g": 1e9, "b": 1e9}


def add(commands: Any) -> None:
    choose = commands.add_parser(
        "choose",
        help="which exit to take, by a stored report",
        description="Names the exit that fits best: with --min-quality the shallowest that reaches it, else the "
        "best within the other bounds. Fails, and names the nearest, where none fits. Times are those of the "
        "machine that the report was made on.",
    )
    choose.add_argument(
        "--report", default=str(REPORT), metavar="FILE", help="what --json wrote (default: the shipped model's)"
    )
    choose.add_argument("--budget-ms", type=_above_zero, metavar="MS", help="what one query may take")
    choose.add_argument(
        "--max-params", type=_above_zero, metavar="N", help="parameters to load at most, such as 5M"
    )
    choose.add_argument("--min-quality", type=_above_zero, metavar="Q", help="what the measure must reach")
    choose.add_argument("--measure", default="mrr", help="quality is the mean of this over sets (default: mrr)")
    choose.add_argument("--sets", nargs="+", metavar="SET", help="these sets of the report (default: all)")
    choose.add_argument(
        "--percentile",
        type=int,
        choices=(50, 95),
        default=50,
        help="of the queries' times, to hold against --budget-ms (default: 50, the median)",
    )
    choose.add_argument("--json", action="store_true", help="print the exit and its figures as JSON")
    choose.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    report = read_report(options.report)
    try:
        found = choose_exit(
            report,
            options.budget_ms,
            options.max_params,
            options.min_quality,
            options.measure,
            options.percentile,
            options.sets,
        )
    except NoExitFits as error:
        if options.json:
            print(json.dumps({"exit_layer": None, "nearest": error.nearest}))
        raise
    except ValueError as error:
        raise ArgumentError(str(error)) from None
    if options.json:
        print(json.dumps(found))
        return
    facts = [f"{found['measure']} {found['quality']:.3f}"]
    if "query_ms_p50" in found:
        facts.append(f"{found['query_ms_p50']:.1f} ms per query (95 %: {found['query_ms_p95']:.1f})")
    if "parameters" in found:
        facts.append(f"{found['parameters'] / 1e6:.1f} M parameters")
    print(f"exit {found['exit_layer']}: {', '.join(facts)}")
    print(f"load it with from_pretrained(…, exit_layer={found['exit_layer']})")


def _above_zero(word: str) -> float:
    """A number above 0, with K, M, G or B behind it where that is meant."""
    factor = SIZES.get(word[-1:].lower(), 1)
    try:
        value = float(word[:-1] if factor != 1 else word) * factor
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{word!r}: give a number above 0, such as 20, 0.5 or 5M")
    return value
