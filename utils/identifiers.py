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
    """Return the parts of each word of a text, in lower case, split at case changes, underscores and digits.

    `parseDate` and `parse_date` both give `["parse", "date"]`, `utf8` gives `["utf", "8"]`. Words without letters
    and digits are left out.
    """
    words = ([part.lower() for part in _BOUNDARY.split(word) if part] for word in _WORD.findall(text))
    return [parts for parts in words if parts]
