"""Choosing an exit by the figures of a report and the user's bounds on time, size and quality."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from mose.eval.report import report_rows
from mose.utils.locations import package_folder

#: The shipped model's report.
REPORT = package_folder() / "docs" / "report" / "report.json"


class NoExitFits(ValueError):
    """Error for bounds that no exit meets.

    Attributes:
        nearest: the exit with the smallest relative excess, as `choose_exit` returns it.
    """

    def __init__(self, message: str, nearest: dict[str, Any]):
        super().__init__(message)
        self.nearest = nearest


class Bound(NamedTuple):
    """A limit on one figure of an exit."""

    field: str
    value: float
    unit: str
    is_minimum: bool = False

    def excess(self, figures: dict[str, Any]) -> float:
        """Return the share of the bound by which an exit misses it; 0 or less if it meets it."""
        if self.field not in figures:
            message = f"the report has no {self.field} of exit {figures['exit_layer']}"
            raise ValueError(f"{message}. Measure it without --no-speed.")
        distance = figures[self.field] - self.value
        return (-distance if self.is_minimum else distance) / self.value

    def __str__(self) -> str:
        return f"{'at least' if self.is_minimum else 'at most'} {_format_number(self.value)} {self.unit}"


def choose_exit(
    report: dict[str, Any],
    budget_ms: float | None = None,
    max_params: float | None = None,
    min_quality: float | None = None,
    measure: str = "mrr",
    percentile: int = 50,
    sets: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Return the exit that fits best.

    Among the exits that meet every bound, this is the shallowest if `min_quality` is given. Otherwise it is the
    one with the highest quality, or the shallowest of equal ones.

    Args:
        report: from `mose.eval.retrieval.evaluate`.
        budget_ms: maximum time of one query in milliseconds, on the machine that made the report.
        max_params: maximum number of parameters of a model loaded at the exit.
        min_quality: minimum of `measure`, as the mean over the sets.
        measure: one that all the sets have.
        percentile: 50 or 95; the percentile of the query times to compare with the budget.
        sets: names of sets in the report; None means all.

    Returns:
        `exit_layer`, `measure`, `quality`, and the report's speed and costs of the exit.

    Raises:
        NoExitFits: no exit meets every bound.
        ValueError: no bound is given or one is not positive, or the report lacks a set, the measure or a figure.
    """
    bounds = _bounds(budget_ms, max_params, min_quality, measure, percentile)
    keys = [row.key for row in report_rows(report) if row.kind == "exits"]
    exits = [_exit_figures(report, key, measure, sets) for key in keys]
    excess = [max(0.0, *(bound.excess(figures) for bound in bounds)) for figures in exits]

    fitting = [figures for figures, missed in zip(exits, excess, strict=True) if missed <= 0]
    if fitting:
        return fitting[0] if min_quality is not None else max(fitting, key=lambda figures: figures["quality"])

    # Nothing fits: the nearest exit is the one that misses its worst bound by the smallest share.
    nearest = exits[min(range(len(exits)), key=excess.__getitem__)]
    requested = " and ".join(map(str, bounds))
    actual = " and ".join(f"{_format_number(nearest[bound.field])} {bound.unit}" for bound in bounds)
    message = f"no exit has {requested}; the nearest is exit {nearest['exit_layer']} with {actual}"
    raise NoExitFits(message, nearest)


def mean_quality(
    report: dict[str, Any], kind: str, key: str, measure: str, sets: Sequence[str] | None = None
) -> float | None:
    """Return the mean of a measure over sets (None: all), or None if a set does not have it.

    The row is an exit or a baseline: `kind` is "exits" or "peers", and `key` its number or name.
    """
    values = [report["sets"][name][kind].get(key, {}).get(measure) for name in sets or report["sets"]]
    return None if None in values or not values else sum(values) / len(values)


def _bounds(
    budget_ms: float | None, max_params: float | None, min_quality: float | None, measure: str, percentile: int
) -> list[Bound]:
    if percentile not in (50, 95):
        raise ValueError(f"percentile must be 50 or 95, got {percentile}")

    bounds = []
    if budget_ms is not None:
        bounds.append(Bound(f"query_ms_p{percentile}", budget_ms, "ms per query"))
    if max_params is not None:
        bounds.append(Bound("parameters", max_params, "parameters"))
    if min_quality is not None:
        bounds.append(Bound("quality", min_quality, measure, is_minimum=True))

    if not bounds:
        raise ValueError("no bound to choose by. Pass budget_ms, max_params or min_quality.")
    for bound in bounds:
        if bound.value <= 0:
            raise ValueError(f"the bound on {bound.field} must be above 0, got {bound.value:g}")
    return bounds


def _exit_figures(report: dict[str, Any], key: str, measure: str, sets: Sequence[str] | None) -> dict[str, Any]:
    """Return one exit's entry in the form that `choose_exit` returns."""
    for name in sets or ():
        if name not in report["sets"]:
            raise ValueError(f"set must be one of the report's ({', '.join(report['sets'])}), got {name!r}")

    quality = mean_quality(report, "exits", key, measure, sets)
    if quality is None:
        exits = (figures for data in report["sets"].values() for figures in data["exits"].values())
        known = ", ".join(sorted({name for figures in exits for name in figures}))
        message = f"not all sets have {measure!r} at exit {key}; the report has {known}"
        raise ValueError(f"{message}. Choose another measure, or name the sets.")

    measured = {**report["speed"].get(key, {}), **report.get("costs", {}).get(key, {})}
    return {"exit_layer": int(key), "measure": measure, "quality": quality, **measured}


def _format_number(value: float) -> str:
    for size, letter in ((1e9, " G"), (1e6, " M")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"
