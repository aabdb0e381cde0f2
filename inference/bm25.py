"""BM25 over code: the lexical baseline, and the lexical half of hybrid search."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import bm25s
import numpy as np
import Stemmer

_WORD = re.compile(r"\w+")
_BOUNDARY = re.compile(
    r"_+"
    r"|(?<=[a-z0-9])(?=[A-Z])"  # parse|Date
    r"|(?<=[A-Z])(?=[A-Z][a-z])"  # HTTP|Server
    r"|(?<=\d)(?=[^\W\d])|(?<=[^\W\d])(?=\d)"  # utf|8
)


def tokenize(text: str) -> list[str]:
    """Words for BM25.

    Identifiers are split at case, underscores and digits, lower-cased and stemmed (Porter 2, English). An
    identifier of several words also counts as a whole, without its underscores: `parseDate` and `parse_date`
    both give `pars`, `date`, `parsedate`. Nothing else is dropped: no stop words, no short words, no digits.
    """
    stemmer = Stemmer.Stemmer("english")  # one per call: a stemmer must not be shared between threads
    tokens: list[str] = []
    for word in _WORD.findall(text):
        parts = [part.lower() for part in _BOUNDARY.split(word) if part]
        tokens += stemmer.stemWords(parts)
        if len(parts) > 1:
            tokens.append("".join(parts))
    return tokens


class BM25:
    """Okapi BM25 in Lucene's form, k1 = 1.5 and b = 0.75 (Lù, 2024, arXiv 2407.03618).

    Args:
        documents: the corpus.

    Raises:
        ValueError: an empty corpus.
    """

    def __init__(self, documents: Sequence[str]):
        if not len(documents):
            raise ValueError("BM25 needs at least one document")
        self._size = len(documents)
        tokens = [tokenize(document) for document in documents]
        # A corpus without a single word has nothing to index: every score is 0.
        self._index: bm25s.BM25 | None = None
        if any(tokens):
            self._index = bm25s.BM25(k1=1.5, b=0.75, method="lucene")
            self._index.index(tokens, show_progress=False)

    def __len__(self) -> int:
        return self._size

    def save(self, folder: Path) -> None:
        """Writes the index into `folder`, which is made, for `load`."""
        folder.mkdir(parents=True)
        (folder / "documents.json").write_text(json.dumps({"size": self._size, "words": self._index is not None}))
        if self._index is not None:
            self._index.save(folder, show_progress=False)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """What `save` wrote; the scores are read from the disk as queries need them.

        Raises:
            OSError, ValueError, KeyError: a file is missing or damaged.
        """
        facts = json.loads((folder / "documents.json").read_text())
        found = cls.__new__(cls)
        found._size = int(facts["size"])
        found._index = bm25s.BM25.load(folder, mmap=True) if facts["words"] else None
        return found

    def scores(self, query: str) -> np.ndarray:
        """(documents,) float32: the score of every document, 0 where no word is shared."""
        if self._index is None:
            return np.zeros(self._size, dtype=np.float32)
        return self._index.get_scores_from_ids(self._index.get_tokens_ids(tokenize(query)))

    def top_k(self, queries: Sequence[str], k: int) -> tuple[np.ndarray, np.ndarray]:
        """The best documents of each query; of equal scores, the earlier document comes first.

        Args:
            queries: any number of queries.
            k: how many documents; no more are returned than there are.

        Returns:
            (scores, positions), both (queries, min(k, documents)), float32 and int64, best first.

        Raises:
            ValueError: k < 1.
        """
        if k < 1:
            raise ValueError(f"k={k}: must be at least 1")
        k = min(k, self._size)
        scores = np.empty((len(queries), k), dtype=np.float32)
        positions = np.empty((len(queries), k), dtype=np.int64)
        for at, query in enumerate(queries):
            every = self.scores(query)
            threshold = np.partition(every, self._size - k)[self._size - k]
            candidates = np.flatnonzero(every >= threshold)
            positions[at] = candidates[np.argsort(-every[candidates], kind="stable")[:k]]
            scores[at] = every[positions[at]]
        return scores, positions
