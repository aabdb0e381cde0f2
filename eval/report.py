"""The report of an evaluation as tables: plain text for a terminal, markdown for a model card.

Reads the JSON that `mose.eval.retrieval.evaluate` returns, and nothing else.
"""

from collections.abc import Sequence
from typing import Any

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
Cell = tuple[str, str]  # group (a set, "speed" or "costs") and key within it
Row = tuple[str, str, str]  # "exits" or "peers", key, label


def terminal(report: dict[str, Any], width: int = 120) -> str:
    """Exits and peers as rows, sets × metrics as columns, in as many blocks as the width asks for.

    Args:
        report: as `evaluate` returns it.
        width: characters per line; one set is never broken up.
    """
    rows = rows_of(report)
    groups = [(name, _metrics(report, name)) for name in report["sets"]]
    groups += [(name, keys) for name, keys in _measured(report).items()]
    labels = ["", "", *(label for _, _, label in rows)]
    label_width = max(map(len, labels))
    blocks: list[list[str]] = []
    for name, keys in groups:
        columns = [[title(key), *(_value(report, row, (name, key)) for row in rows)] for key in keys]
        lines = _columns(_heading(report, name), columns)
        if not blocks or len(blocks[-1][0]) + 3 + len(lines[0]) > width:
            blocks.append([label.ljust(label_width) for label in labels])
        blocks[-1] = [f"{left}   {right}" for left, right in zip(blocks[-1], lines, strict=True)]
    return "\n\n".join("\n".join(line.rstrip() for line in block) for block in blocks)


def markdown(report: dict[str, Any], metrics: Sequence[str] | None = None, details: bool = False) -> str:
    """One table per metric, exits and peers as rows and sets as columns, then those of speed and costs.

    Args:
        report: as `evaluate` returns it.
        metrics: which of the report's metrics; None means all.
        details: with bootstrap intervals in the cells, and after that the tests between exits, queries and
            documents of different exits, and quality per language, as far as the report has them.

    Raises:
        ValueError: a metric that the report does not hold.
    """
    names = list(report["sets"])
    stored = measures_of(report)
    for metric in metrics or ():
        if metric not in stored:
            raise ValueError(f"metric {metric!r}: the report holds {', '.join(stored)}")
    tables = [
        _markdown_table(report, title(metric), [(name, metric) for name in names], names, details)
        for metric in metrics or stored
    ]
    for name, keys in _measured(report).items():
        cells = [(name, key) for key in keys]
        tables.append(_markdown_table(report, name.capitalize(), cells, [*map(title, keys)], False))
    if details:
        tables += [table for name in names for table in _details(report["sets"][name], name)]
    return "\n\n".join(tables)


def rows_of(report: dict[str, Any]) -> list[Row]:
    """Exits from shallow to deep, then peers in the order of the run."""
    sets = report["sets"].values()
    exits = sorted({key for data in sets for key in data["exits"]}, key=int)
    peers = dict.fromkeys(key for data in sets for key in data["peers"])
    return [("exits", key, f"exit {key}") for key in exits] + [("peers", key, key) for key in peers]


def measures_of(report: dict[str, Any]) -> list[str]:
    """The measures that the report holds of any set."""
    return list(dict.fromkeys(key for name in report["sets"] for key in _metrics(report, name)))


def title(key: str) -> str:
    """What tables call a measure."""
    return TITLES.get(key, key.replace("recall@", "R@"))


def grid(corner: str, columns: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> str:
    """A markdown table."""
    lines = [f"| {corner} | {' | '.join(columns)} |", f"|---{'|---:' * len(columns)}|"]
    return "\n".join([*lines, *(f"| {label} | {' | '.join(cells)} |" for label, cells in rows)])


def _markdown_table(
    report: dict[str, Any], corner: str, cells: Sequence[Cell], headings: Sequence[str], intervals: bool
) -> str:
    rows = []
    for row in rows_of(report):
        values = [_value(report, row, cell, intervals) for cell in cells]
        if any(values):
            rows.append((row[2], values))
    return grid(corner, headings, rows)


def _details(data: dict[str, Any], name: str) -> list[str]:
    """The tables of what a report has of one set beside its measures."""
    tables = []
    pairs = [(first, second, p) for first, of in data.get("p_values", {}).items() for second, p in of.items()]
    if pairs:
        rows = [(f"{first} and {second}", ["< 0.001" if p < 0.001 else f"{p:.3f}"]) for first, second, p in pairs]
        tables.append(grid(f"{name}: exits", ["p of equal reciprocal ranks"], rows))
    across = data.get("across_exits", {})
    if len(across) > 1:
        columns = list(next(iter(across.values())))
        rows = [(f"queries of exit {q}", [f"{of[d]:.3f}" for d in columns]) for q, of in across.items()]
        tables.append(grid(f"{name}: MRR", [f"documents of exit {d}" for d in columns], rows))
    languages = data.get("languages", {})
    if len(languages) > 1:
        labels = [(kind, row) for kind in ("exits", "peers") for row in data[kind]]
        rows = [
            (
                f"exit {row}" if kind == "exits" else row,
                [f"{of[kind][row]['mrr']:.3f}" for of in languages.values()],
            )
            for kind, row in labels
        ]
        columns = [f"{language} ({of['queries']})" for language, of in languages.items()]
        tables.append(grid(f"{name}: MRR by language", columns, rows))
    return tables


def _measured(report: dict[str, Any]) -> dict[str, list[str]]:
    """Which figures of speed and costs any row has."""
    found = {}
    for name, keys in (("speed", SPEED), ("costs", COSTS)):
        held = {key for figures in report.get(name, {}).values() for key in figures}
        if held:
            found[name] = [key for key in keys if key in held]
    return found


def _metrics(report: dict[str, Any], name: str) -> list[str]:
    data = report["sets"][name]
    return list(dict.fromkeys(key for kind in ("exits", "peers") for row in data[kind].values() for key in row))


def _value(report: dict[str, Any], row: Row, cell: Cell, intervals: bool = False) -> str:
    """The formatted figure, or "" where the report has none."""
    kind, key, _ = row
    group, name = cell
    measured = group in ("speed", "costs")
    figures = report[group] if measured else report["sets"][group][kind]
    value = figures.get(key, {}).get(name)
    if value is None:
        return ""
    if not measured:
        bounds = report["sets"][group].get("intervals", {}).get(kind, {}).get(key, {}).get(name)
        return f"{value:.3f} ({bounds[0]:.3f}–{bounds[1]:.3f})" if intervals and bounds else f"{value:.3f}"
    if name in ("parameters", "flops_per_token"):
        value /= 1e6
    return f"{value:,.0f}" if name == "snippets_per_second" and value >= 10 else f"{value:,.1f}"


def _heading(report: dict[str, Any], name: str) -> str:
    if name in ("speed", "costs"):
        return name
    data = report["sets"][name]
    return f"{name} ({data['queries']:,} → {data['documents']:,})"


def _columns(heading: str, columns: list[list[str]]) -> list[str]:
    """Lines of equal width: the heading over right-aligned columns."""
    widths = [max(map(len, column)) for column in columns]
    lines = [
        "  ".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
        for cells in zip(*columns, strict=True)
    ]
    total = max(len(heading), len(lines[0]))
    return [heading.ljust(total), *(line.rjust(total) for line in lines)]
