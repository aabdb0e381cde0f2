"""Token ids by looking up pieces, for tokenizers that split a text before they merge.

Such a tokenizer encodes each piece of a text alone, and code has the same pieces again and again. So a text is
split here, and only pieces that are new go to the tokenizer. That takes half of the time. It is done for texts in
ASCII, where Python's regular expressions split as the tokenizer's do. Other texts go there whole.
"""

import re
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

from mose.tokenization.prompts import INSTRUCTION, PROMPT_START, SEP

# A piece is a word of an identifier with the space or underscores before it, split where the case rises
# (`parseHTMLPage`: parse, HTML, Page); or up to three digits; or a run of punctuation; or white space. Splitting
# identifiers spells them in fewer tokens, and gives the words of a query and of a function name the same pieces.
PIECES = (
    r"[ _]*(?:\p{Lu}+(?!\p{Ll})|\p{Lu}?\p{Ll}+|[\p{Lt}\p{Lm}\p{Lo}\p{M}]+)"
    r"| ?\p{N}{1,3}| ?[^\s\p{L}\p{M}\p{N}_]+|_+|\s+(?!\S)|\s+"
)
#: The `<sep>` of a prompt at the start of an input, and the colon before it, as pieces of their own. Looking back
#: comes last, because it is slow and rarely reached.
PROMPT_PIECES = rf":(?={SEP})(?<=\A{INSTRUCTION})|{SEP}(?<=\A{INSTRUCTION}{SEP})"
#: `PIECES` of a text in ASCII.
_ASCII_PIECES = re.compile(
    r"[ _]*(?:[A-Z]+(?![a-z])|[A-Z]?[a-z]+)"
    r"| ?[0-9]{1,3}| ?[^\sA-Za-z0-9_]+|_+|\s+(?!\S)|\s+",
    re.ASCII,
)
_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
#: Pieces that are remembered: tens of megabytes.
_MOST_KNOWN = 200_000


class PieceTable:
    """The token ids of the pieces that have occurred. Safe for use by several threads.

    Args:
        encode: returns the ids of texts, without special tokens.
    """

    def __init__(self, encode: Callable[[list[str]], list[list[int]]]):
        self._encode = encode
        self._known: dict[str, list[int]] = {}

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of texts, as the tokenizer gives them."""
        # One that begins like a prompt may be split as one.
        plain = [text.isascii() and not text.startswith(PROMPT_START) for text in texts]
        split = [
            _ASCII_PIECES.findall(text) if is_plain else [] for text, is_plain in zip(texts, plain, strict=True)
        ]

        # Another thread may replace the table, so this call keeps the one that it completes.
        known = self._known if len(self._known) <= _MOST_KNOWN else {}
        new = list({piece for pieces in split for piece in pieces} - known.keys())
        rest = [text for text, is_plain in zip(texts, plain, strict=True) if not is_plain]
        encoded = self._encode([*new, *rest]) if new or rest else []
        known.update(zip(new, encoded, strict=False))

        others, get = iter(encoded[len(new) :]), known.__getitem__
        ids = [
            list(chain.from_iterable(map(get, pieces))) if is_plain else next(others)
            for pieces, is_plain in zip(split, plain, strict=True)
        ]
        self._known = known
        return ids


def splits_into_pieces(rules: dict[str, Any]) -> bool:
    """Return whether a tokenizer splits a text into `PIECES`, and merges within them alone.

    Args:
        rules: its tokenizer.json.
    """
    model, steps = rules["model"], (rules["pre_tokenizer"] or {}).get("pretokenizers", [])
    if model["type"] != "BPE" or model.get("dropout") or rules["normalizer"] or len(steps) != 2:
        return False
    pattern = steps[0].get("pattern", {}).get("Regex")
    isolated = steps[0].get("behavior") == "Isolated" and not steps[0].get("invert")
    # What is no special token would be looked for in the text before it is split.
    special = all(token["special"] for token in rules["added_tokens"])
    known_pattern = pattern in (PIECES, f"{PROMPT_PIECES}|{PIECES}")
    return known_pattern and isolated and special and _BYTE_LEVEL.items() <= steps[1].items()
