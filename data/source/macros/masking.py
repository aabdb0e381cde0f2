"""Find the macros in a text of C or C++, by its brackets and the heads before them."""

import re
from collections.abc import Iterable

from mose.data.source.macros.conditionals import flatten_conditionals
from mose.data.source.macros.heads import (
    CALL,
    CLASS_WORDS,
    KEYWORDS,
    NAME,
    OTHER,
    HeadMasker,
    Item,
    after_template,
    find_function,
    is_string,
    read_items,
)
from mose.data.source.macros.tokens import LITERAL, MARK, WORD, Mask, is_macro, lines_between, match_brackets, read_tokens

#: What braces hold.
DECLARATIONS, CLASS, STATEMENTS, VALUES = "declarations", "class", "statements", "values"
_LOOP = b"for(;;)"
_ACCESS = frozenset(b"public private protected signals Q_SIGNALS".split())
_NOT_MACROS = KEYWORDS | frozenset(
    b"asm __asm __asm__ typeof __typeof__ __typeof decltype alignas _Alignas __attribute__ static_assert new delete".split()
)
#: Words and marks that begin no argument of a function.
_NO_EXPRESSIONS = frozenset(
    b"""void char short int long float double signed unsigned bool const struct union enum return if for while do
    break continue goto static ; #""".split()
)
#: Longest initial value in braces after a macro, in tokens.
_LONGEST_VALUE = 64
_OLD_STYLE = re.compile(rb"[*,;()\[\]]|[\w$]+")


