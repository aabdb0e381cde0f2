"""BM25 over terms that are stored with each unit, so that a changed unit changes its own row and nothing else.

Scores and coverage are those of `mose.inference.bm25.BM25`, which indexes a whole corpus at once.
"""

import math
import zlib
from collections import Counter
from collections.abc import Sequence
from itertools import chain

import numpy as np

from mose.inference.bm25 import K1, B, bm25_tokens, identifier_tokens
from mose.utils.identifiers import identifiers

#: Identifiers whose terms are remembered: a few megabytes.
_MOST_KNOWN = 50_000
#: Terms occur at most so often in one unit: what the type of the stored counts can hold.
_MAX_COUNT = 2**16 - 1


class _KnownTerms(dict[str, list[int]]):
    """Identifier -> its terms, which are computed when it first occurs."""

    def __missing__(self, identifier: str) -> list[int]:
        terms = self[identifier] = [term_of(token) for token in identifier_tokens(identifier)]
        return terms


class TermCounter:
    """Counts the terms of texts. A term is the 32-bit hash of a token of BM25."""

    _known = _KnownTerms()  # of all counters

    def count(self, text: str) -> dict[int, int]:
        """Return term -> how often it occurs."""
        if len(self._known) > _MOST_KNOWN:
            TermCounter._known = _KnownTerms()
        counts = Counter(chain.from_iterable(map(self._known.__getitem__, identifiers(text))))
        if max(counts.values(), default=0) > _MAX_COUNT:
            return {term: min(number, _MAX_COUNT) for term, number in counts.items()}
        return counts


def term_of(token: str) -> int:
    """Return the term of a token."""
    return zlib.crc32(token.encode("utf-8", "surrogatepass"))


class TermTable:
    """The terms of all units.

    Args:
        terms: uint32, those of the first unit before those of the second, and so on; none twice for a unit.
        counts: uint16, how often each occurs in its unit.
        offsets: (units + 1,) where the terms of each unit begin, and where the last ones end.
    """

    def __init__(self, terms: np.ndarray, counts: np.ndarray, offsets: np.ndarray):
        self._terms, self._counts, self._offsets = terms, counts, offsets
        sums = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        lengths = np.diff(sums[offsets])

        mean = lengths.mean() if len(lengths) else 0.0
        norms = K1 * (1 - B + B * lengths / mean) if mean else np.ones(len(lengths))
        self._norms = norms.astype(np.float32)
        #: Units and counts by term, and where each term begins: made for the second query.
        self._inverted: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
        self._queries = 0

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def match(self, query: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the BM25 score of each unit, and the share of the query that it has.

        Returns:
            Two arrays (units,) float32. Scores are 0 without a common token. The share is one of the query's
            distinct tokens by inverse document frequency, in [0, 1]. Other than a score, it does not depend on
            the length of a unit, and tells a query whose words are all unknown.
        """
        self._queries += 1
        if self._queries == 2:
            self._inverted = self._invert()

        scores, covered = np.zeros((2, len(self)), np.float32)
        total = 0.0
        for token, times in sorted(Counter(bm25_tokens(query)).items()):
            rows, counts = self._postings(term_of(token))
            weight = math.log1p((len(self) - len(rows) + 0.5) / (len(rows) + 0.5))
            scores[rows] += np.float32(times * weight) * (counts / (counts + self._norms[rows]))
            covered[rows] += weight
            total += weight
        return scores, np.minimum(covered / total, 1) if total else covered

    def _invert(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Sort by term, so that many queries are quick. A single one is quicker without."""
        rows = np.repeat(np.arange(len(self), dtype=np.int32), np.diff(self._offsets))
        order = np.argsort(self._terms, kind="stable")
        return self._terms[order], rows[order], self._counts[order]

    def _postings(self, term: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the units that have a term, in ascending order, and how often."""
        if self._inverted is not None:
            terms, rows, counts = self._inverted
            # In the type of the terms: else all of them would be converted.
            start, end = (np.searchsorted(terms, np.uint32(term), side) for side in ("left", "right"))
            return rows[start:end], counts[start:end].astype(np.float32)

        places = np.flatnonzero(self._terms == np.uint32(term))
        rows = np.searchsorted(self._offsets, places, side="right") - 1
        return rows, self._counts[places].astype(np.float32)


def flatten_counts(counts: Sequence[dict[int, int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the terms of units as the arguments of `TermTable`."""
    offsets = np.zeros(len(counts) + 1, np.int32)
    np.cumsum([len(terms) for terms in counts], out=offsets[1:])
    terms = np.fromiter((term for unit in counts for term in unit), np.uint32, count=int(offsets[-1]))
    numbers = (number for unit in counts for number in unit.values())
    return terms, np.fromiter(numbers, np.uint16, count=int(offsets[-1])), offsets
