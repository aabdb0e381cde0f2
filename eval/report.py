"""A report as tables: plain text for a terminal, markdown for a model card.

Reads only the JSON that `mose.eval.retrieval.evaluate` returns.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

#: Column titles of measures. Others are shown by their key, with "R@" for "recall@".
TITLES = {
    "mrr": "MRR",
    "ndcg@10": "NDCG@10",
    "map@r": "MAP@R",
    "f1": "F1",
    "snippets_per_second": "snippets/s",
    "query_ms_p50": "ms/query",
    "query_ms_p95": "p95",
    "parameters": "M params",
    "flops_per_token": "MFLOP/token",
    "memory_mb": "MB",
}
SPEED = ("snippets_per_second", "query_ms_p50", "query_ms_p95")
COSTS = ("parameters", "flops_per_token", "memory_mb")


class Row(NamedTuple):
    """One row of a table: an exit, or a baseline."""

    kind: str  # key of a set's figures: "exits" or "peers"
    key: str  # exit number, or name of the baseline
    label: str


class Cell(NamedTuple):
    """One column of a table."""

    group: str  # name of a set, "speed" or "costs"
    key: str  # measure


def read_report(path: str | Path) -> dict[str, Any]:
    """Return the report that a command's `--json` stored at `path`.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not a report.
    """
    return parse_report(Path(path).read_text(encoding="utf-8"), str(path))


def parse_report(text: str, name: str) -> dict[str, Any]:
    """Return the report with the JSON `text`; `name` is for the ValueError if it is not a report."""
    try:
        report = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{name} is not JSON: {error}") from None

    check_report(report, name)
    return report


def check_report(report: Any, name: str) -> None:
    """Check that a document is a report; ValueError if it is not."""
    if not isinstance(report, Mapping) or not {"sets", "speed"} <= report.keys():
        raise ValueError(f"{name} must be a report of mose.eval, an object with 'sets' and 'speed'")

    groups = {key: report.get(key, {}) for key in ("speed", "costs")}
    sets = report["sets"] if isinstance(report["sets"], Mapping) else {"": None}
    for title, figures in sets.items():
        rows = figures if isinstance(figures, Mapping) else {"exits": None}
        groups |= {f"sets, {title}, {kind}": rows.get(kind, {}) for kind in ("exits", "peers")}
    for place, rows in groups.items():
        if not _are_figures(rows):
            raise ValueError(f"{name} must be a report of mose.eval, but {place} has no table of figures.")


def _are_figures(rows: Any) -> bool:
    """Return whether a part of a report has numbers by row and name; exits are rows with numbers for names."""
    return isinstance(rows, Mapping) and all(
        isinstance(figures, Mapping) and all(_is_figure(value) for value in figures.values())
        for figures in rows.values()
    )


def _is_figure(value: Any) -> bool:
    return value is None or isinstance(value, int | float) and math.isfinite(value)


def terminal(report: dict[str, Any], width: int = 120) -> str:
    """Return a plain-text table: exits and baselines as rows, sets × measures as columns.

    Args:
        report: from `mose.eval.retrieval.evaluate`.
        width: characters per line. Wider tables continue in a further block; one set is never split.
    """
    rows = report_rows(report)
    groups = [(name, _set_measures(report, name)) for name in report["sets"]]
    groups += _measured_groups(report).items()
    labels = ["", "", *(row.label for row in rows)]
    label_width = max(map(len, labels))
    blocks: list[list[str]] = []

    for name, keys in groups:
        columns = [[title(key), *(_format_value(report, row, Cell(name, key)) for row in rows)] for key in keys]
        lines = _aligned_lines(_group_heading(report, name), columns)

        # A set that does not fit beside the others starts a block of its own, with the labels again.
        if not blocks or len(blocks[-1][0]) + 3 + len(lines[0]) > width:
            blocks.append([label.ljust(label_width) for label in labels])
        blocks[-1] = [f"{left}   {right}" for left, right in zip(blocks[-1], lines, strict=True)]

    return "\n\n".join("\n".join(line.rstrip() for line in block) for block in blocks)


def markdown(report: dict[str, Any], metrics: Sequence[str] | None = None, details: bool = False) -> str:
    """Return markdown tables: one per measure with sets as columns, then speed and costs.

    Args:
        report: from `mose.eval.retrieval.evaluate`.
        metrics: measures to show; None means all of the report.
        details: also show bootstrap intervals, tests between exits, MRR across exits, and MRR per language, if
            the report has them.

    Raises:
        ValueError: a measure that the report does not have.
    """
    names = list(report["sets"])
    check_measures(report, metrics or ())

    tables = [
        _figures_table(report, title(metric), [Cell(name, metric) for name in names], names, details)
        for metric in metrics or report_measures(report)
    ]

    for name, keys in _measured_groups(report).items():
        cells = [Cell(name, key) for key in keys]
        tables.append(_figures_table(report, name.capitalize(), cells, [*map(title, keys)], False))

    if details:
        tables += [table for name in names for table in _detail_tables(report["sets"][name], name)]
    return "\n\n".join(tables)


def report_rows(report: dict[str, Any]) -> list[Row]:
    """Return the exits from shallow to deep, then the baselines in the order of the run."""
    sets = report["sets"].values()
    exits = sorted({key for data in sets for key in data["exits"]}, key=int)
    baselines = dict.fromkeys(key for data in sets for key in data["peers"])
    return [Row("exits", key, f"exit {key}") for key in exits] + [Row("peers", key, key) for key in baselines]


def report_measures(report: dict[str, Any]) -> list[str]:
    """Return the measures that the report has for any set."""
    return list(dict.fromkeys(key for name in report["sets"] for key in _set_measures(report, name)))


def check_measures(report: dict[str, Any], measures: Sequence[str]) -> None:
    """Check that the report has every one of `measures`.

    Raises:
        ValueError: it lacks one; the message lists those that it has.
    """
    known = report_measures(report)
    for measure in measures:
        if measure not in known:
            raise ValueError(f"measure must be one of the report's ({', '.join(known)}), got {measure!r}")


def title(key: str) -> str:
    """Return the column title of a measure."""
    return TITLES.get(key, key.replace("recall@", "R@"))


def _set_measures(report: dict[str, Any], name: str) -> list[str]:
    data = report["sets"][name]
    return list(dict.fromkeys(key for kind in ("exits", "peers") for row in data[kind].values() for key in row))


def _measured_groups(report: dict[str, Any]) -> dict[str, list[str]]:
    """Return "speed" and "costs" -> the figures that any row has, without empty groups."""
    groups = {}
    for name, keys in (("speed", SPEED), ("costs", COSTS)):
        measured = {key for figures in report.get(name, {}).values() for key in figures}
        if measured:
            groups[name] = [key for key in keys if key in measured]
    return groups


def _format_value(report: dict[str, Any], row: Row, cell: Cell, with_intervals: bool = False) -> str:
    """Return the formatted figure, or "" if the report has none."""
    # Speed and costs belong to the row alone, measures to the row and a set.
    measured = cell.group in ("speed", "costs")
    figures = report[cell.group] if measured else report["sets"][cell.group][row.kind]
    value = figures.get(row.key, {}).get(cell.key)
    if value is None:
        return ""

    if not measured:
        bounds = row_interval(report["sets"][cell.group], row, cell.key) if with_intervals else None
        return f"{value:.3f} ({bounds[0]:.3f}–{bounds[1]:.3f})" if bounds else f"{value:.3f}"
    if cell.key in ("parameters", "flops_per_token"):
        # The titles count these in millions.
        value /= 1e6
    return f"{value:,.0f}" if cell.key == "snippets_per_second" and value >= 10 else f"{value:,.1f}"


def row_interval(data: dict[str, Any], row: Row, measure: str) -> list[float] | None:
    """Return [lower, upper] of a row's measure on one set of a report, or None if it has no interval."""
    return data.get("intervals", {}).get(row.kind, {}).get(row.key, {}).get(measure)


