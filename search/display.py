"""Indexes, hits and groups of clones in notebooks and at Python's prompt.

Names and code come from the searched trees, so all of it is escaped.
"""

from collections.abc import Mapping
from html import escape
from typing import Protocol, TypeVar

from mose.utils.terminal import printable

#: Lines of code that a notebook shows of a hit before it is unfolded.
_FIRST_LINES = 3
_CODE = '<pre style="margin:0 0 0 1em;overflow-x:auto">{}</pre>'


class ShownResult(Protocol):
    """Anything that notebooks show as HTML."""

    def _repr_html_(self) -> str: ...


Result = TypeVar("Result", bound=ShownResult)


class Results(list[Result]):
    """A list that notebooks show as HTML, one result below the other."""

    def _repr_html_(self) -> str:
        return "".join(result._repr_html_() for result in self) or "<p>Nothing.</p>"


class Place(Protocol):
    """The fields of a unit that say where it is."""

    @property
    def path(self) -> str: ...
    @property
    def start_line(self) -> int: ...
    @property
    def end_line(self) -> int: ...


def place_of(unit: Place) -> str:
    """Return the path and lines of a unit, as a terminal can show them."""
    return printable(f"{unit.path}:{unit.start_line}-{unit.end_line}")


def unit_html(title: str, place: str, code: str) -> str:
    """Return a title, a place and code that can be unfolded, as HTML."""
    lines = code.rstrip().expandtabs(4).split("\n")
    first, rest = lines[:_FIRST_LINES], lines[_FIRST_LINES:]
    shown = _CODE.format("\n".join(map(safe_html, first)))
    if rest:
        more = f"{len(rest)} more line{'s' if len(rest) > 1 else ''}"
        folded = _CODE.format("\n".join(map(safe_html, rest)))
        shown += f'<details style="margin-left:2em"><summary>{more}</summary>{folded}</details>'
    return f"<div><p><b>{safe_html(title)}</b> <code>{safe_html(place)}</code></p>{shown}</div>"


def table_html(rows: Mapping[str, str]) -> str:
    """Return names and values as a table."""
    cells = (f"<tr><th>{safe_html(name)}</th><td>{safe_html(value)}</td></tr>" for name, value in rows.items())
    return f"<table>{''.join(cells)}</table>"


def list_html(title: str, items: Mapping[str, str]) -> str:
    """Return a title, and code and words on each line below it."""
    lines = (f"<li><code>{safe_html(code)}</code> {safe_html(words)}</li>" for code, words in items.items())
    return f"<div><p>{safe_html(title)}</p><ul>{''.join(lines)}</ul></div>"


def safe_html(text: str) -> str:
    """Return text as HTML shows it, without control characters."""
    return escape(printable(text))
