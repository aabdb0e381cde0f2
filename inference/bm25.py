"""BM25 over code: the lexical baseline, and the lexical half of hybrid search."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import Stemmer

from mose.utils.identifiers import identifier_parts, identifiers

if TYPE_CHECKING:
    import bm25s

#: Saturation of term frequencies, and weight of a document's length.
K1, B = 1.5, 0.75


def bm25_tokens(text: str) -> list[str]:
    """Return the tokens of a text for BM25.

    Identifiers are split at case changes, underscores and digits, then lower-cased and stemmed (Porter 2,
    English). A compound identifier is also kept whole, without underscores: `parseDate` and `parse_date` both
    give `pars`, `date`, `parsedate`. Stop words, short words and digits are kept.
    """
    return [token for identifier in identifiers(text) for token in identifier_tokens(identifier)]


def identifier_tokens(identifier: str) -> list[str]:
    """Return the tokens of one word of a text."""
    parts = identifier_parts(identifier)
    # One per call: threads must not share a stemmer, and making one takes no time.
    tokens = Stemmer.Stemmer("english").stemWords(parts)
    return [*tokens, "".join(parts)] if len(parts) > 1 else tokens


class BM25:
    """Okapi BM25 in Lucene's variant with k1 = 1.5 and b = 0.75 (Lù, 2024, arXiv 2407.03618).

    Args:
        documents: the corpus.

    Raises:
        ValueError: `documents` is empty.
    """

    def __init__(self, documents: Sequence[str]):
        if not len(documents):
            raise ValueError("BM25 needs at least one document, got none.")
        self._size = len(documents)
        tokens = [bm25_tokens(document) for document in documents]

        # bm25s cannot index a corpus without any token; all scores are 0 then.
        self._index: bm25s.BM25 | None = None
        if any(tokens):
            # Takes longer to import than a search, for which the tokens above suffice.
            from bm25s import BM25 as SparseBM25

            self._index = SparseBM25(k1=K1, b=B, method="lucene")
            self._index.index(tokens, show_progress=False)

    def __len__(self) -> int:
        return self._size

    def scores(self, query: str) -> np.ndarray:
        """Return the score of every document, (documents,) float32; 0 if it shares no token with `query`."""
        if self._index is None:
            return np.zeros(self._size, dtype=np.float32)
        return self._index.get_scores_from_ids(self._index.get_tokens_ids(bm25_tokens(query)))

    def coverage(self, query: str) -> np.ndarray:
        """Return how much of `query` each document has, (documents,) float32 in [0, 1].

        It is the share of the query's distinct tokens by inverse document frequency. Other than a score, it does
        not depend on the length of a document, and tells a query whose words are all unknown.
        """
        tokens = sorted(set(bm25_tokens(query)))
        covered = np.zeros(self._size, dtype=np.float32)
        total = 0.0
        for token in tokens:
            holds = np.zeros(self._size, dtype=bool)
            if self._index is not None and (ids := self._index.get_tokens_ids([token])):
                holds = self._index.get_scores_from_ids(ids) > 0
            frequency = int(holds.sum())
            weight = math.log1p((self._size - frequency + 0.5) / (frequency + 0.5))
            covered += weight * holds
            total += weight
        return np.minimum(covered / total, 1) if total else covered