class Masker:
    """Walks through the tokens of a text and masks what the grammars do not understand.

    Attributes:
        bodies: start and end of the functions' bodies, with braces.

    Args:
        source: the file.
        ranges: the parts to read, in order; what is between them has no unmatched brackets.
        language: "c" or "cpp".
    """

    def __init__(self, source: bytes, ranges: Iterable[tuple[int, int]], language: str):
        self.source, self.language = source, language
        self.mask = Mask(source)
        self.tokens = flatten_conditionals(read_tokens(source, ranges), self.mask)
        self.closings = match_brackets(self.tokens)
        self.heads = HeadMasker(self.tokens, self.closings, self.mask, language)
        self.arguments_end = 0
        self.bodies: list[tuple[int, int]] = []
        self.contexts: list[tuple[str, bytes]] = [(DECLARATIONS, b"")]

    def run(self) -> list[tuple[int, int, bytes]]:
        """Return the spans to mask."""
        position = head = 0
        while position < len(self.tokens):
            kind = self.contexts[-1][0]
            if kind == STATEMENTS and position == head:
                position = self._start_statement(position)
                if position >= len(self.tokens):
                    break
            token = self.tokens[position]
            text = token.text if token.kind == MARK else b""
            position, head = self._step(text, position, head)
        return self.mask.spans

    def _step(self, text: bytes, position: int, head: int) -> tuple[int, int]:
        """Read one token, and return the next position and the start of the head that it belongs to."""
        kind = self.contexts[-1][0]
        if text == b"(" and kind == STATEMENTS:
            # Arguments can hold functions without a name, so the walk goes on inside.
            if position >= self.arguments_end:
                self.arguments_end = self.closings.get(position, position)
                self._mask_arguments(position)
            return position + 1, head
        if text in (b"(", b"["):
            return self.closings.get(position, position) + 1, head
        if text == b"{":
            return self._open(position, head)
        if text == b"}":
            if len(self.contexts) > 1:
                self.contexts.pop()
            return position + 1, position + 1
        if text == b";":
            if kind in (DECLARATIONS, CLASS):
                if self._is_old_style(head, position):
                    return position + 1, head
                self._declare(head, position)
            return position + 1, position + 1
        if text == b":" and kind != VALUES and self._is_label(head, position):
            return position + 1, position + 1
        return position + 1, head

    def _open(self, position: int, head: int) -> tuple[int, int]:
        """Read an opening brace."""
        kind = self.contexts[-1][0]
        if kind == STATEMENTS:
            local = any(token.text in (b"struct", b"class", b"union") for token in self.tokens[head:position][:3])
            inner = (CLASS, b"") if local else (VALUES, b"") if position > head and self._assigns(position) else None
            self.contexts.append(inner or (STATEMENTS, b""))
            return position + 1, position + 1
        if kind == VALUES:
            self.contexts.append((VALUES, b""))
            return position + 1, position + 1

        items = read_items(self.tokens, self.closings, head, position)
        if self._continues_head(items, position) or self._is_value(position):
            return self.closings.get(position, position) + 1, head
        self.contexts.append(self._classify(items))
        if self.contexts[-1][0] == STATEMENTS and position in self.closings:
            self.bodies.append((self.tokens[position].start, self.tokens[self.closings[position]].end))
        return position + 1, position + 1

    def _assigns(self, position: int) -> bool:
        before = self.tokens[position - 1]
        if any(token.text == b"->" for token in self.tokens[max(0, position - 8) : position]):
            return False  # the type of a function without a name
        return before.text in (b"=", b",", b"(", b"return") or before.kind == WORD and before.text not in (b"else", b"do", b"try")

    def _continues_head(self, items: list[Item], position: int) -> bool:
        """Return True if braces belong to a head: a member's initial value, or the body of `requires`."""
        if not items or position not in self.closings:
            return False
        texts = [item.text for item in items]
        if b"requires" in texts[-2:]:
            return True
        if b":" in texts and find_function(items) is not None:
            after = texts.index(b":")
            is_class = any(text in CLASS_WORDS for text in texts[:after])
            last = items[-1]
            return not is_class and last.kind == NAME and len(items) > after + 1
        return False

    def _is_value(self, position: int) -> bool:
        """Return True if braces hold an initial value: no semicolon is inside, but one follows."""
        closing = self.closings.get(position)
        if closing is None or closing == position + 1 or closing - position > _LONGEST_VALUE:
            return False
        if closing + 1 >= len(self.tokens) or self.tokens[closing + 1].text != b";":
            return False
        return all(token.text not in (b";", b"}") for token in self.tokens[position + 1 : closing])

    def _classify(self, items: list[Item]) -> tuple[str, bytes]:
        """Mask the head before an opening brace, and return what the braces hold."""
        owner = self.contexts[-1][1]
        items = after_template(self.heads.mask_prefix(items))
        if not items:
            return STATEMENTS, b""
        texts = [item.text for item in items]
        if texts[-1] == b"=" or b"=" in texts and b"operator" not in b"".join(texts):
            return VALUES, b""
        if b"namespace" in texts:
            self.heads.mask_namespace(items)
            return DECLARATIONS, b""
        if b"extern" in texts and is_string(self.tokens[items[-1].first]):
            self.heads.mask_namespace(items)
            return DECLARATIONS, b""

        depth, class_word = 0, None
        for index, item in enumerate(items):
            depth += (item.text == b"<") - (item.text == b">")
            if item.text in CLASS_WORDS and depth == 0:
                class_word = index
                break
        if class_word is not None and self._is_class(items[class_word:]):
            name = self.heads.mask_class(items[class_word:])
            self.heads._mask_before([item for item in items[:class_word]])
            return (VALUES, b"") if b"enum" in texts else (CLASS, name)
        if find_function(items) is not None:
            self.heads.mask_function(items, owner, defined=True)
            return STATEMENTS, b""
        if all(item.kind == NAME and is_macro(item.text) for item in items):
            for item in items:
                self.heads.blank(item)
            return DECLARATIONS, b""
        return VALUES, b""

    def _is_class(self, items: list[Item]) -> bool:
        end = next((index for index, item in enumerate(items) if item.text == b":"), len(items))
        last = items[end - 1]
        return last.kind == NAME or last.text in CLASS_WORDS | {b"final"} or last.kind == OTHER and last.opening < 0 and last.text == b">"

    def _declare(self, head: int, position: int) -> None:
        """Mask the macros of a declaration."""
        if position == head:
            return
        items = read_items(self.tokens, self.closings, head, position)
        items = after_template(self.heads.mask_prefix(items))
        texts = {item.text for item in items}
        if b"typedef" in texts or b"using" in texts or b"=" in texts:
            return
        if find_function(items) is not None:
            self.heads.mask_function(items, self.contexts[-1][1], defined=False)

    def _is_old_style(self, head: int, position: int) -> bool:
        """Return True if a semicolon ends the declaration of an old-style parameter: `f(a) int a; {`."""
        if self.language != "c" or self.contexts[-1][0] != DECLARATIONS:
            return False
        items = read_items(self.tokens, self.closings, head, position)
        calls = [index for index, item in enumerate(items) if item.kind == CALL]
        if not calls or len(items) < calls[0] + 3:
            return False
        inner = self.tokens[items[calls[0]].opening + 1 : items[calls[0]].last]
        if not inner or not all(token.kind == WORD or token.text == b"," for token in inner):
            return False
        for token in self.tokens[position + 1 : position + 200]:
            if token.text == b"{":
                return self.tokens[position].text == b";"
            if not _OLD_STYLE.fullmatch(token.text):
                return False
        return False

    def _is_label(self, head: int, position: int) -> bool:
        """Return True if a colon ends a label or `public:`; mask Qt's `signals:` and `slots`."""
        kind = self.contexts[-1][0]
        words = self.tokens[head:position]
        if kind == STATEMENTS:
            return bool(words) and words[0].text in (b"case", b"default") or len(words) == 1
        while kind == CLASS and len(words) > 1 and words[0].text not in _ACCESS and is_macro(words[0].text):
            self.mask.blank(words[0].start, words[0].end)  # such as Q_OBJECT
            words = words[1:]
            if words[0].text == b"(":
                return False
        if kind != CLASS or not words or words[0].text not in _ACCESS:
            return False
        if words[0].text in (b"signals", b"Q_SIGNALS"):
            self.mask.blank(words[0].start, self.tokens[position].end)
        for word in words[1:]:
            self.mask.blank(word.start, word.end)
        return True

    def _mask_arguments(self, position: int) -> None:
        """Mask arguments that are no expressions, of the call at a bracket and of those inside it."""
        for opening in range(position, self.closings.get(position, position)):
            called = self.tokens[opening - 1]
            if self.tokens[opening].text != b"(" or called.kind != WORD or called.text in _NOT_MACROS:
                continue
            closing = self.closings.get(opening)
            if closing is not None and self._is_odd(opening, closing):
                self.mask.blank(self.tokens[opening].end, self.tokens[closing].start)

    def _is_odd(self, opening: int, closing: int) -> bool:
        """Return True if the arguments of a call cannot be those of a function: types, statements, or missing."""
        position, before = opening + 1, b","
        while position <= closing:
            token = self.tokens[position]
            if token.text in _NO_EXPRESSIONS:
                return True
            if before == b"," and token.text in (b",", b")") and closing > opening + 1:
                return True
            before = token.text
            position = self.closings.get(position, position) + 1
        return False

    def _start_statement(self, position: int) -> int:
        """Mask a macro that stands in front of a statement, and return the position of the statement."""
        while position + 1 < len(self.tokens):
            token, following = self.tokens[position], self.tokens[position + 1]
            if token.text in (b"if", b"for", b"while", b"switch", b"else", b"do", b"constexpr") and token.kind == WORD:
                closing = self.closings.get(position + 1) if following.text == b"(" else None
                if token.text == b"while" and closing is not None and closing + 1 < len(self.tokens):
                    if self.tokens[closing + 1].text == b";":
                        return position
                position = position + 1 if closing is None else closing + 1
                continue
            if token.kind != WORD or token.text in _NOT_MACROS:
                return position
            if following.text == b"{" and is_macro(token.text):
                self.mask.blank(token.start, token.end)
                return position + 1
            closing = self.closings.get(position + 1) if following.text == b"(" else None
            if closing is None or closing + 1 >= len(self.tokens):
                return position
            after = self.tokens[closing + 1]
            if not (after.text in (b"{", b"}") or after.kind == WORD and after.text not in (b"and", b"or")):
                return position
            filler = b"" if after.text == b"}" or lines_between(self.source, self.tokens[closing], after) and after.text != b"{" else _LOOP
            self.mask.blank(token.start, self.tokens[closing].end, filler)
            position = closing + 1
        return position
