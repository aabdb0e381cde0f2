"""Parse source files by tree-sitter, in the dialect of their language that fits them best."""

from collections.abc import Iterator
from functools import cache

from tree_sitter import Node, Parser, Query, QueryCursor, Tree

from mose.data.source.languages import PROGRAMMING_LANGUAGES, grammar

#: A query visits at most this many nodes at a time: its time is quadratic in the children of one node, and it
#: fails at depth 65,536.
_MAX_QUERIED_NODES = 20_000
_ANY_DEPTH = 2**32 - 1


def parse_source(source: bytes, language: str) -> tuple[Tree, str]:
    """Return the syntax tree of a source file, and the language or dialect of its grammar.

    A tree with syntax errors is returned too. Of the dialects of a language, that with the fewest errors is
    chosen.

    Args:
        source: the file's content, UTF-8 with line feeds.
        language: a key of `mose.data.source.languages.PROGRAMMING_LANGUAGES`.

    Raises:
        ValueError: definitions cannot be read in `language`.
    """
    best, dialect = Parser(grammar(language)).parse(source), language
    if not best.root_node.has_error:
        return best, dialect

    for other in PROGRAMMING_LANGUAGES[language].dialects:
        tree = Parser(grammar(other)).parse(source)
        if error_bytes(tree, other) < error_bytes(best, dialect):
            best, dialect = tree, other

    repaired = source
    for pattern, replacement in PROGRAMMING_LANGUAGES[dialect].repairs:
        repaired = pattern.sub(replacement, repaired)
    if repaired != source:
        tree = Parser(grammar(dialect)).parse(repaired)
        best = min(best, tree, key=lambda candidate: error_bytes(candidate, dialect))
    return best, dialect


def error_bytes(tree: Tree, language: str) -> int:
    """Return the number of bytes that the parser had to skip, and one for each token that it had to add."""
    if not tree.root_node.has_error:
        return 0
    errors = captured_nodes(_error_query(language), tree.root_node)
    return sum(node.end_byte - node.start_byte if name == "error" else 1 for name, node in errors)


def captured_nodes(query: Query, root: Node) -> Iterator[tuple[str, Node]]:
    """Yield the name and node of each capture of a query in a tree, in time linear in the tree's size."""
    for cursor, node in _query_cursors(query, root):
        for name, nodes in cursor.captures(node).items():
            for captured in nodes:
                yield name, captured


def query_matches(query: Query, root: Node) -> Iterator[tuple[int, dict[str, list[Node]]]]:
    """Yield the pattern and captures of each match of a query in a tree, in time linear in the tree's size."""
    for cursor, node in _query_cursors(query, root):
        yield from cursor.matches(node)


def _query_cursors(query: Query, root: Node) -> Iterator[tuple[QueryCursor, Node]]:
    """Yield a cursor for each subtree of bounded size, and one for each node above them alone."""
    whole, alone = QueryCursor(query), QueryCursor(query)
    whole.set_max_start_depth(_ANY_DEPTH)
    alone.set_max_start_depth(0)

    stack = [root]
    while stack:
        node = stack.pop()
        if node.descendant_count <= _MAX_QUERIED_NODES:
            # Tokens match no pattern, and a table can have a million of them.
            if node.child_count or node.is_error or node.is_missing or "comment" in node.type:
                yield whole, node
        else:
            yield alone, node
            stack += reversed(node.children)


@cache
def _error_query(language: str) -> Query:
    return Query(grammar(language), "(ERROR) @error (MISSING) @missing")
