"""The form of a query: the name of a symbol, or words about code that may name symbols."""

import re
from dataclasses import dataclass
from functools import cached_property

from mose.search.ranking.terms import content_words, term_lists

_NAME = r"[^\W\d][\w$]*[?!]?"
_SEPARATOR = r"::|->|[.#/\\]"
#: `Server::run`, `pkg.Server.run()`, `$http`, `@cached`, `Vec<T>`.
_SYMBOL = re.compile(rf"[@&*:]*((?:[$_]*{_NAME})(?:(?:{_SEPARATOR})[$_]*{_NAME})*)(?:<[^<>]*>)?(?:\(\))?[?!;]?")
#: What tells an identifier from a word of English: inner capitals, underscores, separators.
_INNER = re.compile(r"[a-z0-9][A-Z]|[A-Z]{2,}[a-z]|\w_\w|^_+\w|^\$\w|\w(?:::|->|[.#])\w|\w\(\)$")
_ABBREVIATION = re.compile(r"(?:[a-z]\.)+[a-z]?|[A-Z]{2,}s", re.IGNORECASE)
_QUOTED = re.compile(r"`([^`\s]+)`")


@dataclass(frozen=True)
class SearchQuery:
    """A query and what its form tells.

    Attributes:
        text: as typed.
        is_symbol: it is one name, possibly qualified: `Server::run`.
        symbols: the names that it is or mentions, each with what qualifies it: `("Server", "run")`.
    """

    text: str
    is_symbol: bool
    symbols: tuple[tuple[str, ...], ...]

    @cached_property
    def terms(self) -> list[str]:
        """Its words as `term_lists` returns them."""
        return term_lists([self.text])[0]

    @cached_property
    def keywords(self) -> str:
        """Its text without words that say nothing about code."""
        return content_words(self.text)


def parse_query(text: str) -> SearchQuery:
    """Return what the form of a query tells.

    A query of one word is taken for the name of a symbol, whatever its case. In a longer one, only words that are
    spelled as no English word is are names: `parseDate`, `parse_date`, `Date::parse`, or anything in backquotes.
    """
    stripped = text.strip().strip("`'\"")
    if match := _SYMBOL.fullmatch(stripped):
        return SearchQuery(text, True, (_parts(match[1]),))

    words = [word.strip(",.;:?!'\"()[]{}") if not word.endswith("()") else word for word in text.split()]
    named = [word for word in words if _INNER.search(word) and not _ABBREVIATION.fullmatch(word)]
    named += _QUOTED.findall(text)
    symbols = [_parts(match[1]) for word in named if (match := _SYMBOL.fullmatch(word.strip("`")))]
    return SearchQuery(text, False, tuple(dict.fromkeys(symbols)))


def _parts(symbol: str) -> tuple[str, ...]:
    return tuple(part for part in re.split(_SEPARATOR, symbol) if part)
