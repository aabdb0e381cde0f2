"""Build the tree of a source file's definitions from its syntax tree."""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

from tree_sitter import Node

from mose.data.source.declarators import declared_name
from mose.data.source.docstrings import Documentation, doc_comment, python_docstring
from mose.data.source.languages import PROGRAMMING_LANGUAGES, definition_query, supported_languages
from mose.data.source.macros import WITH_MACROS, parsed_text, start_with_macros
from mose.data.source.parsing import error_bytes, parse_source
from mose.data.source.queries import query_matches
from mose.data.source.splitting import Edit
from mose.data.source.units import FUNCTIONS, KINDS

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
#: Ruby's `define_method :name`.
_SYMBOL = re.compile(r":\w")
_LICENSE = re.compile(r"(?i)\b(?:copyright|licen[cs]ed?|spdx)\b")
#: A definition's first byte and end with what wraps it, its kind, node and name, and what qualifies the name.
_Captured = tuple[int, int, str, Node, str, str]


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
        inside = sum(member.end - member.documentation.start for member in self.members)
        return 2 * inside > self.end - self.start

    @property
    def body(self) -> Node | None:
        """The node after its signature; None if it has none."""
        node: Node | None = self.node
        while node is not None:
            if body := node.child_by_field_name("body") or _body_without_a_field(node):
                return body
            node = next((child for name in _VALUE_FIELDS if (child := node.child_by_field_name(name))), None)
        return None


class SourceTree:
    """The definitions of one source file.

    Args:
        source: the file's content, UTF-8 with line feeds.
        language: one of `mose.data.source.languages.supported_languages()`.
        file_name: the name of the file.

    Attributes:
        root: the file as a definition, with those inside it as members.
        has_errors: the parser did not understand all of the file.

    Raises:
        ValueError: definitions cannot be read in `language`, or `source` is not UTF-8.
    """

    def __init__(self, source: bytes, language: str, file_name: str = ""):
        if language not in supported_languages():
            raise ValueError(f"language must be one of {', '.join(supported_languages())}, got {language!r}.")
        source.decode()  # raises UnicodeDecodeError, a ValueError
        self.source, self.language = source, language
        self.tree, self.dialect = parse_source(source, language)
        self.entry = PROGRAMMING_LANGUAGES[self.dialect]
        self.has_errors = self.tree.root_node.has_error

        nothing = Documentation(0, Edit(0, 0, b""), "")
        self.root = Definition("file", file_name, file_name, self.tree.root_node, nothing, 0, len(source))
        #: End byte of each comment and separate annotation -> its first byte, and True for an annotation.
        self._comments: dict[int, tuple[int, bool]] = {}
        self._scopes: set[tuple[int, int]] = set()
        self._add_definitions()

    @property
    def error_bytes(self) -> int:
        """The number of bytes that the parser did not understand."""
        return error_bytes(self.tree, self.dialect)

    def is_closure(self, definition: Definition) -> bool:
        """Return True if a function only encloses others, in a language in which modules look so."""
        return self.entry.unwraps_closures and definition.is_closure

    def is_constructor(self, definition: Definition) -> bool:
        """Return True if a definition constructs or destroys an instance of its class."""
        name = definition.name
        if definition.kind not in FUNCTIONS:
            return False
        if self.language == "cpp":
            return name.startswith("~") or f".{definition.qualified_name}".endswith(f".{name}.{name}")
        return name in self.entry.constructors or definition.node.type in self.entry.constructor_nodes

    def narrow_to_own_code(self) -> bool:
        """Set the bounds of the file to the code outside its definitions, and return True if there is any."""
        file = self.root
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

    def _captured(self) -> list[_Captured]:
        """Return the captured definitions, outermost first."""
        wrappers, captured = self._run_query()
        definitions: list[_Captured] = []

        for kind, captures in captured:
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

    def _run_query(self) -> tuple[dict[int, Node], list[tuple[str, dict[str, list[Node]]]]]:
        """Return the id of each wrapped node -> its wrapper, and each definition's kind and captures.

        The comments on the way are noted.
        """
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

        return wrappers, [(kind, captures) for _, kind, captures in captured.values()]

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

    def _trimmed_end(self, node: Node) -> int:
        """Return the end of a node without the line ends that some grammars count in."""
        end = node.end_byte
        while end > node.start_byte and self.source[end - 1] in b" \t\n":
            end -= 1
        return end


def _name_of(node: Node, kind: str, captures: dict[str, list[Node]]) -> tuple[str, str]:
    """Return a definition's name, and what qualifies it in its own text."""
    if "name" not in captures:
        return declared_name(node)

    name = _text_of(captures["name"][0])
    scope = ".".join(_text_of(part) for part in captures.get("scope", ())[:1])
    if kind not in FUNCTIONS and kind != "declaration":
        # `class A::B`, `namespace App\\Models`
        name = name.replace("::", ".").replace("\\", ".").strip(".")
        if kind not in _SCOPES and "." in name:
            scope, _, name = name.rpartition(".")
    return name, scope


def _text_of(node: Node | None) -> str:
    text = node.text.decode().strip("\"'`") if node is not None and node.text else ""
    return text[1:] if _SYMBOL.match(text) else text


def _body_without_a_field(node: Node) -> Node | None:
    """Return the body in grammars that name its type, but not its field."""
    return next((child for child in node.named_children if child.type.endswith(_BODY_TYPES)), None)
