"""Queries of syntax trees in linear time."""

from collections.abc import Iterator

from tree_sitter import Node, Query, QueryCursor

#: A query visits at most this many nodes at a time: its time is quadratic in the children of one node, and it
#: fails at depth 65,536.
_MAX_QUERIED_NODES = 20_000
_ANY_DEPTH = 2**32 - 1


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