def _group_heading(report: dict[str, Any], name: str) -> str:
    if name in ("speed", "costs"):
        return name
    data = report["sets"][name]
    return f"{name} ({data['queries']:,} → {data['documents']:,})"


def _aligned_lines(heading: str, columns: list[list[str]]) -> list[str]:
    """Return lines of equal width: the heading above right-aligned columns."""
    widths = [max(map(len, column)) for column in columns]
    lines = [
        "  ".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
        for cells in zip(*columns, strict=True)
    ]
    total = max(len(heading), len(lines[0]))
    return [heading.ljust(total), *(line.rjust(total) for line in lines)]


def _markdown_table(corner: str, columns: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> str:
    lines = [f"| {corner} | {' | '.join(columns)} |", f"|---{'|---:' * len(columns)}|"]
    return "\n".join([*lines, *(f"| {label} | {' | '.join(cells)} |" for label, cells in rows)])


def _figures_table(
    report: dict[str, Any], corner: str, cells: Sequence[Cell], headings: Sequence[str], with_intervals: bool
) -> str:
    rows = []
    for row in report_rows(report):
        values = [_format_value(report, row, cell, with_intervals) for cell in cells]
        if any(values):
            rows.append((row.label, values))
    return _markdown_table(corner, headings, rows)


def _detail_tables(data: dict[str, Any], name: str) -> Iterator[str]:
    """Yield the tables of one set's further figures, as far as the report has them."""
    rows = [
        (f"{first} and {second}", ["< 0.001" if p < 0.001 else f"{p:.3f}"])
        for first, deeper in data.get("p_values", {}).items()
        for second, p in deeper.items()
    ]
    if rows:
        yield _markdown_table(f"{name}: exits", ["p of equal reciprocal ranks"], rows)

    across = data.get("across_exits", {})
    if len(across) > 1:
        exits = list(next(iter(across.values())))
        rows = [(f"queries of exit {q}", [f"{mrr[d]:.3f}" for d in exits]) for q, mrr in across.items()]
        yield _markdown_table(f"{name}: MRR", [f"documents of exit {d}" for d in exits], rows)

    languages = data.get("languages", {})
    if len(languages) > 1:
        columns = [f"{language} ({figures['queries']})" for language, figures in languages.items()]
        rows = [
            (row.label, [f"{figures[row.kind][row.key]['mrr']:.3f}" for figures in languages.values()])
            for row in report_rows({"sets": {name: data}})
        ]
        yield _markdown_table(f"{name}: MRR by language", columns, rows)
