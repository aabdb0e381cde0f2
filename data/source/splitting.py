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


def render(source: bytes, start: int, end: int, edits: Sequence[Edit]) -> bytes:
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
    """Yield where a range can be cut, in order, each with the end of the node that follows."""
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
        else:
            line = source.rfind(b"\n", max(start, first - 400), first) + 1
            yield (line if line > start and not source[line:first].strip() else first), last

        if size(first, last) > max_bytes:
            if node.child_count:
                stack += reversed(node.children)
            else:
                yield from _token_boundaries(source, first, last, max_bytes)


def _token_boundaries(source: bytes, start: int, end: int, max_bytes: int) -> Iterator[tuple[int, int]]:
    """Yield where a long token can be cut: after lines, or between the characters of a long line."""
    while start < end:
        stop = min(start + max_bytes, end)
        if stop < end:
            newline = source.rfind(b"\n", start, stop)
            stop = newline + 1 if newline >= start else stop
            while source[stop] & 0xC0 == 0x80 and stop > start + 1:  # never inside a character
                stop -= 1

        yield start, stop
        start = stop
