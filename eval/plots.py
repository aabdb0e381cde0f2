"""Plots of a report as PNG files: quality against latency, MRR across exits, MRR per language."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mose.eval.choose import mean_quality
from mose.eval.report import Row, check_measures, report_measures, report_rows, row_interval, title
from mose.utils.files import atomic_write

DPI = 110
FRONT_COLOUR = "#9aa5b1"
BASELINE_COLOURS, BASELINE_MARKERS = ("#c8553d", "#3d8361", "#8a5a9e", "#b08900", "#4a4a4a"), "sD^vP"


class _Point(NamedTuple):
    """One row in a plot of quality against latency."""

    row: Row
    milliseconds: float
    quality: float


def plot_report(report: dict[str, Any], folder: str | Path, measure: str | None = None) -> list[Path]:
    """Write `quality-latency.png`, `exits.png` and `languages.png`, as far as the report has their figures.

    Args:
        report: from `mose.eval.retrieval.evaluate`.
        folder: created if missing.
        measure: measure of the first plot; None means `mrr`, or the report's first. The others show MRR.

    Returns:
        The files written.

    Raises:
        ValueError: the report lacks the measure, or has nothing to plot.
    """
    known = report_measures(report)
    measure = measure or ("mrr" if "mrr" in known or not known else known[0])
    check_measures(report, [measure])
    figures = {
        "quality-latency.png": quality_latency(report, measure),
        "exits.png": exits_heat_map(report),
        "languages.png": language_chart(report),
    }

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, figure in figures.items():
        if figure is not None:
            with atomic_write(folder / name) as stream:
                figure.savefig(stream, format="png", dpi=DPI)
            written.append(folder / name)

    if not written:
        raise ValueError("nothing to plot: the report has no speed, no second exit and no languages")
    return written


def pareto_front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Return which of some (cost, quality) points no other point dominates.

    A point dominates another if it is as cheap and as good, and better in one of the two.
    """
    return [
        not any(
            cost <= own_cost and quality >= own_quality and (cost, quality) != (own_cost, own_quality)
            for cost, quality in points
        )
        for own_cost, own_quality in points
    ]


def quality_latency(report: dict[str, Any], measure: str = "mrr") -> Figure | None:
    """Plot quality against milliseconds per query: the mean over sets, then each set with its intervals.

    Returns None if the report has no speed.
    """
    rows = [row for row in report_rows(report) if "query_ms_p50" in report["speed"].get(row.key, {})]
    if not rows:
        return None

    names = [
        name for name, data in report["sets"].items() if any(measure in row for row in data["exits"].values())
    ]
    panels = [("", names)] if len(names) > 1 else []
    panels += [(name, [name]) for name in names]

    figure, axes = _panels(len(panels), 4.6, 3.7)
    for axis, (name, sets) in zip(axes, panels, strict=True):
        _plot_latency_panel(axis, report, rows, measure, sets)
        axis.set_title(name or f"mean over {len(sets)} sets", fontsize=10)

    device, dtype = (report.get("settings", {}).get(key) for key in ("device", "dtype"))
    machine = f" ({device}, {dtype})" if device else ""
    heading = f"{title(measure)} against ms per query at the median{machine}; line: Pareto front"
    figure.suptitle(heading, fontsize=11)
    return figure


def _plot_latency_panel(
    axis: Axes, report: dict[str, Any], rows: list[Row], measure: str, sets: list[str]
) -> None:
    points = []
    for row in rows:
        quality = mean_quality(report, row.kind, row.key, measure, sets)
        if quality is not None:
            points.append(_Point(row, report["speed"][row.key]["query_ms_p50"], quality))

    front = pareto_front([(point.milliseconds, point.quality) for point in points])
    times = [point.milliseconds for point in points]
    middle = math.sqrt(min(times) * max(times))  # of the logarithmic axis

    for point, on_front in zip(points, front, strict=True):
        row, ms, _ = point
        colour, marker = _row_style(rows, row)
        # An interval belongs to one set; a mean over sets has none.
        if len(sets) == 1 and (bounds := row_interval(report["sets"][sets[0]], row, measure)):
            axis.plot([ms, ms], bounds, color=colour, linewidth=1, alpha=0.45)
        fill = "full" if on_front else "none"
        axis.plot(ms, point.quality, marker, color=colour, markersize=7, fillstyle=fill)
        _label_point(axis, point, rows.index(row), colour, ms > middle, on_front)

    # The front, from fast to slow, behind the points.
    line = sorted((p.milliseconds, p.quality) for p, on_front in zip(points, front, strict=True) if on_front)
    axis.plot(*zip(*line, strict=True), color=FRONT_COLOUR, linewidth=1.2, zorder=0)
    _scale_latency_axis(axis, times)
    axis.set_ylabel(title(measure))


def _label_point(axis: Axes, point: _Point, index: int, colour: Any, right_half: bool, on_front: bool) -> None:
    # Exits alternate above and below. A baseline's name stays within its panel and off the front.
    if point.row.kind == "exits":
        label, offset, alignment = point.row.key, (0, 7 if index % 2 == 0 else -15), "center"
    elif right_half:
        label, offset, alignment = point.row.label, (8, 8 if on_front else -13), "right"
    else:
        label, offset, alignment = point.row.label, (6, -13), "left"

    position = (point.milliseconds, point.quality)
    style = {"textcoords": "offset points", "xytext": offset, "ha": alignment, "fontsize": 8, "color": colour}
    axis.annotate(label, position, **style)


