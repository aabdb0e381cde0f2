"""Read C and C++ around the macros and conditionals that the grammars do not understand."""

from collections.abc import Iterator

from tree_sitter import Node, Parser, Tree

from mose.data.source.languages import grammar
from mose.data.source.macros.masking import Masker
from mose.data.source.macros.tokens import Mask


def parse_around_macros(source: bytes, tree: Tree, language: str) -> Tree:
    """Return the syntax tree of a C or C++ file with what its grammar does not understand masked by spaces.

    Positions are those of `source`. The time is linear in the file's size.

    Args:
        source: the file.
        tree: its tree, which has syntax errors.
        language: "c" or "cpp".
    """
    masked = mask_macros(source, tree, language)
    return tree if masked is None else Parser(grammar(language)).parse(masked)


def mask_macros(source: bytes, tree: Tree, language: str) -> bytes | None:
    """Return a file of the same length in which spaces stand for macros, or None if there are none.

    The arguments are those of `parse_around_macros`. Some macros become a word that the grammar expects: a loop
    becomes `for(;;)`.
    """
    spans = Masker(source, _ranges_with_errors(source, tree.root_node), language).run()
    return Mask(source).apply(spans) if spans else None


def _ranges_with_errors(source: bytes, root: Node) -> Iterator[tuple[int, int]]:
    """Yield the ranges of a file outside the blocks that were parsed without errors; their braces are inside."""
    start = 0
    stack = [root]
    while stack:
        node = stack.pop()
        if node.has_error:
            stack += reversed(node.children)
        elif (block := _block(node)) is not None:
            yield start, block.start_byte + 1
            start = block.end_byte - 1
    yield start, len(source)


def _block(node: Node) -> Node | None:
    """Return the block that a node is or ends with."""
    if node.type == "compound_statement":
        return node
    return node.child_by_field_name("body") if node.type == "function_definition" else None
