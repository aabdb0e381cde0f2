"""Split long units at the statements of their syntax trees."""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

from tree_sitter import Node


class Edit(NamedTuple):
    """A byte range of a source file, and the text that takes its place in a unit."""

    start: int
    end: int
    replacement: bytes


def apply_edits(source: bytes, start: int, end: int, edits: Sequence[Edit]) -> bytes:
    """Return a byte range of a file with edits applied. They are sorted and disjoint; others are ignored."""
    texts, position = [], start
    for edit in edits[bisect_left(edits, (start,)) :]:
        if edit.end > end:
            break
        texts += [source[position : edit.start], edit.replacement]
        position = edit.end
    return b"".join([*texts, source[position:end]])


def split(
    source: bytes, node: Node, start: int, end: int, edits: Sequence[Edit], max_bytes: int
) -> list[tuple[int, int]]:
    """Split a byte range of a file into consecutive ranges of at most `max_bytes` after the edits.

    The ranges begin at statements or rows of a table, in new lines if there are any. A token that is longer is
    cut at line ends, and a longer line between characters. An edit is never split.

    Args:
        source: the file's content, UTF-8.
        node: syntax node that covers the range.
        start: first byte of the range.
        end: end of the range, exclusive.
        edits: sorted, disjoint edits.
        max_bytes: size limit, at least 4.
    """
    saved = [0, *accumulate(edit.end - edit.start - len(edit.replacement) for edit in edits)]

    def size(first: int, last: int) -> int:
        inside = saved[bisect_left(edits, (last,))] - saved[bisect_left(edits, (first,))]
        return last - first - inside

    ranges, begin = [], start
    if size(start, end) > max_bytes:
        # Most nodes of a file are outside of the range. To go down to it takes as long as it is deep.
        node = node.descendant_for_byte_range(start, end) or node
        for boundary, last in _boundaries(source, node, start, end, edits, size, max_bytes):
            # Cut here only if what follows no longer fits.
            if boundary > begin and size(begin, last) > max_bytes:
                ranges.append((begin, boundary))
                begin = boundary
    return [*ranges, (begin, end)]


def _boundaries(
    source: bytes,
    node: Node,
    start: int,
    end: int,
    edits: Sequence[Edit],
    size: Callable[[int, int], int],
    max_bytes: int,
) -> Iterator[tuple[int, int]]:
    """Yield where a range can be cut, in order, each with the end of what must follow in one piece.

    Lines are only cut if they are longer than `max_bytes`.
    """
    # Iterative: syntax trees can be deeper than Python's stack.
    stack = [node]
    while stack:
        node = stack.pop()
        first, last = max(node.start_byte, start), min(node.end_byte, end)
        if first >= last:
            continue

        edit = edits[position] if (position := bisect_left(edits, (first + 1,)) - 1) >= 0 else None
        if edit and first < edit.end:
            yield edit.start, edit.end
            if last <= edit.end:
                continue

        fits = size(first, last) <= max_bytes
        line = _line_around(source, first, start, end, max_bytes)
        boundary, line_end = line or (first, first)
        begins_line = line is None or not source[boundary:first].strip()

        if fits and begins_line:
            yield boundary, max(last, line_end)
        elif last <= line_end:
            continue
        elif node.child_count:
            stack += reversed(node.children)
        else:
            token_start = boundary if begins_line else line_end + 1
            yield from _token_boundaries(source, token_start, last, max_bytes)


def _line_around(source: bytes, position: int, start: int, end: int, max_bytes: int) -> tuple[int, int] | None:
    """Return the bounds of the line around a position, within a range; None if it is longer than `max_bytes`."""
    first = source.rfind(b"\n", max(start, position - max_bytes), position) + 1
    if not first and position - max_bytes > start:
        return None
    first = max(first, start)
    last = source.find(b"\n", position, min(first + max_bytes + 1, end))
    if last < 0 and first + max_bytes < end:
        return None
    return first, last if last >= 0 else end


def _token_boundaries(source: bytes, start: int, end: int, max_bytes: int) -> Iterator[tuple[int, int]]:
    """Yield where a long token can be cut: after lines, or between the characters of a long line."""
    while start < end:
        newline = source.find(b"\n", start, min(start + max_bytes, end))
        stop = newline + 1 or min(start + max_bytes // 4, end)
        while stop < end and source[stop] & 0xC0 == 0x80:  # never inside a character
            stop += 1

        yield start, stop
        start = stop
