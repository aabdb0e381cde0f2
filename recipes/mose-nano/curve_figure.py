#!/usr/bin/env python
"""Draw what curve.jsonl has: mean MRR of the development sets over the pairs seen, a line for each exit.

python recipes/mose-nano/curve_figure.py runs/mose-nano/curve.jsonl --output curve.png
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from curve import mean_mrr
from matplotlib.figure import Figure

from mose.utils.command_line import exit_status

#: Panels, and how the names of their sets begin.
PANELS = {"documentation, ten languages": ("docs-",), "text → Python": ("cosqa", "docstring-")}
PANELS |= {"code → code": ("mbxp", "java-csharp")}
COLOURS = ("#9ecae1", "#4292c6", "#2171b5", "#08306b", "#807dba", "#3f007d")


def read_curve(path: Path) -> list[dict[str, Any]]:
    """Return the points of a curve with the pairs of all stages so far; of a step written twice, the last.

    Raises:
        ValueError: the file has no point.
    """
    points: dict[tuple[str, int], dict[str, Any]] = {}
    for line in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
        points[line["stage"], line["step"]] = line
    if not points:
        raise ValueError(f"{path} has no point. Train with --develop.")

    before: dict[str, int] = {}
    for stage in dict.fromkeys(stage for stage, _ in points):
        before[stage] = sum(
            max(point["pairs"] for point in points.values() if point["stage"] == earlier) for earlier in before
        )
    return [point | {"pairs": point["pairs"] + before[point["stage"]]} for point in points.values()]


def draw(points: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw a panel for each group of sets."""
    figure = Figure(figsize=(10, 3.4), layout="constrained")
    exits = sorted({int(e) for point in points for row in point["mrr"].values() for e in row if e.isdigit()})
    for axis, (title, starts) in zip(figure.subplots(1, len(PANELS)), PANELS.items(), strict=True):
        for exit_layer, colour in zip(exits, COLOURS, strict=False):
            means = [(point["pairs"], mean_mrr(point["mrr"], str(exit_layer), starts)) for point in points]
            line = [(pairs / 1e3, mrr) for pairs, mrr in means if mrr is not None]
            axis.plot(*zip(*line, strict=True), "o-", color=colour, markersize=3, label=f"exit {exit_layer}")
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("thousand pairs seen")
        axis.grid(alpha=0.3)
    figure.axes[0].set_ylabel("MRR")
    figure.axes[0].legend(fontsize=8)
    figure.savefig(path, dpi=130)


def main() -> int:
    """Parse the arguments, draw the figure and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("curve", type=Path, help="curve.jsonl of a run")
    parser.add_argument("--output", type=Path, required=True, help="the picture, .png or .svg")

    options = parser.parse_args()
    return exit_status(parser.prog, lambda: draw(read_curve(options.curve), options.output))


if __name__ == "__main__":
    sys.exit(main())
