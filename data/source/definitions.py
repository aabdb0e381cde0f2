"""Functions and methods of a source file, with their docstrings, by tree-sitter.

A function nested in another belongs to its parent and is not listed again; methods of classes are listed. In
JavaScript a function that is little more than a wrapper of others (more than half of it is named functions: a
module in a closure) is passed over for the functions inside it. Anonymous functions are never listed.
"""

import ast
import re
import warnings
from bisect import bisect_right
from dataclasses import dataclass

from tree_sitter import Node, Parser, QueryCursor

from mose.data.source.documentation import clean_docstring
from mose.data.source.languages import DOC_COMMENT, WRAPPERS, grammar, language_of, languages, queries

__all__ = [
    "DecodeError",
    "Function",
    "ParseError",
    "anonymize",
    "extract_functions",
    "language_of",
    "languages",
]

_KEYWORDS = {"if", "else", "for", "while", "do", "switch", "catch", "return"}
_STRING = re.compile(r"(?i)[ru]{0,2}('''|\"\"\"|'|\")(.*)\1", re.DOTALL)


class ParseError(ValueError):
    """A source file that is not valid in its language."""


class DecodeError(ParseError):
    """A source file that is not UTF-8 text."""


@dataclass(frozen=True)
class Function:
    """One function or method of a source file.

    Attributes:
        name: Its bare name, without class or namespace.
        language: A key of `mose.tokenization.prompts.LANGUAGES`.
        source: Its text, decorators, annotations and documentation included, less its indentation.
        code: The same without the documentation.
        docstring: The documentation as `mose.data.source.documentation.clean_docstring` leaves it, or "".
        start_line: First line of `source` in the file, from 1.
        end_line: Last line of `source`, inclusive.
        constructor: Whether it constructs or destroys an instance of its class.
    """

    name: str
    language: str
    source: str
    code: str
    docstring: str
    start_line: int
    end_line: int
    constructor: bool = False


def extract_functions(source: bytes, language: str) -> list[Function]:
    """The functions of a source file, in the order of the file.

    Where the parser stumbles (macros, newer syntax), the functions that contain an error are left out.

    Args:
        source: The file's contents, UTF-8.
        language: One of `languages()`.

    Raises:
        DecodeError: `source` is not UTF-8.
        ParseError: the file has syntax errors, and no function without one.
    """
    source = source.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n")
    try:
        source.decode()
    except UnicodeDecodeError as error:
        raise DecodeError(f"not UTF-8 at byte {error.start}") from None
    root = Parser(grammar(language)).parse(source).root_node
    functions, comments = queries(language)
    candidates = []
    for _, captures in QueryCursor(functions).matches(root):
        node = captures["function"][0]
        name = captures["name"][0] if "name" in captures else _declared_name(node)
        if name is not None:
            candidates.append((node, name))
    candidates.sort(key=lambda pair: (pair[0].start_byte, -pair[0].end_byte))
    if language == "javascript":
        candidates = _without_closures(candidates)
    ends = {node.end_byte: node for node in QueryCursor(comments).captures(root).get("comment", ())}
    found: list[Function] = []
    covered = 0
    for node, name in candidates:
        if node.start_byte < covered or node.has_error:
            continue
        function = _read(source, node, name, language, ends)
        if function.name not in _KEYWORDS:
            found.append(function)
            covered = node.end_byte
    if root.has_error and not found:
        raise ParseError(f"not valid {language}")
    return found


def anonymize(code: str, language: str, name: str) -> str:
    """`code` with the identifier `name` replaced by `f`: whole identifiers, not words in strings or comments.

    In a language that `extract_functions` does not read, strings and comments are not told apart from code.
    """
    name = name.removesuffix("=") if language == "ruby" else name
    pattern = re.compile(rf"(?<![\w$]){re.escape(name)}(?![\w$])".encode())
    source = code.encode()
    if language not in languages():
        return pattern.sub(b"f", source).decode()
    prefix = b"<?php\n" if language == "php" else b""
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


def _declared_name(node: Node) -> Node | None:
    """The name inside the nested declarators of a C or C++ function definition."""
    declarator = node.child_by_field_name("declarator")
    while declarator is not None and not declarator.type.endswith("function_declarator"):
        declarator = declarator.child_by_field_name("declarator") or next(
            (child for child in declarator.named_children if child.type.endswith("declarator")), None
        )
    name = declarator and declarator.child_by_field_name("declarator")
    while name is not None:
        inner = name.child_by_field_name("name")
        if name.type == "parenthesized_declarator":
            inner = name.named_children[0] if name.named_children else None
        if inner is None:
            break
        name = inner
    return name


def _without_closures(candidates: list[tuple[Node, Node]]) -> list[tuple[Node, Node]]:
    """Drop the functions more than half of which is other named functions."""
    kept = []
    starts = [node.start_byte for node, _ in candidates]
    for index, (node, name) in enumerate(candidates):
        inside, end = 0, node.start_byte
        for other, _ in candidates[index + 1 : bisect_right(starts, node.end_byte)]:
            if other.start_byte >= end and other.start_byte != node.start_byte:
                inside, end = inside + other.end_byte - other.start_byte, other.end_byte
        if inside <= (node.end_byte - node.start_byte) / 2:
            kept.append((node, name))
    return kept


