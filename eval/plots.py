"""Pictures of a report, as PNG files: quality against latency, queries and documents across exits, languages."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mose.eval.choose import mean_quality
from mose.eval.report import Row, measures_of, rows_of, title
from mose.utils.files import atomic_write

DPI = 110
EXIT_COLOUR, FRONT_COLOUR = "#1f5fa8", "#9aa5b1"
PEER_COLOURS = ("#c8553d", "#3d8361", "#8a5a9e", "#b08900", "#4a4a4a")


def plot_report(report: dict[str, Any], folder: str | Path, measure: str | None = None) -> list[Path]:
    """Writes what the report has figures for: `quality-latency.png`, `exits.png`, `languages.png`.

    Args:
        report: as `evaluate` returns it.
        folder: is made where it is not there yet.
        measure: of the first picture; None means `mrr`, or the first that the report holds. The other two show
            MRR.

    Returns:
        the files written.

    Raises:
        ValueError: a measure that the report does not hold, or a report without anything to show.
    """
    held = measures_of(report)
    measure = measure or ("mrr" if "mrr" in held or not held else held[0])
    if measure not in held:
        raise ValueError(f"measure {measure!r}: the report holds {', '.join(held)}")
    figures = {
        "quality-latency.png": quality_latency(report, measure),
        "exits.png": across_exits(report),
        "languages.png": languages(report),
    }
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, figure in figures.items():
        if figure is not None:
            with atomic_write(folder / name) as file:
                figure.savefig(file, format="png", dpi=DPI)
            written.append(folder / name)
    if not written:
        raise ValueError("the report has no speed, no second exit and no languages: there is nothing to plot")
    return written


def pareto_front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Of (cost, quality) points, which are on the front: no other is as cheap and as good, and better in one."""
    return [
        not any(
            cost <= own_cost and quality >= own_quality and (cost, quality) != (own_cost, own_quality)
            for cost, quality in points
        )
        for own_cost, own_quality in points
    ]


def quality_latency(report: dict[str, Any], measure: str = "mrr") -> Figure | None:
    """Quality against milliseconds per query: the mean over sets, then each set with its intervals.

    None where the report has no speed.
    """
    rows = [row for row in rows_of(report) if "query_ms_p50" in report["speed"].get(row[1], {})]
    if not rows:
        return None
    names = [name for name, data in report["sets"].items() if any(measure in of for of in data["exits"].values())]
    panels = ([None] if len(names) > 1 else []) + names
    figure, axes = _panels(len(panels), 4.6, 3.7)
    for axis, name in zip(axes, panels, strict=True):
        _latency_panel(axis, report, rows, measure, names if name is None else [name])
        axis.set_title(f"mean over {len(names)} sets" if name is None else name, fontsize=10)
    device, dtype = (report.get("settings", {}).get(key) for key in ("device", "dtype"))
    where = f" ({device}, {dtype})" if device else ""
    figure.suptitle(
        f"{title(measure)} against ms per query at the median{where}; line: Pareto front", fontsize=11
    )
    return figure


def across_exits(report: dict[str, Any]) -> Figure | None:
    """MRR of queries of one exit on documents of another, a heat map per set; None where no set has two exits."""
    sets = {
        name: data["across_exits"]
        for name, data in report["sets"].items()
        if len(data.get("across_exits", {})) > 1
    }
    if not sets:
        return None
    size = 1.9 + 0.55 * max(map(len, sets.values()))
    figure, axes = _panels(len(sets), size, 0.85 * size)
    for axis, (name, across) in zip(axes, sets.items(), strict=True):
        exits = list(across)
        values = [[across[q][d] for d in exits] for q in exits]
        image = axis.imshow(values, cmap="viridis")
        middle = (max(map(max, values)) + min(map(min, values))) / 2
        for y, row in enumerate(values):
            for x, value in enumerate(row):
                colour = "black" if value > middle else "white"
                axis.text(x, y, f"{value:.3f}", ha="center", va="center", color=colour, fontsize=8)
        axis.set_xticks(range(len(exits)), exits)
        axis.set_yticks(range(len(exits)), exits)
        axis.set_xlabel("document exit")
        axis.set_ylabel("query exit")
        axis.set_title(name, fontsize=10)
        figure.colorbar(image, ax=axis, shrink=0.75)
    figure.suptitle("MRR, queries of one exit on documents of another", fontsize=11)
    return figure


