"""The report of a retrieval run as tables: plain text for a terminal, markdown for a model card.

Reads the JSON that `mose.eval.retrieval.evaluate` returns, and nothing else.
"""

from collections.abc import Sequence
from typing import Any

TITLES = {"mrr": "MRR", "ndcg@10": "NDCG@10", "snippets_per_second": "snippets/s", "query_ms_p50": "ms/query"}
Cell = tuple[str, str]  # group (a set, or "speed") and key within it
Row = tuple[str, str, str]  # "exits" or "peers", key, label


def terminal(report: dict[str, Any], width: int = 120) -> str:
    """Exits and peers as rows, sets × metrics as columns, in as many blocks as the width asks for.

    Args:
        report: as `evaluate` returns it.
        width: characters per line; one set is never broken up.
    """
    rows = _rows(report)
    groups = [(name, _metrics(report, name)) for name in report["sets"]]
    if report["speed"]:
        groups.append(("speed", ["snippets_per_second", "query_ms_p50"]))
    labels = ["", "", *(label for _, _, label in rows)]
    label_width = max(map(len, labels))
    blocks: list[list[str]] = []
    for name, keys in groups:
        columns = [[_title(key), *(_value(report, row, (name, key)) for row in rows)] for key in keys]
        lines = _columns(_heading(report, name), columns)
        if not blocks or len(blocks[-1][0]) + 3 + len(lines[0]) > width:
            blocks.append([label.ljust(label_width) for label in labels])
        blocks[-1] = [f"{left}   {right}" for left, right in zip(blocks[-1], lines, strict=True)]
    return "\n\n".join("\n".join(line.rstrip() for line in block) for block in blocks)


def markdown(report: dict[str, Any], metrics: Sequence[str] | None = None) -> str:
    """One table per metric, exits and peers as rows and sets as columns, then one of the speed.

    Args:
        report: as `evaluate` returns it.
        metrics: which of the report's metrics; None means all.

    Raises:
        ValueError: a metric that the report does not hold.
    """
    names = list(report["sets"])
    stored = list(dict.fromkeys(key for name in names for key in _metrics(report, name)))
    for metric in metrics or ():
        if metric not in stored:
            raise ValueError(f"metric {metric!r}: the report holds {', '.join(stored)}")
    tables = [
        _markdown_table(report, _title(metric), [(name, metric) for name in names], names)
        for metric in metrics or stored
    ]
    if report["speed"]:
        keys = ("snippets_per_second", "query_ms_p50")
        tables.append(_markdown_table(report, "Speed", [("speed", key) for key in keys], [*map(_title, keys)]))
    return "\n\n".join(tables)


def _markdown_table(report: dict[str, Any], title: str, cells: Sequence[Cell], headings: Sequence[str]) -> str:
    lines = [f"| {title} | {' | '.join(headings)} |", f"|---{'|---:' * len(headings)}|"]
    for row in _rows(report):
        values = [_value(report, row, cell) for cell in cells]
        if any(values):
            lines.append(f"| {row[2]} | {' | '.join(values)} |")
    return "\n".join(lines)


def _rows(report: dict[str, Any]) -> list[Row]:
    """Exits from shallow to deep, then peers in the order of the run."""
    sets = report["sets"].values()
    exits = sorted({key for data in sets for key in data["exits"]}, key=int)
    peers = dict.fromkeys(key for data in sets for key in data["peers"])
    return [("exits", key, f"exit {key}") for key in exits] + [("peers", key, key) for key in peers]


def _metrics(report: dict[str, Any], name: str) -> list[str]:
    data = report["sets"][name]
    return list(dict.fromkeys(key for kind in ("exits", "peers") for row in data[kind].values() for key in row))


def _value(report: dict[str, Any], row: Row, cell: Cell) -> str:
    """The formatted figure, or "" where the report has none."""
    kind, key, _ = row
    group, name = cell
    figures = report["speed"] if group == "speed" else report["sets"][group][kind]
    value = figures.get(key, {}).get(name)
    if value is None:
        return ""
    if group != "speed":
        return f"{value:.3f}"
    return f"{value:,.0f}" if name == "snippets_per_second" and value >= 10 else f"{value:.1f}"


def _title(key: str) -> str:
    return TITLES.get(key, key.replace("recall@", "R@"))


def _heading(report: dict[str, Any], name: str) -> str:
    if name == "speed":
        return "speed"
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
