"""Find the macros in a text of C or C++ by its brackets and what stands before them."""

import re
from collections.abc import Iterable, Sequence

from mose.data.source.macros.conditionals import ConditionalMasker
from mose.data.source.macros.heads import HeadMasker
from mose.data.source.macros.items import (
    CALL,
    KEYWORDS,
    NAME,
    Item,
    ItemReader,
    after_template,
    find_class,
    find_function,
)
from mose.data.source.macros.statements import StatementMasker
from mose.data.source.macros.tokens import MARK, WORD, Mask, is_macro, is_string, match_brackets, read_tokens

#: What braces hold.
DECLARATIONS, CLASS, STATEMENTS, VALUES = "declarations", "class", "statements", "values"
_ACCESS = frozenset(b"public private protected signals Q_SIGNALS".split())
_SIGNALS = frozenset([b"signals", b"Q_SIGNALS"])
_BEFORE_VALUES = frozenset([b"=", b",", b"(", b"return"])
_BEFORE_STATEMENTS = frozenset([b"else", b"do", b"try"])
_DIRECTIVE = re.compile(rb"\n[ \t]*#")
_OLD_STYLE = re.compile(rb"[*,;()\[\]]|[\w$]+")
#: Longer heads are not read, so that braces inside them take no quadratic time. In tokens.
_LONGEST_HEAD = 1000
_LONGEST_OLD_STYLE = 200
#: Longest initial value in braces after a macro.
_LONGEST_VALUE = 64
#: How far before its body the type of a function without a name is looked for.
_LONGEST_TYPE = 8


