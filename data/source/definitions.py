"""Read the definitions of a source file as units: functions, classes, and the file around them.

A function in another function belongs to it and is not listed again, unless the outer one is long or little more
than a closure around named functions. Anonymous functions are never listed. A container shows its members as
signatures. Syntax errors cost nothing but the definitions that the parser cannot see.
"""

import re
from bisect import bisect_left
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np

from mose.data.source.definition_tree import Definition, SourceTree
from mose.data.source.documentation import clean_docstring
from mose.data.source.splitting import Edit, apply_edits, split
from mose.data.source.units import CONTAINERS, FUNCTIONS, Unit

#: Longest header line of a part, in characters.
_MAX_HEADER = 200
_VISIBLE_ASCII = re.compile(rb"[!-~]")
_INDENT = re.compile(rb"[ \t]*")


def extract_units(
    source: bytes,
    language: str,
    *,
    file_name: str = "",
    max_characters: int | None = None,
    on_errors: Callable[[int], None] | None = None,
) -> list[Unit]:
    """Return the units of a source file, in the order of the file; a container precedes its members.

    The file itself is a unit if it has code outside any definition. Imports alone are none.

    Args:
        source: the file's content, UTF-8 with line feeds.
        language: one of `mose.data.source.languages.supported_languages()`.
        file_name: the name of the file's unit.
        max_characters: split longer units at statements, and list the definitions in longer functions. Characters
            are counted as bytes of UTF-8. None never splits.
        on_errors: called with the number of bytes that the parser did not understand, if there are any.

    Raises:
        ValueError: definitions cannot be read in `language`, `source` is not UTF-8, or `max_characters` is below
            100.
    """
    if max_characters is not None and max_characters < 100:
        raise ValueError(f"max_characters must be at least 100, got {max_characters}. Pass None never to split.")
    file = SourceTree(source, language, file_name)
    if file.has_errors and on_errors is not None:
        on_errors(file.error_bytes)
    reader = _UnitReader(file, max_characters)
    units: list[Unit] = []
    # Iterative: definitions can be nested deeper than Python's stack.
    stack = [reader.file.root]
    while stack:
        definition = stack.pop()
        units += reader.units(definition)
        if reader.lists_members(definition):
            stack += reversed(definition.members)
    return units


def extract_functions(
    source: bytes, language: str, *, on_errors: Callable[[int], None] | None = None
) -> list[Unit]:
    """Return the functions and methods of a source file that have a body, in the order of the file.

    A function that is mostly other functions is left out for those inside it. Arguments and errors are those of
    `extract_units`.
    """
    file = SourceTree(source, language)
    if file.has_errors and on_errors is not None:
        on_errors(file.error_bytes)
    reader = _UnitReader(file, None)
    units: list[Unit] = []
    stack = [file.root]
    while stack:
        definition = stack.pop()
        if definition.kind not in FUNCTIONS or file.is_closure(definition):
            stack += reversed(definition.members)
        elif not definition.bodiless:
            units += reader.units(definition)
    return units


class _UnitReader:
    """Turns definitions of one file into units."""

    def __init__(self, file: SourceTree, max_bytes: int | None):
        self.file, self.source, self.max_bytes = file, file.source, max_bytes

    def lists_members(self, definition: Definition) -> bool:
        """Return True if the members of a definition are units of their own."""
        return definition.kind in CONTAINERS or self._is_long(definition) or self.file.is_closure(definition)

    def units(self, definition: Definition) -> list[Unit]:
        """Return a definition as one unit, or as parts if it is long. A file without code of its own has none."""
        if definition.kind == "file" and not self.file.narrow_to_own_code():
            return []

        edits: list[Edit] = []
        if self.lists_members(definition):
            edits = [Edit(m.documentation.start, m.end, self._signature(m)) for m in definition.members]
        removal = definition.documentation.removal
        code_edits = sorted([*edits, removal]) if removal.start < removal.end else edits

        text = definition.documentation.text
        ranges = self._ranges(definition, edits)
        common = {
            "kind": definition.kind,
            "name": definition.name,
            "qualified_name": definition.qualified_name,
            "language": self.file.language,
            "docstring": clean_docstring(text, self.file.language) if text else "",
            "constructor": self.file.is_constructor(definition),
            "parts": len(ranges),
        }
        return [
            self._part(common, part, bounds, edits, code_edits, self._header(definition) if part > 1 else "")
            for part, bounds in enumerate(ranges, 1)
        ]

    def _ranges(self, definition: Definition, edits: list[Edit]) -> list[tuple[int, int]]:
        """Return the byte ranges of a definition's parts, without those that are blank."""
        start, end = definition.documentation.start, definition.end
        ranges = [(start, end)]
        if self.max_bytes is not None and self._is_long(definition):
            ranges = split(self.source, self.file.tree.root_node, start, end, edits, self.max_bytes)
            ranges = [self._trim(*bounds) for bounds in ranges]
        return [bounds for bounds in ranges if not self._is_blank(*bounds)]

    def _is_blank(self, start: int, end: int) -> bool:
        # Only text without a visible ASCII character has to be decoded.
        return not (_VISIBLE_ASCII.search(self.source, start, end) or self.source[start:end].decode().strip())

    def _part(
        self,
        common: dict[str, Any],
        part: int,
        bounds: tuple[int, int],
        edits: list[Edit],
        code_edits: list[Edit],
        header: str,
    ) -> Unit:
        """Return one part of a unit: its texts and lines."""
        source = self._text(bounds, edits, header)
        code = source if code_edits is edits else self._text(bounds, code_edits, header)
        start_line, end_line = (bisect_left(self._line_ends, position) + 1 for position in bounds)
        return Unit(**common, source=source, code=code, start_line=start_line, end_line=end_line, part=part)

    @cached_property
    def _line_ends(self) -> list[int]:
        return np.flatnonzero(np.frombuffer(self.source, np.uint8) == ord("\n")).tolist()

    def _is_long(self, definition: Definition) -> bool:
        size = definition.end - definition.documentation.start
        return self.max_bytes is not None and size > self.max_bytes

    def _trim(self, start: int, end: int) -> tuple[int, int]:
        """Return a range without white space at its ends."""
        text = self.source[start:end]
        return end - len(text.lstrip()), start + len(text.rstrip())

    def _text(self, bounds: tuple[int, int], edits: list[Edit], header: str) -> str:
        """Return the text of a range without the indentation of its first line."""
        start, end = bounds
        line_start = self._line_ends[line - 1] + 1 if (line := bisect_left(self._line_ends, start)) else 0
        indent = _INDENT.match(self.source, line_start, start)
        prefix = indent[0].decode() if indent else ""

        text = apply_edits(self.source, start, end, edits).decode()
        text = text.replace("\n" + prefix, "\n") if prefix else text
        return f"{header}\n{text}" if header else text

    def _signature(self, definition: Definition) -> bytes:
        """Return a definition up to its body."""
        body = definition.body
        if body is None or body.start_byte <= definition.start:
            return self.source[definition.start : definition.end]
        return self.source[definition.start : body.start_byte].rstrip() + b" ..."

    def _header(self, definition: Definition) -> str:
        """Return the line that repeats in later parts of a unit where they belong."""
        if definition.kind == "file":
            return f"{definition.name} ..." if definition.name else ""
        signature = " ".join(self._signature(definition).decode().split())
        owner = definition.qualified_name.rpartition(".")[0]
        return f"{owner}: {signature}"[:_MAX_HEADER] if owner else signature[:_MAX_HEADER]
