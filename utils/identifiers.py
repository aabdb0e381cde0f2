"""Splitting identifiers into the words that they are made of."""

import re

_WORD = re.compile(r"\w+")
_BOUNDARY = re.compile(
    r"_+"
    r"|(?<=[a-z0-9])(?=[A-Z])"  # parse|Date
    r"|(?<=[A-Z])(?=[A-Z][a-z])"  # HTTP|Server
    r"|(?<=\d)(?=[^\W\d])|(?<=[^\W\d])(?=\d)"  # utf|8
)


def split_identifiers(text: str) -> list[list[str]]:
    """Return the parts of each word of a text, see `identifier_parts`, without words that have none."""
    return [parts for parts in map(identifier_parts, identifiers(text)) if parts]


def identifiers(text: str) -> list[str]:
    """Return the words of a text: its identifiers, numbers and the like, in order."""
    return _WORD.findall(text)


def identifier_parts(word: str) -> list[str]:
    """Return the parts of a word, in lower case, split at case changes, underscores and digits.

    `parseDate` and `parse_date` both give `["parse", "date"]`, `utf8` gives `["utf", "8"]`. A word without
    letters and digits has none.
    """
    return [part.lower() for part in _BOUNDARY.split(word) if part]