def _scale_latency_axis(axis: Axes, times: list[float]) -> None:
    axis.set_xscale("log")
    axis.margins(x=0.25, y=0.12)

    # Ticks at 1, 2 and 5 would overlap on a wide axis.
    steps = (1, 2, 5) if max(times) < 50 * min(times) else (1,)
    ticks = [step * 10.0**power for power in range(-3, 6) for step in steps]
    low, high = axis.get_xlim()
    axis.set_xticks([tick for tick in ticks if low <= tick <= high])
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")

    axis.minorticks_off()
    axis.grid(alpha=0.3)
    axis.set_xlabel("ms per query")


def exits_heat_map(report: dict[str, Any]) -> Figure | None:
    """Plot the MRR of queries of one exit on documents of another, or return None if no set has two exits."""
    sets = {name: data.get("across_exits", {}) for name, data in report["sets"].items()}
    sets = {name: across for name, across in sets.items() if len(across) > 1}
    if not sets:
        return None

    size = 1.9 + 0.55 * max(map(len, sets.values()))
    figure, axes = _panels(len(sets), size, 0.85 * size)
    for axis, (name, across) in zip(axes, sets.items(), strict=True):
        exits = list(across)
        values = [[across[q][d] for d in exits] for q in exits]

        image = axis.imshow(values, cmap="viridis")
        _write_values(axis, values)
        axis.set_xticks(range(len(exits)), exits)
        axis.set_yticks(range(len(exits)), exits)
        axis.set_xlabel("document exit")
        axis.set_ylabel("query exit")
        axis.set_title(name, fontsize=10)
        figure.colorbar(image, ax=axis, shrink=0.75)

    figure.suptitle("MRR, queries of one exit on documents of another", fontsize=11)
    return figure


def _write_values(axis: Axes, values: list[list[float]]) -> None:
    middle = (max(map(max, values)) + min(map(min, values))) / 2
    for y, row in enumerate(values):
        for x, value in enumerate(row):
            colour = "black" if value > middle else "white"  # readable on light and dark cells
            axis.text(x, y, f"{value:.3f}", ha="center", va="center", color=colour, fontsize=8)


def language_chart(report: dict[str, Any]) -> Figure | None:
    """Plot the MRR per language and set, or return None if no set names its languages."""
    groups = [
        (name, language, figures)
        for name, data in report["sets"].items()
        for language, figures in data.get("languages", {}).items()
    ]
    if not groups:
        return None

    figure = Figure(figsize=(max(6.0, 1.8 + 0.95 * len(groups)), 4.6), layout="constrained")
    axis = figure.subplots()
    rows = report_rows(report)

    # Every row has its own offset within the column of a language.
    for index, row in enumerate(rows):
        shift = 0.7 * (index + 0.5) / len(rows) - 0.35
        points = [
            (x + shift, figures[row.kind][row.key]["mrr"])
            for x, (_, _, figures) in enumerate(groups)
            if row.key in figures.get(row.kind, {})
        ]
        if points:
            colour, marker = _row_style(rows, row)
            axis.plot(*zip(*points, strict=True), marker, color=colour, label=row.label, markersize=6)

    labels = [f"{language}\n{figures['queries']:,}" for _, language, figures in groups]
    axis.set_xticks(range(len(groups)), labels, fontsize=8)
    _separate_sets(axis, [name for name, _, _ in groups])

    axis.set_xlim(-0.5, len(groups) - 0.5)
    axis.grid(axis="y", alpha=0.3)
    axis.set_ylabel("MRR")
    axis.set_xlabel("language of the documents (of the queries if all documents share one), number of queries")
    axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def _separate_sets(axis: Axes, names: list[str]) -> None:
    """Draw a line and the name of the set before its first language."""
    starts = [x for x, name in enumerate(names) if not x or names[x - 1] != name]
    for index, x in enumerate(starts):
        axis.axvline(x - 0.5, color="#c0c0c0", linewidth=0.8)
        height = 1.01 if index % 2 == 0 else 1.05  # names of narrow sets would overlap on one line
        axis.text(x - 0.45, height, names[x], transform=axis.get_xaxis_transform(), fontsize=8, va="bottom")


def _row_style(rows: list[Row], row: Row) -> tuple[Any, str]:
    """Return colour and marker: exits from light to dark, one colour for each baseline."""
    index = [other for other in rows if other.kind == row.kind].index(row)
    if row.kind == "peers":
        return BASELINE_COLOURS[index % len(BASELINE_COLOURS)], BASELINE_MARKERS[index % len(BASELINE_MARKERS)]

    # The palest blues of the colour map are hard to see on white.
    exits = sum(other.kind == "exits" for other in rows)
    return colormaps["Blues"](0.45 + 0.5 * index / max(1, exits - 1)), "o"


def _panels(count: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """Return a figure with panels of the given size in inches, at most three in a line."""
    columns = min(count, 3 if count != 4 else 2)
    lines = math.ceil(count / columns)
    figure = Figure(figsize=(columns * width, lines * height + 0.4), layout="constrained")
    axes = [figure.add_subplot(lines, columns, index + 1) for index in range(count)]
    return figure, axes
