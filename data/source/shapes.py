"""The shape of code: its tokens with all names alike, so that renaming does not change it.

The shape of a text is the set of its sequences of seven tokens, in which every word is the same unless it is a
keyword. Punctuation, numbers and keywords stay as they are. Two texts that differ in their names alone have one
shape. Comments and strings are read like code: a fragment may begin or end in the middle of one.
"""

import re
import string
from functools import cache
from zlib import crc32

import numpy as np

from mose.data.source.languages import keywords
from mose.data.source.ngrams import hashed_windows

#: Tokens in a sequence. Shorter ones occur everywhere; longer ones do not survive an edit.
SHAPE_TOKENS = 7
_SIGNS = string.punctuation.replace("_", "")
_TOKEN = re.compile(r"[^\W\d]\w*|\d[\w.]*|[^\s\w]")
#: Stands for every name. It is no token of any text.
_NAME = crc32(b"a name")


def shape_of(code: str, language: str) -> np.ndarray:
    """Return the sequences of seven tokens in a text, as sorted 32-bit hashes: (distinct sequences,) uint64.

    Args:
        code: a text of any length. One of fewer than seven tokens is one sequence.
        language: decides which words are keywords; an unknown one has those of all languages.
    """
    known = _known_tokens(language)
    tokens = tokens_of(code)
    values = [known[token] if token in known else _value(token) for token in tokens]
    return hashed_windows(np.array(values, np.uint64), SHAPE_TOKENS)


def tokens_of(code: str) -> list[str]:
    """Return the tokens of a text, of which its shape is made: words, numbers and single signs."""
    return _TOKEN.findall(code)


@cache
def _known_tokens(language: str) -> dict[str, int]:
    """Return the values of keywords and punctuation, which are most of what is no name."""
    return {token: crc32(token.encode()) for token in (*keywords(language), *_SIGNS)}


def _value(token: str) -> int:
    """Return the value of a token that is no keyword: that of all names, or one of a number or sign."""
    return _NAME if token[0] == "_" or token[0].isalpha() else crc32(token.encode())
