"""Read C and C++ around the macros and conditionals that the grammars do not understand."""

import re
from collections.abc import Iterator
from functools import cache

from tree_sitter import Node, Parser, Query, QueryCursor, Tree

from mose.data.source.languages import grammar
from mose.data.source.macros.masking import Masker

_CONDITIONAL = re.compile(rb"\n[ \t]*#[ \t]*(if|el|end)")
#: The languages that have macros.
WITH_MACROS = frozenset({"c", "cpp"})


def parse_around_macros(source: bytes, tree: Tree, language: str) -> Tree:
    """Return a syntax tree of a C or C++ file in which spaces stand for what the grammar does not understand.

    Positions are those of `source`. A body that the parser does not take for a block even then is empty in the
    tree. Of the trees with and without masks, one with the most bodies is returned. The time is linear in the
    file's size.

    Args:
        source: the file.
        tree: its tree, which has syntax errors.
        language: one of `WITH_MACROS`.
    """
    masker = Masker(source, _ranges_with_errors(source, tree.root_node), language)
    spans = masker.run()
    best, unread = tree, _unread(masker.bodies, tree, language)
    for _ in range(2):
        if spans:
            other = Parser(grammar(language)).parse(masker.mask.apply(spans))
            still_unread = _unread(masker.bodies, other, language)
            if len(still_unread) <= len(unread):
                best, unread = other, still_unread
        if not unread:
            break
        spans = spans + [(start + 1, end - 1, b"") for start, end in unread]
    return best


def mask_macros(source: bytes, tree: Tree, language: str) -> bytes:
    """Return a file of the same length in which spaces stand for macros, or for some a word like `for(;;)`.

    The arguments are those of `parse_around_macros`.
    """
    masker = Masker(source, _ranges_with_errors(source, tree.root_node), language)
    return masker.mask.apply(masker.run())


def _unread(bodies: list[tuple[int, int]], tree: Tree, language: str) -> list[tuple[int, int]]:
    """Return the bodies that are no blocks in a tree."""
    blocks = QueryCursor(_block_query(language)).captures(tree.root_node).get("block", ())
    known = {(block.start_byte, block.end_byte) for block in blocks}
    return [body for body in bodies if body not in known]


@cache
def _block_query(language: str) -> Query:
    return Query(grammar(language), "(function_definition body: (_) @block)")


def _ranges_with_errors(source: bytes, root: Node) -> Iterator[tuple[int, int]]:
    """Yield the ranges of a file outside the blocks that were parsed without errors; their braces are inside."""
    start = 0
    stack = [root]
    while stack:
        node = stack.pop()
        if node.has_error:
            stack += reversed(node.children)
        elif (block := _block(node)) is not None and _has_whole_conditionals(source, block):
            yield start, block.start_byte + 1
            start = block.end_byte - 1
    yield start, len(source)


def _block(node: Node) -> Node | None:
    """Return the block that a node is or ends with."""
    if node.type == "compound_statement":
        return node
    return node.child_by_field_name("body") if node.type == "function_definition" else None


def _has_whole_conditionals(source: bytes, block: Node) -> bool:
    """Return True if no conditional crosses the bounds of a block; the parser can take `#endif` for a directive."""
    depth = 0
    for match in _CONDITIONAL.finditer(source, block.start_byte, block.end_byte):
        depth += 1 if match[1] == b"if" else -1 if match[1] == b"end" else 0
        if depth < 0 or depth == 0 and match[1] == b"el":
            return False
    return depth == 0
