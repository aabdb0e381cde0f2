"""Parse source files by tree-sitter, in the dialect of their language that fits them best."""

from functools import cache

from tree_sitter import Parser, Query, QueryCursor, Tree

from mose.data.source.languages import PROGRAMMING_LANGUAGES, grammar


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
    return best, dialect


def error_bytes(tree: Tree, language: str) -> int:
    """Return the number of bytes that the parser had to skip, and one for each token that it had to add."""
    if not tree.root_node.has_error:
        return 0
    errors = QueryCursor(_error_query(language)).captures(tree.root_node)
    skipped = sum(node.end_byte - node.start_byte for node in errors.get("error", ()))
    return skipped + len(errors.get("missing", ()))


@cache
def _error_query(language: str) -> Query:
    return Query(grammar(language), "(ERROR) @error (MISSING) @missing")
