"""Conditionals of the preprocessor that cut C and C++ code in the middle of a statement or block.

The grammars understand `#if` around whole statements. Around anything else, one branch stays and the rest is
masked.
"""

import re
from dataclasses import dataclass, field

from mose.data.source.macros.tokens import DIRECTIVE, MARK, WORD, Mask, Token, is_macro

_DIRECTIVE_NAME = re.compile(rb"#[ \t]*(\w*)")
_COMMENT = re.compile(rb"/\*[^\n]*?\*/")
#: Conditions of code that is not for C, or for nothing.
_ABSENT = re.compile(rb"#[ \t]*if(?:def\b|\b[^\n]*\bdefined\b)[^\n]*\b__cplusplus\b|#[ \t]*if[ \t]+0\b")
_ENDS_OF_STATEMENTS = frozenset([b";", b"}", b"{", b":", b")"])
_STEPS = {b"(": 1, b"[": 1, b"{": 1, b")": -1, b"]": -1, b"}": -1}
_NO_CONDITIONALS = frozenset([b"define", b"include", b"pragma", b"undef"])


@dataclass
class _Branch:
    """The tokens from one directive to the next; of a conditional in them, those that stay.

    Attributes:
        directive: position of the directive that opens it.
        end: position of the directive that closes it.
        depth: brackets that are open at its end, minus those that are closed in it.
        lowest: the least depth in it.
        first: position of its first token, if it has one.
        last: position of its last token.
    """

    directive: int
    end: int = 0
    depth: int = 0
    lowest: int = 0
    first: int | None = None
    last: int | None = None

    def add(self, first: int, last: int, depth: int, lowest: int) -> None:
        """Add tokens at its end."""
        self.lowest = min(self.lowest, self.depth + lowest)
        self.depth += depth
        self.first = first if self.first is None else self.first
        self.last = last


@dataclass
class _Conditional:
    before: int | None
    branches: list[_Branch] = field(default_factory=list)


class ConditionalMasker:
    """Masks the conditionals around parts of statements.

    Args:
        tokens: the tokens of the text.
        mask: where to write.
    """

    def __init__(self, tokens: list[Token], mask: Mask):
        self.tokens, self.mask = tokens, mask
        self._dropped: list[tuple[int, int]] = []

    def run(self) -> list[Token]:
        """Return the tokens that stay, without directives."""
        stack: list[_Conditional] = []
        last: int | None = None
        for position, token in enumerate(self.tokens):
            if token.kind == DIRECTIVE:
                self._read_directive(position, last, stack)
                continue
            step = _STEPS.get(token.text, 0) if token.kind == MARK else 0
            if stack:
                stack[-1].branches[-1].add(position, position, step, step)
            last = position
        return self._remaining()

    def _remaining(self) -> list[Token]:
        tokens, position = [], 0
        for start, end in [*sorted(self._dropped), (len(self.tokens), len(self.tokens))]:
            tokens += [token for token in self.tokens[position:start] if token.kind != DIRECTIVE]
            position = max(position, end)
        return tokens

    def _read_directive(self, position: int, last: int | None, stack: list[_Conditional]) -> None:
        """Read a directive after the token `last`; `stack` holds the conditionals around it."""
        match = _DIRECTIVE_NAME.match(self.tokens[position].text)
        name = match[1] if match else b""
        if name.startswith(b"if"):
            stack.append(_Conditional(last, [_Branch(position)]))
        elif stack and (name == b"endif" or name.startswith(b"el")):
            stack[-1].branches[-1].end = position
            if name != b"endif":
                stack[-1].branches.append(_Branch(position))
                return
            remaining = self._close(stack.pop(), position)
            if stack and remaining is not None and remaining.first is not None and remaining.last is not None:
                stack[-1].branches[-1].add(remaining.first, remaining.last, remaining.depth, remaining.lowest)
        elif name in _NO_CONDITIONALS:
            self._mask_plain(self.tokens[position], last)

    def _mask_plain(self, directive: Token, last: int | None) -> None:
        """Mask what the grammars do not understand of a directive that is no conditional."""
        # Inside an expression or a list of parameters, they expect no directive.
        if last is not None and not self._ends_statement(last):
            self.mask.blank(directive.start, directive.end)
        # A comment ends the definition of a macro for them, whatever the lines below it.
        elif b"\n" in directive.text:
            for comment in _COMMENT.finditer(directive.text):
                self.mask.blank(directive.start + comment.start(), directive.start + comment.end())

    def _close(self, conditional: _Conditional, end: int) -> _Branch | None:
        """Mask a conditional unless its branches are whole, and return the branch that stays if only one does."""
        branches = conditional.branches
        filled = [branch for branch in branches if branch.first is not None]
        if not filled or self._is_whole(conditional, end):
            return next(iter(filled), None)

        if _ABSENT.match(self.tokens[branches[0].directive].text):
            filled = [branch for branch in filled if branch is not branches[0]]
        remaining = next(iter(filled), None)
        for branch in branches:
            directive = self.tokens[branch.directive]
            if branch is remaining:
                self.mask.blank(directive.start, directive.end)
            else:
                self.mask.blank(directive.start, self.tokens[branch.end].start)
                self._dropped.append((branch.directive, branch.end))
        self.mask.blank(self.tokens[end].start, self.tokens[end].end)
        return remaining

    def _is_whole(self, conditional: _Conditional, end: int) -> bool:
        """Return True if each branch consists of whole statements, as far as brackets and last tokens tell."""
        if conditional.before is not None and not self._ends_statement(conditional.before):
            return False
        lasts = [branch.last for branch in conditional.branches if branch.last is not None]
        precedes_body = end + 1 < len(self.tokens) and self.tokens[end + 1].text == b"{"
        if precedes_body and any(self.tokens[last].text == b")" for last in lasts):
            return False  # signatures of one function

        balanced = not any(branch.depth or branch.lowest for branch in conditional.branches)
        return balanced and all(map(self._ends_statement, lasts))

    def _ends_statement(self, position: int) -> bool:
        token = self.tokens[position]
        if token.kind == WORD:
            return is_macro(token.text)
        return token.kind == MARK and token.text in _ENDS_OF_STATEMENTS