def _read(source: bytes, node: Node, name: Node, language: str, comment_ends: dict[int, Node]) -> Function:
    outer = node
    wrappers = WRAPPERS.get(language, ())
    while outer.parent is not None and outer.parent.type in wrappers:
        siblings = [child for child in outer.parent.named_children if child.type == outer.type]
        if len(siblings) > 1:
            break
        outer = outer.parent
    if language == "python":
        start, gap, raw = outer.start_byte, *_python_docstring(source, node)
    else:
        start, raw = _doc_comment(source, outer.start_byte, comment_ends, DOC_COMMENT[language])
        gap = (start, outer.start_byte, b"")
    text = source[start : outer.end_byte]
    cut_start, cut_end, filler = gap
    code = source[start:cut_start] + filler + source[cut_end : outer.end_byte]
    line_start = source.rfind(b"\n", 0, start) + 1
    indent = re.match(rb"[ \t]*", source[line_start:start])
    bare = name.text.decode() if name.text else ""
    return Function(
        name=bare,
        language=language,
        source=_dedent(text, indent[0] if indent else b""),
        code=_dedent(code, indent[0] if indent else b""),
        docstring=clean_docstring(raw, language),
        start_line=source.count(b"\n", 0, start) + 1,
        end_line=source.count(b"\n", 0, outer.end_byte) + 1,
        constructor=_is_constructor(node, bare, language),
    )


def _dedent(text: bytes, indent: bytes) -> str:
    first, *rest = text.decode().split("\n")
    prefix = indent.decode()
    return "\n".join([first, *(line.removeprefix(prefix) for line in rest)])


def _is_constructor(node: Node, name: str, language: str) -> bool:
    if language == "java":
        return node.type != "method_declaration"
    if language == "cpp":
        return name.startswith("~") or (node.child_by_field_name("type") is None and "operator" not in name)
    return name == {"python": "__init__", "javascript": "constructor", "ruby": "initialize",
                    "php": "__construct"}.get(language)  # fmt: skip


def _doc_comment(
    source: bytes, start: int, comment_ends: dict[int, Node], opening: re.Pattern[bytes]
) -> tuple[int, str]:
    """Where the doc comment directly above byte `start` begins (`start` if there is none), and its text."""
    begin = above = start
    comments: list[str] = []
    while True:
        window = max(0, above - 400)
        end = window + len(source[window:above].rstrip())
        comment, line_ends = comment_ends.get(end), source.count(b"\n", end, above)
        if comment is None or line_ends > 1:
            break
        above = comment.start_byte
        line_start = source.rfind(b"\n", 0, above) + 1
        if line_ends and source[line_start:above].strip():  # the comment ends a line of code
            break
        if not opening.match(source, above):  # a directive or a remark may stand below the documentation
            continue
        block = source.startswith(b"/*", above)
        if block and comments:
            break
        begin = above
        comments.insert(0, source[above:end].decode())
        if block:
            break
    return begin, "\n".join(comments)


def _python_docstring(source: bytes, node: Node) -> tuple[tuple[int, int, bytes], str]:
    """The bytes that the docstring takes up, what is to stand in their place, and the docstring's value."""
    body = node.child_by_field_name("body")
    statements = [child for child in body.named_children if child.type != "comment"] if body else []
    value = _string_value(source, statements[0]) if statements else None
    if value is None:
        return (node.end_byte, node.end_byte, b""), ""
    start, end = statements[0].start_byte, statements[0].end_byte
    if len(statements) == 1:
        return (start, end, b"pass"), value
    if semicolon := re.compile(rb"[ \t]*;[ \t]*").match(source, end):
        return (start, semicolon.end(), b""), value
    if rest := re.compile(rb"[ \t]*\n(?:[ \t]*\n)*[ \t]*").match(source, end):
        end = rest.end()
    return (start, end, b""), value


def _string_value(source: bytes, statement: Node) -> str | None:
    """The value of a statement that is nothing but a string, None for any other."""
    if statement.type != "expression_statement" or statement.named_child_count != 1:
        return None
    node: Node = statement.named_children[0]
    while node.type == "parenthesized_expression" and node.named_child_count == 1:
        node = node.named_children[0]
    if node.type not in ("string", "concatenated_string"):
        return None
    text = source[node.start_byte : node.end_byte].decode()
    try:
        with warnings.catch_warnings(action="ignore"):  # of escapes such as "\d"
            value = ast.literal_eval(f"({text})")
    except (SyntaxError, ValueError):  # an f-string, or an escape that Python refuses
        match = _STRING.fullmatch(text)
        value = match[2] if match else None
    # An escape may stand for half a surrogate pair, which is no text.
    return value.encode(errors="replace").decode() if isinstance(value, str) else None
