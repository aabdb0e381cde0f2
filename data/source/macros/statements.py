"""Mask the macros in the statements of C and C++."""

from collections.abc import Mapping, Sequence

from mose.data.source.macros.items import KEYWORDS
from mose.data.source.macros.tokens import WORD, Mask, Token, is_macro

_LOOP = b"for(;;)"
_BEFORE_STATEMENTS = frozenset(b"if for while switch else do constexpr".split())
_NOT_MACROS = KEYWORDS | frozenset(
    b"""asm __asm __asm__ typeof __typeof__ __typeof decltype alignas _Alignas __attribute__ static_assert new
    delete""".split()
)
#: Words and marks that no argument of a function begins with.
_NO_EXPRESSIONS = frozenset(
    b"""void char short int long float double signed unsigned bool const struct union enum return if for while do
    break continue goto static ; #""".split()
)
_OPERATOR_WORDS = frozenset(b"and or xor".split())


class StatementMasker:
    """Masks macros in front of statements, and arguments that no function can have.

    Args:
        tokens: the tokens of the text.
        closings: position of each opening bracket -> that of its closing one.
        mask: where to write.
    """

    def __init__(self, tokens: Sequence[Token], closings: Mapping[int, int], mask: Mask):
        self.tokens, self.closings, self.mask = tokens, closings, mask
        self._arguments_end = 0

    def start(self, position: int) -> int:
        """Mask the macros in front of a statement, and return the position of the statement."""
        while position + 1 < len(self.tokens):
            if self.tokens[position].text in _BEFORE_STATEMENTS:
                after = self._after_control(position)
            else:
                after = self._after_macro(position)
            if after == position:
                break
            position = after
        return position

    def _after_control(self, position: int) -> int:
        """Return the position of the statement that `if`, a loop or `else` governs."""
        closing = self._arguments(position)
        if closing is None:
            return position + 1
        # The end of `do … while (…);`
        ends = closing + 1 < len(self.tokens) and self.tokens[closing + 1].text == b";"
        return position if ends and self.tokens[position].text == b"while" else closing + 1

    def _after_macro(self, position: int) -> int:
        """Mask a macro in front of a statement, and return the position after it."""
        token, following = self.tokens[position], self.tokens[position + 1]
        if token.kind != WORD or token.text in _NOT_MACROS:
            return position
        if following.text == b"{" and is_macro(token.text):
            self.mask.blank(token.start, token.end)
            return position + 1

        closing = self._arguments(position)
        if closing is None or closing + 1 >= len(self.tokens):
            return position
        after = self.tokens[closing + 1]
        if after.text not in (b"{", b"}") and (after.kind != WORD or after.text in _OPERATOR_WORDS):
            return position

        end = self.tokens[closing].end
        same_line = b"\n" not in self.mask.source[end : after.start]
        is_loop = after.text == b"{" or after.text != b"}" and same_line
        self.mask.blank(token.start, end, _LOOP if is_loop else b"")
        return closing + 1

    def _arguments(self, position: int) -> int | None:
        """Return the position that closes the parentheses after a word; None if there are none."""
        return self.closings.get(position + 1) if self.tokens[position + 1].text == b"(" else None

    def mask_arguments(self, position: int) -> None:
        """Mask arguments that are no expressions, of the call at a parenthesis and of those inside it."""
        if position < self._arguments_end:
            return
        self._arguments_end = self.closings.get(position, position)
        for opening in range(position, self._arguments_end):
            called, closing = self.tokens[opening - 1], self.closings.get(opening)
            if self.tokens[opening].text != b"(" or called.kind != WORD or called.text in _NOT_MACROS:
                continue
            if closing is not None and self._is_odd(opening, closing):
                self.mask.blank(self.tokens[opening].end, self.tokens[closing].start)

    def _is_odd(self, opening: int, closing: int) -> bool:
        """Return True if no function can have these arguments: types, statements, or missing ones."""
        position, before = opening + 1, b","
        while position <= closing:
            text = self.tokens[position].text
            missing = before == b"," and text in (b",", b")") and closing > opening + 1
            if missing or text in _NO_EXPRESSIONS:
                return True
            before = text
            position = self.closings.get(position, position) + 1
        return False
