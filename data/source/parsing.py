"""Parse source files by tree-sitter, in the dialect of their language that fits them best."""

import re
from functools import cache, partial

from tree_sitter import Parser, Query, Tree

from mose.data.source.languages import PROGRAMMING_LANGUAGES, grammar
from mose.data.source.macros import WITH_MACROS, parse_around_macros
from mose.data.source.queries import captured_nodes

_NO_LINE_END = re.compile(rb"[^\n]")


def parse_source(source: bytes, language: str) -> tuple[Tree, str]:
    """Return the syntax tree of a source file, and the language or dialect of its grammar.

    A tree with syntax errors is returned too. Of the dialects of a language, that with the fewest errors is
    chosen. In C and C++, macros and conditionals that the grammar does not understand are blank in the tree.

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
        repaired = pattern.sub(partial(_same_length, replacement), repaired)
    if repaired != source:
        tree = Parser(grammar(dialect)).parse(repaired)
        best = min(best, tree, key=lambda candidate: error_bytes(candidate, dialect))
    if dialect in WITH_MACROS:
        best = parse_around_macros(source, best, dialect)
    return best, dialect


def _same_length(template: bytes, match: re.Match[bytes]) -> bytes:
    """Return what takes the place of a match, filled up with blanks, so that positions stay the same."""
    text = match.expand(template)
    return text + _NO_LINE_END.sub(b" ", match[0][len(text) :])


def error_bytes(tree: Tree, language: str) -> int:
    """Return the number of bytes that the parser had to skip, and one for each token that it had to add."""
    if not tree.root_node.has_error:
        return 0
    errors = captured_nodes(_error_query(language), tree.root_node)
    return sum(node.end_byte - node.start_byte if name == "error" else 1 for name, node in errors)


@cache
def _error_query(language: str) -> Query:
    return Query(grammar(language), "(ERROR) @error (MISSING) @missing")
