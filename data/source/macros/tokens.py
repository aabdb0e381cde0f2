"""Tokens of C and C++, for rewriting text that the grammars do not understand."""

import re
from collections.abc import Iterable
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

WORD, LITERAL, DIRECTIVE, MARK = "word", "literal", "directive", "mark"
#: Every alternative with an end that can be missing also ends with the text, so nothing is scanned twice.
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
_OPENING = {b"(": b")", b"[": b"]", b"{": b"}"}
_CLOSING = {closing: opening for opening, closing in _OPENING.items()}
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
        if token.text in _OPENING:
            stack.append(position)
        elif opening := _CLOSING.get(token.text):
            if token.text == b"}":
                while stack and tokens[stack[-1]].text != b"{":
                    stack.pop()
            if stack and tokens[stack[-1]].text == opening:
                closings[stack.pop()] = position
    return closings


@dataclass
class Mask:
    """Text of the same length as a source, in which parts are blank.

    Attributes:
        source: the text to mask.
        spans: the parts to blank, and what to write at the start of each.
    """

    source: bytes
    spans: list[tuple[int, int, bytes]] = field(default_factory=list)

    def blank(self, start: int, end: int, filler: bytes = b"") -> None:
        """Blank a part but for its line ends; write `filler` at its start if it fits on the line."""
        if start < end:
            self.spans.append((start, end, filler))

    def apply(self, spans: list[tuple[int, int, bytes]]) -> bytes:
        """Return the source with these spans masked."""
        text = bytearray(self.source)
        for start, end, filler in spans:
            blank = _NOT_A_NEWLINE.sub(b" ", self.source[start:end])
            if filler and blank[: len(filler)] == b" " * len(filler):
                blank = filler + blank[len(filler) :]
            text[start:end] = blank
        return bytes(text)


def is_macro(name: bytes) -> bool:
    """Return True if a name is written like a macro."""
    return _MACRO.fullmatch(name) is not None


def lines_between(source: bytes, first: Token, second: Token) -> bool:
    """Return True if a line ends between two tokens."""
    return b"\n" in source[first.end : second.start]


