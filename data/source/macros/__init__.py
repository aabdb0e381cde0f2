"""Read C and C++ around the macros and conditionals that the grammars do not understand."""

import re
from collections.abc import Iterator
from functools import cache

from tree_sitter import Node, Parser, Query, Tree

from mose.data.source.languages import grammar
from mose.data.source.macros.masking import Masker
from mose.data.source.queries import captured_nodes

#: The languages that have macros.
WITH_MACROS = frozenset({"c", "cpp"})
#: Longest text of macros before a definition, in bytes.
_LONGEST_PREFIX = 400
#: Macros that stand for a bracket, such as `BEGIN_NAMESPACE`.
_BRACKET = re.compile(rb"(?:\w+_)?(?:BEGIN|END)(?![A-Za-z0-9])")
_CONDITIONAL = re.compile(rb"\n[ \t]*#[ \t]*(if|el|end)")


def parse_around_macros(source: bytes, tree: Tree, language: str) -> Tree:
    """Return a syntax tree of a C or C++ file in which spaces stand for what the grammar does not understand.

    Positions are those of `source`. A body that the parser does not take for a block even then is empty in the
    tree. Of the trees with and without masks, one with the most bodies is returned. The time is linear in the
    file's size.

    Args:
        source: the file.
        tree: its tree, which may have syntax errors.
        language: one of `WITH_MACROS`.
    """
    if not tree.root_node.has_error:
        return tree

    masker = Masker(source, _ranges_with_errors(source, tree.root_node), language)
    masked = Parser(grammar(language)).parse(masker.mask.apply()) if masker.mask.spans else tree
    unread = _unread(masker.bodies, masked, language)
    if not unread:
        return masked

    for start, end in unread:
        masker.mask.blank(start + 1, end - 1)
    emptied = Parser(grammar(language)).parse(masker.mask.apply())
    # The first of the best: a tree with fewer masks says more about what is inside.
    trees = [(masked, len(unread))]
    trees += [(other, len(_unread(masker.bodies, other, language))) for other in (emptied, tree)]
    return min(trees, key=lambda pair: pair[1])[0]


def mask_macros(source: bytes, tree: Tree, language: str) -> bytes:
    """Return a file of the same length in which spaces stand for macros, or for some a word like `for(;;)`.

    The arguments are those of `parse_around_macros`.
    """
    return Masker(source, _ranges_with_errors(source, tree.root_node), language).mask.apply()


def parsed_text(tree: Tree) -> bytes:
    """Return the text that a tree was parsed from, with its positions: what was masked is blank."""
    root = tree.root_node
    return b" " * root.start_byte + (root.text or b"")


def start_with_macros(source: bytes, parsed: bytes, start: int) -> int:
    """Return where a definition starts, with the macros before it that are blank in the parsed text.

    Macros on lines of their own belong to it if no blank line follows. Conditionals, labels and macros that begin
    or end something else do not.
    """
    window = max(0, start - _LONGEST_PREFIX)
    blank = window + len(parsed[window:start].rstrip())
    *lines, indent = source[blank:start].split(b"\n")
    begin, position = start - len(indent.lstrip()), start - len(indent)
    # A line that is only partly blank ends something else.
    for line in reversed(lines[1:] if blank else lines):
        position -= len(line) + 1
        text = line.strip()
        if not text or text.startswith(b"#") or text.endswith((b":", b";", b"\\")) or _BRACKET.match(text):
            break
        begin = position + len(line) - len(line.lstrip())
    return begin


def _unread(bodies: list[tuple[int, int]], tree: Tree, language: str) -> list[tuple[int, int]]:
    """Return the bodies that are no blocks in a tree."""
    blocks = captured_nodes(_body_query(language), tree.root_node)
    known = {(block.start_byte, block.end_byte) for _, block in blocks}
    return [body for body in bodies if body not in known]


@cache
def _body_query(language: str) -> Query:
    return Query(grammar(language), "(function_definition body: (_) @body)")


def _ranges_with_errors(source: bytes, root: Node) -> Iterator[tuple[int, int]]:
    """Yield the ranges of a file outside the blocks that were parsed without errors; their braces are inside."""
    start = 0
    stack = [root]
    while stack:
        node = stack.pop()
        if node.has_error:
            stack += reversed(node.children)
            continue
        block = node if node.type == "compound_statement" else node.child_by_field_name("body")
        if block is not None and source[block.start_byte] == ord("{") and _is_whole(source, block):
            yield start, block.start_byte + 1
            start = block.end_byte - 1
    yield start, len(source)


def _is_whole(source: bytes, block: Node) -> bool:
    """Return True if no conditional crosses a block's bounds, which is no error: any `#word` is a directive."""
    depth = 0
    for match in _CONDITIONAL.finditer(source, block.start_byte, block.end_byte):
        depth += {b"if": 1, b"end": -1}.get(match[1], 0)
        if depth < 0 or depth == 0 and match[1] == b"el":
            return False
    return depth == 0