class Masker:
    """Masks what the grammars do not understand of a text.

    Args:
        source: the file.
        ranges: the parts to read, in order. What is between them has no unmatched brackets.
        language: "c" or "cpp".

    Attributes:
        mask: the parts of the file that are masked.
        bodies: start and end of the functions' bodies, with their braces.
    """

    def __init__(self, source: bytes, ranges: Iterable[tuple[int, int]], language: str):
        self.language = language
        self.mask = Mask(source)
        self.bodies: list[tuple[int, int]] = []
        self.tokens = ConditionalMasker(read_tokens(source, ranges), self.mask).run()
        self.closings = match_brackets(self.tokens)
        self._reader = ItemReader(self.tokens, self.closings)
        self._heads = HeadMasker(self._reader, self.mask, language)
        self._statements = StatementMasker(self.tokens, self.closings, self.mask)
        #: What the braces around a position hold, and the name of the class that they belong to.
        self._contexts: list[tuple[str, bytes]] = [(DECLARATIONS, b"")]
        self._walk()

    def _walk(self) -> None:
        position = head = 0
        while position < len(self.tokens):
            if self._contexts[-1][0] == STATEMENTS and position == head:
                position = self._statements.start(position)
            if position < len(self.tokens):
                position, head = self._step(position, head)

    def _step(self, position: int, head: int) -> tuple[int, int]:
        """Read one token; return the position of the next, and where the head that it belongs to starts."""
        kind, token = self._contexts[-1][0], self.tokens[position]
        text = token.text if token.kind == MARK else b""
        ends = text in (b"}", b";")

        if text == b"(" and kind == STATEMENTS:
            # Arguments can hold functions without a name, so the walk goes on inside.
            self._statements.mask_arguments(position)
        elif text in (b"(", b"["):
            return self.closings.get(position, position) + 1, head
        elif text == b"{":
            return self._open(position, head)
        elif text == b"}" and len(self._contexts) > 1:
            self._contexts.pop()
        elif text == b";" and kind in (DECLARATIONS, CLASS):
            ends = not self._declare(head, position)
        elif text == b":":
            ends = self._ends_label(head, position)
        return position + 1, position + 1 if ends else head

    def _open(self, position: int, head: int) -> tuple[int, int]:
        """Read an opening brace; the result is that of `_step`."""
        kind, owner = self._contexts[-1]
        if kind == STATEMENTS:
            self._contexts.append((self._inside_statement(position, head), b""))
        elif kind == VALUES or position - head > _LONGEST_HEAD:
            self._contexts.append((VALUES, b""))
        else:
            items = after_template(self._heads.mask_prefix(self._reader.read(head, position)))
            if self._is_in_head(items, position):
                return self.closings[position] + 1, head
            self._contexts.append(self._classify(items, owner))
            if position in self.closings:
                self._add_body(position, self.closings[position])
        return position + 1, position + 1

    def _add_body(self, opening: int, closing: int) -> None:
        """Keep the bounds of a function's body; mask a list of values that directives or macros break up."""
        kind, first, last = self._contexts[-1][0], self.tokens[opening], self.tokens[closing]
        if kind == STATEMENTS:
            self.bodies.append((first.start, last.end))
        elif kind == VALUES:
            inner = self.tokens[opening + 1 : closing]
            # Values without a comma between them, as after `LIST_OF_VALUES`.
            broken = any(
                one.kind == WORD and is_macro(one.text) and (two.kind == WORD or two.text == b"{")
                for one, two in zip(inner, inner[1:], strict=False)
            )
            if broken or _DIRECTIVE.search(self.mask.source, first.end, last.start):
                self.mask.blank(first.end, last.start)

    def _inside_statement(self, position: int, head: int) -> str:
        """Return what braces inside a function hold."""
        if any(
            token.text in (b"struct", b"class", b"union") for token in self.tokens[head : min(head + 3, position)]
        ):
            return CLASS
        before = self.tokens[position - 1]
        # The type of a function without a name: `[] -> T {`.
        typed = any(token.text == b"->" for token in self.tokens[max(head, position - _LONGEST_TYPE) : position])
        if position == head or typed:
            return STATEMENTS
        is_value = before.kind == WORD and before.text not in _BEFORE_STATEMENTS or before.text in _BEFORE_VALUES
        return VALUES if is_value else STATEMENTS

    def _is_in_head(self, items: Sequence[Item], position: int) -> bool:
        """Return True if braces are in a head: an initial value of a member or variable, or `requires {…}`."""
        closing = self.closings.get(position)
        if not items or closing is None:
            return False
        texts = [item.text for item in items]
        if b"requires" in texts[-2:]:
            return True
        if b":" in texts and find_function(items) is not None and find_class(items) is None:
            return items[-1].kind == NAME and len(items) > texts.index(b":") + 1

        # An initial value has no semicolon inside, but one follows.
        inner = self.tokens[position + 1 : min(closing, position + _LONGEST_VALUE)]
        followed = closing + 1 < len(self.tokens) and self.tokens[closing + 1].text == b";"
        short = 0 < closing - position - 1 < _LONGEST_VALUE
        return short and followed and all(token.text not in (b";", b"}") for token in inner)

    def _classify(self, items: Sequence[Item], owner: bytes) -> tuple[str, bytes]:
        """Mask the head before an opening brace, and return what the braces hold."""
        texts = [item.text for item in items]
        if not items:
            return STATEMENTS, b""
        if _assigns(texts):
            return VALUES, b""
        if b"namespace" in texts or b"extern" in texts and is_string(self.tokens[items[-1].first]):
            self._heads.mask_namespace(items)
            return DECLARATIONS, b""
        if (word := find_class(items)) is not None:
            name = self._heads.mask_class(items, word)
            return (VALUES if b"enum" in texts else CLASS), name
        if find_function(items) is not None:
            self._heads.mask_function(items, owner, defined=True)
            return STATEMENTS, b""
        return self._classify_unknown(items), b""

    def _classify_unknown(self, items: Sequence[Item]) -> str:
        """Mask a head of macros alone, such as `BEGIN_C`, and return what the braces after it hold."""
        if not all(item.kind == NAME and is_macro(item.text) for item in items):
            return VALUES
        for item in items:
            self._heads.blank(item)
        return DECLARATIONS

    def _declare(self, head: int, position: int) -> bool:
        """Mask the macros of a declaration; return True if it is a parameter's, and its function goes on."""
        if not 0 < position - head <= _LONGEST_HEAD:
            return False
        items = self._reader.read(head, position)
        if self._is_old_style(items, position):
            return True

        head_items = after_template(self._heads.mask_prefix(items))
        texts = {item.text for item in head_items}
        if not texts & {b"typedef", b"using", b"="}:
            self._heads.mask_function(head_items, self._contexts[-1][1], defined=False)
        return False

    def _is_old_style(self, items: Sequence[Item], position: int) -> bool:
        """Return True if a semicolon ends the declaration of an old-style parameter: `f(a) int a; {`."""
        call = next((index for index, item in enumerate(items) if item.kind == CALL), len(items))
        if self.language != "c" or self._contexts[-1][0] != DECLARATIONS or len(items) < call + 3:
            return False
        inner = self.tokens[items[call].opening + 1 : items[call].last]
        if not inner or not all(token.kind == WORD or token.text == b"," for token in inner):
            return False
        for token in self.tokens[position + 1 : position + _LONGEST_OLD_STYLE]:
            if not _OLD_STYLE.fullmatch(token.text):
                return token.text == b"{"
        return False

    def _ends_label(self, head: int, position: int) -> bool:
        """Return True if a colon ends a label or `public:`; mask macros, Qt's `signals:` and `slots`."""
        kind = self._contexts[-1][0]
        first = self.tokens[head]
        if kind == STATEMENTS:
            return first.text in (b"case", b"default") or position == head + 1
        if kind != CLASS or position - head > _LONGEST_HEAD:
            return False

        items = self._reader.read(head, position)
        access = next((index for index, item in enumerate(items) if item.text in _ACCESS), None)
        if access is None or not all(item.plain and item.text not in KEYWORDS for item in items[:access]):
            return False
        for item in [*items[:access], *items[access + 1 :]]:
            self._heads.blank(item)
        if items[access].text in _SIGNALS:
            self.mask.blank(self.tokens[items[access].first].start, self.tokens[position].end)
        return True


def _assigns(texts: Sequence[bytes]) -> bool:
    """Return True if a head gives a value: it has `=` that belongs to no operator's name."""
    return texts[-1] == b"=" or b"=" in texts and not any(text.endswith(b"operator") for text in texts)
