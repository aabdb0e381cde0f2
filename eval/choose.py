"""Which exit to take, given what a report measured and what you can afford."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

#: The shipped model's report.
REPORT = Path(__file__).parents[1] / "docs" / "report" / "report.json"


class NoExitFits(ValueError):
    """No exit meets what was asked for.

    Attributes:
        nearest: the exit that misses it by the least, as `choose_exit` returns one.
    """

    def __init__(self, message: str, nearest: dict[str, Any]):
        super().__init__(message)
        self.nearest = nearest


def choose_exit(
    report: dict[str, Any],
    budget_ms: float | None = None,
    max_params: float | None = None,
    min_quality: float | None = None,
    measure: str = "mrr",
    percentile: int = 50,
    sets: Sequence[str] | None = None,
) -> dict[str, Any]:
    """The exit that fits best.

    Of the exits that meet every bound: the cheapest (the shallowest), if `min_quality` is given; else the one of
    the highest quality, and of equal ones the shallowest.

    Args:
        report: as `evaluate` returns it.
        budget_ms: what one query may take at most, in milliseconds, on the machine that the report was made on.
        max_params: how many parameters a model loaded at the exit may have.
        min_quality: what `measure` must reach, as the mean over the sets.
        measure: one that all those sets hold.
        percentile: 50 or 95: of the queries' times, which is held against the budget.
        sets: which of the report's sets; None means all.

    Returns:
        `exit_layer`, `measure`, `quality`, and what the report says of its speed and costs.

    Raises:
        NoExitFits: none does.
        ValueError: no bound given, a set or measure that the report does not hold, or figures that it lacks.
    """
    if budget_ms is None and max_params is None and min_quality is None:
        raise ValueError("nothing to choose by: give budget_ms, max_params or min_quality")
    if percentile not in (50, 95):
        raise ValueError(f"percentile={percentile}: reports hold 50 and 95")
    rows = [_row(report, key, measure, sets) for key in _exits(report)]
    bounds = [
        (f"query_ms_p{percentile}", budget_ms, "ms per query", 1),
        ("parameters", max_params, "parameters", 1),
        ("quality", min_quality, measure, -1),
    ]
    excess = [0.0] * len(rows)  # by what share of the bound an exit misses it, where it does
    for field, bound, _, sign in bounds:
        if bound is None:
            continue
        if bound <= 0:
            raise ValueError(f"{field}: a bound of {bound:g} must be above 0")
        for at, row in enumerate(rows):
            if field not in row:
                raise ValueError(
                    f"the report has no {field} of exit {row['exit_layer']}; measure it without --no-speed"
                )
            excess[at] = max(excess[at], sign * (row[field] - bound) / bound)
    fitting = [row for row, missed in zip(rows, excess, strict=True) if missed <= 0]
    if fitting:
        return fitting[0] if min_quality is not None else max(fitting, key=lambda row: row["quality"])
    nearest = rows[min(range(len(rows)), key=excess.__getitem__)]
    asked = [
        f"{'at least' if sign < 0 else 'at most'} {_number(bound)} {unit}"
        for _, bound, unit, sign in bounds
        if bound is not None
    ]
    has = [f"{_number(nearest[field])} {unit}" for field, bound, unit, _ in bounds if bound is not None]
    named = f"exit {nearest['exit_layer']} with {' and '.join(has)}"
    raise NoExitFits(f"no exit has {' and '.join(asked)}; the nearest is {named}", nearest)


def mean_quality(
    report: dict[str, Any], kind: str, row: str, measure: str, sets: Sequence[str] | None = None
) -> float | None:
    """Mean over sets of a measure of one row; None where a set does not have it.

    Args:
        kind: "exits" or "peers".
    """
    values = [report["sets"][name][kind].get(row, {}).get(measure) for name in sets or report["sets"]]
    return None if None in values or not values else sum(values) / len(values)


def _exits(report: dict[str, Any]) -> list[str]:
    return sorted({key for data in report["sets"].values() for key in data["exits"]}, key=int)


def _row(report: dict[str, Any], key: str, measure: str, sets: Sequence[str] | None) -> dict[str, Any]:
    for name in sets or ():
        if name not in report["sets"]:
            raise ValueError(f"set {name!r}: the report holds {', '.join(report['sets'])}")
    quality = mean_quality(report, "exits", key, measure, sets)
    if quality is None:
        held = sorted({name for data in report["sets"].values() for of in data["exits"].values() for name in of})
        raise ValueError(f"measure {measure!r}: not all sets hold it at exit {key}; there are {', '.join(held)}")
    facts = {**report["speed"].get(key, {}), **report.get("costs", {}).get(key, {})}
    return {"exit_layer": int(key), "measure": measure, "quality": quality, **facts}


def _number(value: float) -> str:
    for size, letter in ((1e9, " G"), (1e6, " M")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"
