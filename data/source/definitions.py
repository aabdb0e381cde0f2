"""Read the definitions of a source file as units: functions, classes, and the file around them.

A function in another function belongs to it and is not listed again, unless the outer one is long or little more
than a closure around named functions. Anonymous functions are never listed. A container shows its members as
signatures. Syntax errors cost nothing but the definitions that the parser cannot see.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property

from tree_sitter import Node

from mose.data.source.declarators import declared_name
from mose.data.source.docstrings import Documentation, doc_comment, python_docstring
from mose.data.source.documentation import clean_docstring
from mose.data.source.languages import (
    PROGRAMMING_LANGUAGES,
    definition_query,
    supported_languages,
)
from mose.data.source.macros import WITH_MACROS, parsed_text, start_with_macros
from mose.data.source.parsing import parse_source
from mose.data.source.queries import query_matches
from mose.data.source.splitting import Edit, apply_edits, split
from mose.data.source.units import CONTAINERS, KINDS, Unit

_FUNCTIONS = frozenset({"function", "method"})
#: Captures that qualify the names of other definitions without being units.
_SCOPES = frozenset({"scope", "extension", "package"})
#: Definitions in which functions are methods.
_CLASSES = frozenset({"class", "struct", "interface", "trait", "enum", "extension"})
_KNOWN_KINDS = frozenset(KINDS) | _SCOPES | {"declaration"}
#: Control-flow words that the parsers' error recovery takes for names, in languages where they cannot be names.
_CONTROL_KEYWORDS = frozenset({"if", "else", "for", "while", "do", "switch", "catch", "return"})
_RESERVES_CONTROL_KEYWORDS = frozenset({"c", "cpp", "csharp", "java"})
#: Fields that lead from a definition's node to the function or class that it names.
_VALUE_FIELDS = ("value", "right", "type", "definition")
#: How the types of bodies end in grammars that give them no field.
_BODY_TYPES = ("body", "_block", "declaration_list")
#: Longest qualifier of a name, in characters.
_MAX_QUALIFIER = 500
#: Longest header line of a part, in characters.
_MAX_HEADER = 200
_INDENT = re.compile(rb"[ \t]*")
_LICENSE = re.compile(r"(?i)\b(?:copyright|licen[cs]ed?|spdx)\b")


@dataclass(eq=False)
class Definition:
    """A definition in the syntax tree of a file.

    Attributes:
        kind: one of `mose.data.source.units.KINDS`.
        name: bare name.
        qualified_name: the names around it and its own, joined by dots.
        node: its syntax node.
        documentation: its documentation, and where its source begins with it.
        start: first byte, with decorators and the like around the node, but without documentation above it.
        end: end, exclusive.
        bodiless: a function that is declared, not defined.
        members: the definitions directly inside it, in order.
    """

    kind: str
    name: str
    qualified_name: str
    node: Node
    documentation: Documentation
    start: int
    end: int
    bodiless: bool = False
    members: list["Definition"] = field(default_factory=list)

    @property
    def is_closure(self) -> bool:
        """True if it is mostly other definitions: a module in a closure."""
        return 2 * sum(member.end - member.start for member in self.members) > self.end - self.start

    @property
    def body(self) -> Node | None:
        """The node after its signature; None if it has none."""
        node: Node | None = self.node
        while node is not None:
            if body := node.child_by_field_name("body") or _body_without_a_field(node):
                return body
            node = next((child for name in _VALUE_FIELDS if (child := node.child_by_field_name(name))), None)
        return None


def extract_units(
    source: bytes, language: str, *, file_name: str = "", max_characters: int | None = None
) -> list[Unit]:
    """Return the units of a source file, in the order of the file; a container precedes its members.

    The file itself is a unit if it has code outside any definition. Imports alone are none.

    Args:
        source: the file's content, UTF-8 with line feeds.
        language: one of `mose.data.source.languages.supported_languages()`.
        file_name: the name of the file's unit.
        max_characters: split longer units at statements, and list the definitions in longer functions. Characters
            are counted as bytes of UTF-8. None never splits.

    Raises:
        ValueError: definitions cannot be read in `language`, `source` is not UTF-8, or `max_characters` is below
            100.
    """
    if max_characters is not None and max_characters < 100:
        raise ValueError(f"max_characters must be at least 100, got {max_characters}. Pass None never to split.")
    file = SourceTree(source, language, file_name, max_characters)
    units: list[Unit] = []
    # Iterative: definitions can be nested deeper than Python's stack.
    stack = [file.root]
    while stack:
        definition = stack.pop()
        units += file.units(definition)
        if file.lists_members(definition):
            stack += reversed(definition.members)
    return units


def extract_functions(source: bytes, language: str) -> list[Unit]:
    """Return the functions and methods of a source file that have a body, in the order of the file.

    A function that is mostly other functions is left out for those inside it. Arguments and errors are those of
    `extract_units`.
    """
    file = SourceTree(source, language)
    units: list[Unit] = []
    stack = [file.root]
    while stack:
        definition = stack.pop()
        if definition.kind not in _FUNCTIONS or file.is_closure(definition):
            stack += reversed(definition.members)
        elif not definition.bodiless:
            units += file.units(definition)
    return units


class SourceTree:
    """The definitions of one source file. Its arguments are those of `extract_units`.

    Attributes:
        root: the file as a definition, with those inside it as members.
        has_errors: the parser did not understand all of the file.
    """

    def __init__(self, source: bytes, language: str, file_name: str = "", max_characters: int | None = None):
        if language not in supported_languages():
            raise ValueError(f"language must be one of {', '.join(supported_languages())}, got {language!r}.")
        source.decode()  # raises UnicodeDecodeError, a ValueError
        self.source, self.language, self.max_bytes = source, language, max_characters
        self.tree, self.dialect = parse_source(source, language)
        self.entry = PROGRAMMING_LANGUAGES[self.dialect]
        self.has_errors = self.tree.root_node.has_error

        nothing = Documentation(0, Edit(0, 0, b""), "")
        self.root = Definition("file", file_name, file_name, self.tree.root_node, nothing, 0, len(source))
        #: End byte of each comment and separate annotation -> its first byte, and True for an annotation.
        self._comments: dict[int, tuple[int, bool]] = {}
        self._scopes: set[tuple[int, int]] = set()
        self._add_definitions()

    def lists_members(self, definition: Definition) -> bool:
        """Return True if the members of a definition are units of their own."""
        return definition.kind in CONTAINERS or self._is_long(definition) or self.is_closure(definition)

    def is_closure(self, definition: Definition) -> bool:
        """Return True if a function only encloses others, in a language in which modules look so."""
        return self.entry.unwraps_closures and definition.is_closure

    def units(self, definition: Definition) -> list[Unit]:
        """Return a definition as one unit, or as parts if it is long. A file without code of its own has none."""
        if definition.kind == "file" and not self._find_own_code(definition):
            return []

        edits: list[Edit] = []
        if self.lists_members(definition):
            edits = [Edit(m.documentation.start, m.end, self._signature(m)) for m in definition.members]
        start, end, removal = definition.documentation.start, definition.end, definition.documentation.removal
        ranges = [(start, end)]
        if self.max_bytes is not None and self._is_long(definition):
            ranges = split(self.source, self.tree.root_node, start, end, edits, self.max_bytes)
            ranges = [self._trim(*bounds) for bounds in ranges]
        ranges = [bounds for bounds in ranges if self.source[slice(*bounds)].decode().strip()]

        header = self._header(definition) if len(ranges) > 1 else ""
        text = definition.documentation.text
        common = Unit(
            definition.kind, definition.name, definition.qualified_name, self.language, "", "",
            clean_docstring(text, self.language) if text else "", 0, 0, self._is_constructor(definition),
        )  # fmt: skip
        units = []
        for part, bounds in enumerate(ranges, 1):
            source = code = self._text(bounds, edits, header if part > 1 else "")
            if removal.start < removal.end:
                code = self._text(bounds, sorted([*edits, removal]), header if part > 1 else "")
            start_line, end_line = (bisect_left(self._line_ends, position) + 1 for position in bounds)
            place = {"start_line": start_line, "end_line": end_line, "part": part, "parts": len(ranges)}
            units.append(replace(common, source=source, code=code, **place))
        return units

    @cached_property
    def _line_ends(self) -> list[int]:
        return [match.start() for match in re.finditer(b"\n", self.source)]

    def _trimmed_end(self, node: Node) -> int:
        """Return the end of a node without the line ends that some grammars count in."""
        end = node.end_byte
        while end > node.start_byte and self.source[end - 1] in b" \t\n":
            end -= 1
        return end

    def _is_long(self, definition: Definition) -> bool:
        size = definition.end - definition.documentation.start
        return self.max_bytes is not None and size > self.max_bytes

    def _trim(self, start: int, end: int) -> tuple[int, int]:
        """Return a range without white space at its ends."""
        text = self.source[start:end]
        return end - len(text.lstrip()), start + len(text.rstrip())

    def _text(self, bounds: tuple[int, int], edits: list[Edit], header: str) -> str:
        """Return the text of a range without the indentation of its first line."""
        start, end = bounds
        line_start = self._line_ends[line - 1] + 1 if (line := bisect_left(self._line_ends, start)) else 0
        indent = _INDENT.match(self.source, line_start, start)
        prefix = indent[0].decode() if indent else ""

        first, *rest = apply_edits(self.source, start, end, edits).decode().split("\n")
        lines = [first, *(line.removeprefix(prefix) for line in rest)]
        return "\n".join([header, *lines] if header else lines)

    def _signature(self, definition: Definition) -> bytes:
        """Return a definition up to its body."""
        body = definition.body
        if body is None or body.start_byte <= definition.start:
            return self.source[definition.start : definition.end]
        return self.source[definition.start : body.start_byte].rstrip() + b" ..."

    def _header(self, definition: Definition) -> str:
        """Return the line that repeats in later parts of a unit where they belong."""
        if definition.kind == "file":
            return f"{definition.name} ..." if definition.name else ""
        signature = " ".join(self._signature(definition).decode().split())
        owner = definition.qualified_name.rpartition(".")[0]
        return f"{owner}: {signature}"[:_MAX_HEADER] if owner else signature[:_MAX_HEADER]

    def _is_constructor(self, definition: Definition) -> bool:
        name, node = definition.name, definition.node
        if definition.kind not in _FUNCTIONS:
            return False
        if self.language == "cpp":
            return name.startswith("~") or f".{definition.qualified_name}".endswith(f".{name}.{name}")
        return name in self.entry.constructors or node.type in self.entry.constructor_nodes

    def _find_documentation(self, node: Node, start: int) -> Documentation:
        if self.entry.doc_comment is None:
            return python_docstring(self.source, start, node.child_by_field_name("body") or node)
        return doc_comment(self.source, start, self._comments, self.entry.doc_comment)

    def _add_definitions(self) -> None:
        """Attach the definitions that the language's query captures to the definitions around them."""
        # What encloses the next definition: its end, kind and qualified name, and the unit that it belongs to.
        stack: list[tuple[int, str, str, Definition]] = [(len(self.source), "file", "", self.root)]
        package = ""
        for start, end, kind, node, name, scope in self._captured():
            while end > stack[-1][0]:
                stack.pop()
            _, outer_kind, qualifier, owner = stack[-1]
            # Bounded, since names of 50,000 nested functions would take quadratic space.
            qualifier = (qualifier or package)[-_MAX_QUALIFIER:]
            qualified_name = ".".join(filter(None, [qualifier, scope, name]))

            if kind == "package":
                package = ".".join(filter(None, [qualifier, name]))
            elif kind in _SCOPES:
                self._scopes.add((start, end))
                stack.append((end, kind, qualified_name, owner))
            else:
                bodiless = kind == "declaration"
                if kind in ("function", "declaration"):
                    kind = "method" if outer_kind in _CLASSES else "function"
                documentation = self._find_documentation(node, start)
                if documentation.text or not bodiless:
                    names = kind, name, qualified_name
                    definition = Definition(*names, node, documentation, start, end, bodiless)
                    owner.members.append(definition)
                    stack.append((end, kind, qualified_name, definition))

    def _captured(self) -> list[tuple[int, int, str, Node, str, str]]:
        """Return start, end, kind, node, name and scope of each captured definition, outermost first."""
        wrappers: dict[int, Node] = {}
        captured: dict[int, tuple[int, str, dict[str, list[Node]]]] = {}
        for pattern, captures in query_matches(definition_query(self.dialect), self.tree.root_node):
            if comment := captures.get("comment") or captures.get("attribute"):
                self._comments[self._trimmed_end(comment[0])] = comment[0].start_byte, "attribute" in captures
                continue
            if "wrapper" in captures:
                wrappers[captures["wrapped"][0].id] = captures["wrapper"][0]
                continue
            key = next((key for key in captures if key.startswith("definition.")), "")
            kind = key.removeprefix("definition.")
            if kind in _KNOWN_KINDS:
                node = captures[key][0]
                if node.id not in captured or pattern < captured[node.id][0]:
                    captured[node.id] = pattern, kind, captures

        definitions = []
        for _, kind, captures in captured.values():
            node = outer = captures[f"definition.{kind}"][0]
            name, scope = _name_of(node, kind, captures)
            if not name or (name in _CONTROL_KEYWORDS and self.dialect in _RESERVES_CONTROL_KEYWORDS):
                continue
            # Declarators of C++ qualify their names by a class or a namespace: the former is more common.
            if kind == "function" and scope and "name" not in captures:
                kind = "method"
            while outer.id in wrappers:
                outer = wrappers[outer.id]
            definitions.append((self._start(outer), self._trimmed_end(outer), kind, node, name, scope))

        definitions.sort(key=lambda definition: (definition[0], -definition[1]))
        return definitions

    def _start(self, node: Node) -> int:
        """Return where a definition starts, with macros that are blank in the tree."""
        if self.dialect not in WITH_MACROS:
            return node.start_byte
        return start_with_macros(self.source, self._parsed_text, node.start_byte)

    @cached_property
    def _parsed_text(self) -> bytes:
        return parsed_text(self.tree)

    def _find_own_code(self, file: Definition) -> bool:
        """Set the bounds of a file to the code outside its definitions, and return True if there is any."""
        own = list(self._own_statements(file))
        if not own:
            return False

        first, last = own[0], own[-1]
        file.start, file.end = first.start_byte, max(map(self._trimmed_end, (first, last)))
        file.documentation = self._find_documentation(file.node, file.start)
        # A licence says nothing about the code below it.
        if self.entry.doc_comment is not None and _LICENSE.search(file.documentation.text):
            file.documentation = Documentation(file.start, Edit(file.start, file.start, b""), "")
        return True

    def _own_statements(self, file: Definition) -> Iterator[Node]:
        """Yield the statements of a file that are no definitions, imports or comments."""
        starts = [member.start for member in file.members]
        stack = [(child, True) for child in reversed(file.node.named_children)]
        while stack:
            node, top = stack.pop()
            start, end = node.start_byte, self._trimmed_end(node)
            if node.type in self.entry.imports or end in self._comments and self._comments[end][0] == start:
                continue

            position = bisect_right(starts, start) - 1
            if position >= 0 and end <= file.members[position].end:
                continue
            # A namespace, or a conditional that holds the whole file.
            if bisect_left(starts, end) > position + 1:
                stack += [(child, False) for child in reversed(self._children(node))]
            elif top or node.named_child_count:
                yield node

    def _children(self, node: Node) -> list[Node]:
        """Return the children of a node that can be code of the file: of a namespace, not those of its header."""
        if (node.start_byte, self._trimmed_end(node)) not in self._scopes:
            return node.named_children
        body = node.child_by_field_name("body") or _body_without_a_field(node)
        return [body] if body else node.named_children


def _name_of(node: Node, kind: str, captures: dict[str, list[Node]]) -> tuple[str, str]:
    """Return a definition's name, and what qualifies it in its own text."""
    if "name" not in captures:
        return declared_name(node)

    name = _text_of(captures["name"][0])
    scope = ".".join(_text_of(part) for part in captures.get("scope", ())[:1])
    if kind not in _FUNCTIONS and kind != "declaration":
        # `class A::B`, `namespace App\\Models`
        name = name.replace("::", ".").replace("\\", ".").strip(".")
        if kind not in _SCOPES and "." in name:
            scope, _, name = name.rpartition(".")
    return name, scope


def _text_of(node: Node | None) -> str:
    return node.text.decode().strip("\"'`").lstrip(":") if node is not None and node.text else ""


def _body_without_a_field(node: Node) -> Node | None:
    """Return the body in grammars that name its type, but not its field."""
    return next((child for child in node.named_children if child.type.endswith(_BODY_TYPES)), None)
