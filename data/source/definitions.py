"""Extract the functions and methods of a source file, with their documentation, by tree-sitter.

Methods of classes are listed; a function nested in another belongs to its parent and is not listed again. A
JavaScript function that is mostly a wrapper of others, such as a module in a closure, is skipped for the
functions inside it. Anonymous functions are never listed.
"""

import ast
import re
import warnings
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass

from tree_sitter import Node, Parser, QueryCursor

from mose.data.source.documentation import clean_docstring
from mose.data.source.languages import (
    PROGRAMMING_LANGUAGES,
    comment_query,
    definition_query,
    grammar,
    supported_languages,
)

#: Control-flow words that the parser's error recovery can take for function names.
_CONTROL_KEYWORDS = {"if", "else", "for", "while", "do", "switch", "catch", "return"}
_STRING = re.compile(r"(?i)[ru]{0,2}('''|\"\"\"|'|\")(.*)\1", re.DOTALL)


class ParseError(ValueError):
    """A source file that is not valid in its language."""


class DecodeError(ParseError):
    """A source file that is not UTF-8 text."""


@dataclass(frozen=True)
class Function:
    """One function or method of a source file.

    Attributes:
        name: bare name, without class or namespace.
        language: a key of `mose.tokenization.prompts.LANGUAGES`.
        source: its text without the common indentation, with decorators, annotations and documentation.
        code: `source` without the documentation.
        docstring: the documentation as `mose.data.source.documentation.clean_docstring` returns it, or "".
        start_line: first line of `source` in the file, counted from 1.
        end_line: last line of `source`, inclusive.
        constructor: True if it constructs or destroys an instance of its class.
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
    """Return the functions of a source file, in the order of the file.

    If the parser fails on a part of the file (macros, newer syntax), the functions in that part are left out.

    Args:
        source: the file's content, UTF-8.
        language: one of `mose.data.source.languages.supported_languages()`.

    Raises:
        DecodeError: `source` is not UTF-8.
        ParseError: the file has syntax errors, and no function without one.
        ValueError: functions cannot be read in `language`.
    """
    source = source.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n")
    try:
        source.decode()
    except UnicodeDecodeError as error:
        raise DecodeError(f"not UTF-8 at byte {error.start}") from None

    root = Parser(grammar(language)).parse(source).root_node
    candidates, wrappers = [], {}
    for _, captures in QueryCursor(definition_query(language)).matches(root):
        if "wrapper" in captures:
            wrappers[captures["wrapped"][0].id] = captures["wrapper"][0]
        if "definition.function" not in captures:
            continue
        node = captures["definition.function"][0]
        name = captures["name"][0] if "name" in captures else _declared_name(node)
        if name is not None:
            candidates.append((node, name))

    candidates.sort(key=lambda pair: (pair[0].start_byte, -pair[0].end_byte))
    if PROGRAMMING_LANGUAGES[language].unwraps_closures:
        candidates = _without_closures(candidates)

    comments = {
        node.end_byte: node for node in QueryCursor(comment_query(language)).captures(root).get("comment", ())
    }
    functions: list[Function] = []
    covered = 0
    for node, name in candidates:
        # Candidates are sorted: one that begins before `covered` is nested in the function before it.
        if node.start_byte < covered or node.has_error:
            continue
        function = _read_function(source, node, name, language, comments, wrappers)
        if function.name not in _CONTROL_KEYWORDS:
            functions.append(function)
            covered = node.end_byte

    if root.has_error and not functions:
        raise ParseError(f"not valid {language}")
    return functions


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


def _declared_name(node: Node) -> Node | None:
    """Return the name inside the nested declarators of a C or C++ function definition."""
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
    remaining = []
    starts = [node.start_byte for node, _ in candidates]
    for index, (node, name) in enumerate(candidates):
        inside, end = 0, node.start_byte
        for other, _ in candidates[index + 1 : bisect_right(starts, node.end_byte)]:
            if other.start_byte >= end and other.start_byte != node.start_byte:
                inside, end = inside + other.end_byte - other.start_byte, other.end_byte
        if inside <= (node.end_byte - node.start_byte) / 2:
            remaining.append((node, name))
    return remaining


def _read_function(
    source: bytes,
    node: Node,
    name: Node,
    language: str,
    comments: Mapping[int, Node],
    wrappers: Mapping[int, Node],
) -> Function:
    """Read one function; `comments` maps the end byte of each comment to its node."""
    entry, outer = PROGRAMMING_LANGUAGES[language], node
    while outer.id in wrappers:
        outer = wrappers[outer.id]

    # `cut` is the documentation's byte range in the file, and `filler` takes its place in the code.
    if entry.doc_comment is None:
        start, (cut, filler, raw) = outer.start_byte, _python_docstring(source, node)
    else:
        start, raw = _doc_comment(source, outer.start_byte, comments, entry.doc_comment)
        cut, filler = slice(start, outer.start_byte), b""

    code = source[start : cut.start] + filler + source[cut.stop : outer.end_byte]

    line_start = source.rfind(b"\n", 0, start) + 1
    indent = re.match(rb"[ \t]*", source[line_start:start])
    prefix = indent[0].decode() if indent else ""
    bare_name = name.text.decode() if name.text else ""
    return Function(
        name=bare_name,
        language=language,
        source=_dedent(source[start : outer.end_byte], prefix),
        code=_dedent(code, prefix),
        docstring=clean_docstring(raw, language),
        start_line=source.count(b"\n", 0, start) + 1,
        end_line=source.count(b"\n", 0, outer.end_byte) + 1,
        constructor=_is_constructor(node, bare_name, language),
    )


def _dedent(text: bytes, indent: str) -> str:
    first, *rest = text.decode().split("\n")
    return "\n".join([first, *(line.removeprefix(indent) for line in rest)])


def _is_constructor(node: Node, name: str, language: str) -> bool:
    if language == "cpp":  # constructors and destructors have no return type
        return name.startswith("~") or (node.child_by_field_name("type") is None and "operator" not in name)
    entry = PROGRAMMING_LANGUAGES[language]
    return name in entry.constructors or node.type in entry.constructor_nodes


def _doc_comment(
    source: bytes, start: int, comments: Mapping[int, Node], opening: re.Pattern[bytes]
) -> tuple[int, str]:
    """Return the first byte and the text of the doc comment directly above `start`; `start` and "" if none."""
    begin = above = start
    texts: list[str] = []
    while True:
        window = max(0, above - 400)
        end = window + len(source[window:above].rstrip())
        comment, line_ends = comments.get(end), source.count(b"\n", end, above)
        if comment is None or line_ends > 1:
            break

        above = comment.start_byte
        line_start = source.rfind(b"\n", 0, above) + 1
        if line_ends and source[line_start:above].strip():  # the comment ends a line of code
            break
        if not opening.match(source, above):  # a directive or a remark can follow the documentation
            continue

        block = source.startswith(b"/*", above)
        if block and texts:
            break

        begin = above
        texts.insert(0, source[above:end].decode())
        if block:
            break

    return begin, "\n".join(texts)


def _python_docstring(source: bytes, node: Node) -> tuple[slice, bytes, str]:
    """Return the byte range of a docstring, the filler that takes its place, and the docstring's value."""
    body = node.child_by_field_name("body")
    statements = [child for child in body.named_children if child.type != "comment"] if body else []
    value = _string_value(source, statements[0]) if statements else None
    if value is None:
        return slice(node.end_byte, node.end_byte), b"", ""

    start, end = statements[0].start_byte, statements[0].end_byte
    if len(statements) == 1:  # a body cannot be empty
        return slice(start, end), b"pass", value
    if semicolon := re.compile(rb"[ \t]*;[ \t]*").match(source, end):
        return slice(start, semicolon.end()), b"", value
    if rest := re.compile(rb"[ \t]*\n(?:[ \t]*\n)*[ \t]*").match(source, end):
        end = rest.end()
    return slice(start, end), b"", value


def _string_value(source: bytes, statement: Node) -> str | None:
    """Return the value of a statement that is a string literal, and None for any other."""
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
    except (SyntaxError, ValueError):  # an f-string, or an escape that Python rejects
        match = _STRING.fullmatch(text)
        value = match[2] if match else None

    # An escape can denote half a surrogate pair, which UTF-8 cannot encode.
    return value.encode(errors="replace").decode() if isinstance(value, str) else None
