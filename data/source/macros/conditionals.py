"""Conditionals of the preprocessor that cut C and C++ code in the middle of a statement or block.

The grammars understand `#if` around whole statements. Around anything else, its first branch stays and the rest
is masked.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from mose.data.source.macros.tokens import DIRECTIVE, MARK, WORD, Mask, Token, is_macro

_DIRECTIVE_NAME = re.compile(rb"#[ \t]*(\w*)")
_ONLY_CPP = re.compile(rb"#[ \t]*if(?:def\b|\b[^\n]*\bdefined\b)[^\n]*\b__cplusplus\b")
_NEVER = re.compile(rb"#[ \t]*if[ \t]+0\b")
_ENDS_OF_STATEMENTS = frozenset([b";", b"}", b"{", b":", b")"])
_STEPS = {b"(": 1, b"[": 1, b"{": 1, b")": -1, b"]": -1, b"}": -1}


@dataclass
class _Branch:
    """The tokens from one directive to the next, without the conditionals in them that are whole."""

    directive: int
    depth: int = 0
    lowest: int = 0
    first: int | None = None
    last: int | None = None
    end: int = 0

    def add(self, position: int, step: int) -> None:
        self.depth += step
        self.lowest = min(self.lowest, self.depth)
        self.first = position if self.first is None else self.first
        self.last = position

    def is_whole(self, tokens: Sequence[Token]) -> bool:
        """Return True if it consists of whole statements, as far as brackets and its last token tell."""
        if self.depth or self.lowest:
            return False
        return self.last is None or _may_end_statement(tokens[self.last])


@dataclass
class _Group:
    before: int | None
    branches: list[_Branch] = field(default_factory=list)


def flatten_conditionals(tokens: list[Token], mask: Mask) -> list[Token]:
    """Mask conditionals around parts of statements, and return the tokens that remain, without directives."""
    dropped: set[int] = set()
    stack: list[_Group] = []
    last: int | None = None
    for position, token in enumerate(tokens):
        if token.kind != DIRECTIVE:
            step = _STEPS.get(token.text, 0) if token.kind == MARK else 0
            if stack:
                stack[-1].branches[-1].add(position, step)
            last = position
            continue

        name = _name_of_directive(token)
        if name.startswith(b"if"):
            stack.append(_Group(last, [_Branch(position)]))
        elif stack and name.startswith(b"el"):
            stack[-1].branches[-1].end = position
            stack[-1].branches.append(_Branch(position))
        elif stack and name == b"endif":
            group = stack.pop()
            group.branches[-1].end = position
            kept = _close(group, position, tokens, mask, dropped)
            if stack:
                _carry(kept, stack[-1].branches[-1])
        elif name in (b"define", b"include", b"pragma", b"undef") and last is not None:
            # Inside an expression or a list of parameters, the grammars expect no directive.
            if not _may_end_statement(tokens[last]):
                mask.blank(token.start, token.end)

    return [token for index, token in enumerate(tokens) if token.kind != DIRECTIVE and index not in dropped]


def _close(group: _Group, end: int, tokens: list[Token], mask: Mask, dropped: set[int]) -> _Branch | None:
    """Mask a conditional unless its branches are whole. Return the branch that stays if only one does."""
    branches = group.branches
    after_statement = group.before is None or _may_end_statement(tokens[group.before])
    # Signatures with one body: `#if A` … `f(int a)` … `#endif` … `{`.
    if end + 1 < len(tokens) and tokens[end + 1].text == b"{":
        after_statement = after_statement and all(
            branch.last is not None and tokens[branch.last].text != b")" for branch in branches
        )
    nothing = all(branch.first is None for branch in branches)
    if nothing or after_statement and all(branch.is_whole(tokens) for branch in branches):
        return next((branch for branch in branches if branch.first is not None), None)

    opening = tokens[branches[0].directive]
    absent = _ONLY_CPP.match(opening.text) or _NEVER.match(opening.text)
    present = [branch for branch in branches[1 if absent else 0 :] if branch.first is not None]
    kept = present[0] if present else None
    for branch in branches:
        if branch is kept:
            mask.blank(tokens[branch.directive].start, tokens[branch.directive].end)
        else:
            mask.blank(tokens[branch.directive].start, tokens[branch.end].start)
            dropped.update(range(branch.directive, branch.end))
    mask.blank(tokens[end].start, tokens[end].end)
    return kept


def _carry(inner: _Branch | None, outer: _Branch) -> None:
    """Count the tokens of a nested conditional for the branch around it."""
    if inner is not None and inner.last is not None:
        outer.lowest = min(outer.lowest, outer.depth + inner.lowest)
        outer.depth += inner.depth
        outer.first = inner.first if outer.first is None else outer.first
        outer.last = inner.last


def _may_end_statement(token: Token) -> bool:
    if token.kind == WORD:
        return is_macro(token.text)
    return token.kind == MARK and token.text in _ENDS_OF_STATEMENTS


def _name_of_directive(token: Token) -> bytes:
    match = _DIRECTIVE_NAME.match(token.text)
    return match[1] if match else b""
