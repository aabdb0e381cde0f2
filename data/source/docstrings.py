"""Locate the documentation of definitions: docstrings inside them, or comments above them."""

import ast
import contextlib
import gc
import re
import warnings
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from tree_sitter import Node

from mose.data.source.splitting import Edit

_STRING = re.compile(r"(?i)[ru]{0,2}('''|\"\"\"|'|\")(.*)\1", re.DOTALL)
_SEMICOLON = re.compile(rb"[ \t]*;[ \t]*")
_REST_OF_LINES = re.compile(rb"[ \t]*\n(?:[ \t]*\n)*[ \t]*")


class Documentation(NamedTuple):
    """The documentation of a definition.

    Attributes:
        start: first byte of the definition's source: of its documentation, if that is above it.
        removal: the edit that removes the documentation from the source.
        text: the docstring's value, or the comments with their markers; "" if there is none.
    """

    start: int
    removal: Edit
    text: str


def doc_comment(
    source: bytes, start: int, comments: Mapping[int, tuple[int, bool]], opening: re.Pattern[bytes]
) -> Documentation:
    """Return the doc comment directly above a definition.

    Args:
        source: the file's content.
        start: first byte of the definition.
        comments: end byte of each comment and separate annotation -> its first byte, and True for an annotation.
        opening: pattern that opens a documentation comment.
    """
    begin = above = document_end = start
    texts: list[str] = []
    document_start = start

    while True:
        before = _window(source, above)
        end = above - len(before) + len(before.rstrip())
        comment, is_annotation = comments.get(end, (None, False))
        line_ends = source.count(b"\n", end, above)
        if comment is None or line_ends > 1:
            break

        above = comment
        # A comment that ends a line of code belongs to that line.
        if line_ends and _window(source, above).rpartition(b"\n")[2].strip():
            break
        if is_annotation:
            begin = above
            document_end = document_end if texts else above
            continue
        if not opening.match(source, above):  # a directive or a remark can follow the documentation
            continue

        block = source.startswith(b"/*", above)
        if block and texts:
            break

        begin = document_start = above
        texts.insert(0, source[above:end].decode())
        if block:
            break

    removal = Edit(document_start, document_end if texts else document_start, b"")
    return Documentation(begin, removal, "\n".join(texts))


def python_docstring(source: bytes, start: int, body: Node | None) -> Documentation:
    """Return the docstring at the beginning of a Python body: a block, or the module."""
    statements = (child for child in body.named_children if child.type != "comment") if body else iter(())
    first = next(statements, None)
    value = _string_value(source, first) if first else None
    if first is None or value is None:
        return Documentation(start, Edit(start, start, b""), "")

    begin, end = first.start_byte, first.end_byte
    if next(statements, None) is None and body and body.type == "block":  # a body cannot be empty
        removal = Edit(begin, end, b"pass")
    elif semicolon := _SEMICOLON.match(source, end):
        removal = Edit(begin, semicolon.end(), b"")
    elif rest := _REST_OF_LINES.match(source, end):
        removal = Edit(begin, rest.end(), b"")
    else:
        removal = Edit(begin, end, b"")
    return Documentation(start, removal, value)


def _window(source: bytes, end: int) -> bytes:
    """Return what is before a position: enough to see a gap, and bounded for files in one line."""
    return source[max(0, end - 400) : end]


@contextlib.contextmanager
def _without_collection() -> Iterator[None]:
    """Put garbage collection off: Python 3.11 fails to parse if code that it runs, or lets run, parses, too."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _string_value(source: bytes, statement: Node) -> str | None:
    """Return the value of a statement that is a string literal, and None for any other."""
    if statement.type != "expression_statement" or statement.named_child_count != 1:
        return None

    node: Node = statement.named_children[0]
    while node.type == "parenthesized_expression" and node.named_child_count == 1:
        node = node.named_children[0]
    if node.type not in ("string", "concatenated_string"):
        return None

    text = source[node.start_byte : node.end_byte].decode()
    try:
        with warnings.catch_warnings(action="ignore"), _without_collection():  # of escapes such as "\d"
            value = ast.literal_eval(f"({text})")
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # an f-string, or an invalid escape
        match = _STRING.fullmatch(text)
        value = match[2] if match else None

    # An escape can denote half a surrogate pair, which UTF-8 cannot encode.
    return value.encode(errors="replace").decode() if isinstance(value, str) else None
