"""Tokens of C and C++, for masking what the grammars do not understand."""

import re
from collections.abc import Iterable
from typing import NamedTuple

WORD, LITERAL, DIRECTIVE, MARK = "word", "literal", "directive", "mark"
#: Every alternative whose end can be missing also ends with the text, so no part is scanned twice.
_TOKEN = re.compile(
    rb"""
      (?P<comment> //(?:[^\\\n]|\\[\s\S])* | /\*[\s\S]*?(?:\*/|\Z) )
    | (?P<directive> (?:\A|\n)[ \t]*\#(?:[^\n\\/]|\\[\s\S]|//(?:[^\\\n]|\\[\s\S])*|/\*[\s\S]*?(?:\*/|\Z)|[/\\])* )
    | (?P<literal>
        (?:u8|[uUL])?R"(?P<delimiter>[^()\\\s"]{0,16})\([\s\S]*?(?:\)(?P=delimiter)"|\Z)
      | (?:u8|[uUL])?"(?:[^"\\\n]|\\[\s\S])*"?
      | (?:u8|[uUL])?'(?:[^'\\\n]|\\[\s\S])*'?
      | \.?[0-9](?:[eEpP][+-]|'\w|[\w.])*
      )
    | (?P<word> [A-Za-z_$\x80-\xff][\w$\x80-\xff]* )
    | (?P<mark> :: | -> | [^\s\\] )
    """,
    re.VERBOSE,
)
#: Annotations of parameters, such as `_In_`.
ANNOTATION = re.compile(rb"_[A-Z][a-z]\w*_")
_MACRO = re.compile(rb"_*[A-Z][A-Z0-9_]+|" + ANNOTATION.pattern)
_OPENING = {b")": b"(", b"]": b"[", b"}": b"{"}
_NOT_A_NEWLINE = re.compile(rb"[^\n]")


class Token(NamedTuple):
    """One token; `kind` is one of the constants above. Positions are bytes of the file."""

    kind: str
    start: int
    end: int
    text: bytes


def read_tokens(source: bytes, ranges: Iterable[tuple[int, int]]) -> list[Token]:
    """Return the tokens of parts of a file, without comments."""
    tokens = []
    for start, end in ranges:
        for match in _TOKEN.finditer(source, start, end):
            kind = match.lastgroup or ""
            if kind != "comment":
                # A directive's match begins with the end of the line before it.
                text = match[0].lstrip() if kind == DIRECTIVE else match[0]
                last = match.end()
                tokens.append(Token(kind, last - len(text), last, text))
    return tokens


def match_brackets(tokens: list[Token]) -> dict[int, int]:
    """Return the position of each opening bracket's closing one, if it has one.

    A brace closes what is still open inside it, so a stray parenthesis does not reach beyond its block.
    """
    closings: dict[int, int] = {}
    stack: list[int] = []
    for position, token in enumerate(tokens):
        if token.kind != MARK:
            continue
        if token.text in b"([{":
            stack.append(position)
        elif opening := _OPENING.get(token.text):
            while token.text == b"}" and stack and tokens[stack[-1]].text != b"{":
                stack.pop()
            if stack and tokens[stack[-1]].text == opening:
                closings[stack.pop()] = position
    return closings


class Mask:
    """Parts of a file to blank, and what to write instead of some.

    Args:
        source: the file.
    """

    def __init__(self, source: bytes):
        self.source = source
        self.spans: list[tuple[int, int, bytes]] = []

    def blank(self, start: int, end: int, filler: bytes = b"") -> None:
        """Blank a part but for its line ends; `filler` stands at its start if it fits there on one line."""
        if start < end:
            self.spans.append((start, end, filler))

    def apply(self) -> bytes:
        """Return the file with its parts masked; its length is that of the source."""
        pieces, covered = [], 0
        # Parts can overlap. The outermost counts.
        for start, end, filler in sorted(self.spans, key=lambda span: (span[0], -span[1])):
            if end <= covered:
                continue
            blank = _NOT_A_NEWLINE.sub(b" ", self.source[max(start, covered) : end])
            if start >= covered and blank.startswith(b" " * len(filler)):
                blank = filler + blank[len(filler) :]
            pieces += [self.source[covered:start], blank]
            covered = end
        return b"".join([*pieces, self.source[covered:]])


def is_macro(name: bytes) -> bool:
    """Return True if a name is written like a macro."""
    return _MACRO.fullmatch(name) is not None


def is_string(token: Token) -> bool:
    """Return True for a string literal."""
    return token.kind == LITERAL and token.text.endswith(b'"')
