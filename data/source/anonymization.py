"""Names in code, and replacing those of functions, so that models cannot match by name."""

import re

from tree_sitter import Parser

from mose.data.source.languages import PROGRAMMING_LANGUAGES, grammar, keywords, supported_languages

_WORD = re.compile(r"[^\W\d]\w*")


def anonymize(code: str, language: str, name: str) -> str:
    """Return `code` with the identifier `name` replaced by `f`.

    Whole identifiers are replaced, not words in strings or comments. In a language that `extract_functions`
    cannot read, strings and comments are treated like code.
    """
    name = name.removesuffix("=") if language == "ruby" else name
    pattern = re.compile(rf"(?<![\w$]){re.escape(name)}(?![\w$])".encode())
    source = code.encode()
    if language not in supported_languages():
        return pattern.sub(b"f", source).decode()

    # A snippet of PHP is HTML to the parser unless it has an opening tag.
    prefix = PROGRAMMING_LANGUAGES[language].file_prefix.encode()
    root = Parser(grammar(language)).parse(prefix + source).root_node

    def rename(match: re.Match[bytes]) -> bytes:
        start, end = match.start() + len(prefix), match.end() + len(prefix)
        leaf = root.descendant_for_byte_range(start, end)
        exact = leaf is not None and (leaf.start_byte, leaf.end_byte) == (start, end)
        while leaf is not None and leaf.child_count == 1:
            leaf = leaf.children[0]
        identifier = leaf is not None and leaf.type.endswith(("identifier", "name", "constant"))
        variable = leaf is not None and leaf.parent is not None and leaf.parent.type == "variable_name"
        return b"f" if exact and identifier and not variable else match[0]

    return pattern.sub(rename, source).decode()


def identifiers_of(code: str, language: str) -> list[str]:
    """Return the names in code, each once, in their order: without keywords, strings and comments.

    Raises:
        ValueError: definitions cannot be read in `language`.
    """
    prefix = PROGRAMMING_LANGUAGES[language].file_prefix.encode() if language in PROGRAMMING_LANGUAGES else b""
    root = Parser(grammar(language)).parse(prefix + code.encode()).root_node
    reserved = keywords(language)

    names: dict[str, None] = {}
    # Iterative: syntax trees can be deeper than Python's stack.
    stack = [root]
    while stack:
        node = stack.pop()
        stack += reversed(node.children)
        if not node.child_count and node.type.endswith(("identifier", "name", "constant")) and node.text:
            word = node.text.decode()
            if _WORD.fullmatch(word) and word not in reserved:
                names[word] = None
    return list(names)