def languages(report: dict[str, Any]) -> Figure | None:
    """MRR per language and set, a mark per exit and peer; None where no set names its languages."""
    groups = [
        (name, language, of)
        for name, data in report["sets"].items()
        for language, of in data.get("languages", {}).items()
    ]
    if not groups:
        return None
    figure = Figure(figsize=(max(6.0, 1.8 + 0.95 * len(groups)), 4.6), layout="constrained")
    axis = figure.subplots()
    rows = rows_of(report)
    for at, row in enumerate(rows):
        kind, key, label = row
        shift = 0.7 * (at + 0.5) / len(rows) - 0.35
        points = [
            (x + shift, of[kind][key]["mrr"]) for x, (_, _, of) in enumerate(groups) if key in of.get(kind, {})
        ]
        if points:
            colour, marker = _style(rows, row)
            axis.plot(*zip(*points, strict=True), marker, color=colour, label=label, markersize=6)
    axis.set_xticks(
        range(len(groups)), [f"{language}\n{of['queries']:,}" for _, language, of in groups], fontsize=8
    )
    begun = 0
    for x, (name, _, _) in enumerate(groups):
        if not x or groups[x - 1][0] != name:  # a set begins
            axis.axvline(x - 0.5, color="#c0c0c0", linewidth=0.8)
            height = 1.01 if begun % 2 == 0 else 1.05  # long names of narrow sets stand above each other
            axis.text(x - 0.45, height, name, transform=axis.get_xaxis_transform(), fontsize=8, va="bottom")
            begun += 1
    axis.set_xlim(-0.5, len(groups) - 0.5)
    axis.grid(axis="y", alpha=0.3)
    axis.set_ylabel("MRR")
    axis.set_xlabel("language of the documents (of the queries, where those are one), number of queries")
    axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def _latency_panel(axis: Axes, report: dict[str, Any], rows: list[Row], measure: str, sets: list[str]) -> None:
    found = []
    for row in rows:
        quality = mean_quality(report, row[0], row[1], measure, sets)
        if quality is not None:
            found.append((row, report["speed"][row[1]]["query_ms_p50"], quality))
    front = pareto_front([(ms, quality) for _, ms, quality in found])
    times = [ms for _, ms, _ in found]
    middle = math.sqrt(min(times) * max(times))  # of the logarithmic axis
    for (row, ms, quality), best in zip(found, front, strict=True):
        colour, marker = _style(rows, row)
        if len(sets) == 1:
            bounds = report["sets"][sets[0]].get("intervals", {}).get(row[0], {}).get(row[1], {}).get(measure)
            if bounds:
                axis.plot([ms, ms], bounds, color=colour, linewidth=1, alpha=0.45)
        axis.plot(ms, quality, marker, color=colour, markersize=7, fillstyle="full" if best else "none")
        # Exits take turns above and below; a peer's name stays within its panel and off the front.
        if row[0] == "exits":
            label, offset, side = row[1], (0, 7 if rows.index(row) % 2 == 0 else -15), "center"
        else:
            left = ms > middle
            label, offset, side = (
                row[2],
                (8 if left else 6, 8 if left and best else -13),
                "right" if left else "left",
            )
        axis.annotate(
            label, (ms, quality), textcoords="offset points", xytext=offset, ha=side, fontsize=8, color=colour
        )
    line = sorted((ms, quality) for (_, ms, quality), best in zip(found, front, strict=True) if best)
    axis.plot(*zip(*line, strict=True), color=FRONT_COLOUR, linewidth=1.2, zorder=0)
    axis.set_xscale("log")
    axis.margins(x=0.25, y=0.12)
    steps = (1, 2, 5) if max(times) < 50 * min(times) else (1,)
    ticks = [step * 10.0**power for power in range(-3, 6) for step in steps]
    low, high = axis.get_xlim()
    axis.set_xticks([t for t in ticks if low <= t <= high])
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.minorticks_off()
    axis.grid(alpha=0.3)
    axis.set_xlabel("ms per query")
    axis.set_ylabel(title(measure))


def _style(rows: list[Row], row: Row) -> tuple[Any, str]:
    """Colour and marker: exits from light to dark, peers each their own."""
    peers = [r for r in rows if r[0] == "peers"]
    if row[0] == "peers":
        at = peers.index(row)
        return PEER_COLOURS[at % len(PEER_COLOURS)], "sD^vP"[at % 5]
    from matplotlib import colormaps

    exits = [r for r in rows if r[0] == "exits"]
    share = exits.index(row) / max(1, len(exits) - 1)
    return colormaps["Blues"](0.45 + 0.5 * share), "o"


def _panels(count: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """A figure of so many panels of that size in inches, at most three in a line."""
    columns = min(count, 3 if count != 4 else 2)
    lines = math.ceil(count / columns)
    figure = Figure(figsize=(columns * width, lines * height + 0.4), layout="constrained")
    axes = [figure.add_subplot(lines, columns, at + 1) for at in range(count)]
    return figure, axes
