"""Words of names, paths and queries, and how much of one is in the other."""

from collections.abc import Iterable, Sequence

import numpy as np
import Stemmer

from mose.utils.identifiers import split_identifiers

#: Words that say nothing about code: questions have them, names do not.
STOP_WORDS = frozenset(
    word
    for line in (
        "a an and are as at be by can do does for from how i if in into is it its of on or that the their them",
        "then there these this those to us via was we were what when where which who why will with without you",
    )
    for word in line.split()
)


def content_words(text: str) -> str:
    """Return a query without the words that say nothing about code; the whole query if it has no others."""
    return " ".join(word for word in text.split() if word.lower().strip(".,;:?!") not in STOP_WORDS) or text


def term_lists(texts: Iterable[str]) -> list[list[str]]:
    """Return the terms of each text: identifiers split, in lower case, stemmed (Porter 2), no stop words."""
    stemmer = Stemmer.Stemmer("english")  # one per call: threads must not share a stemmer
    known: dict[str, list[str]] = {}  # names repeat
    lists = []
    for text in texts:
        if text not in known:
            words = [part for parts in split_identifiers(text) for part in parts if part not in STOP_WORDS]
            known[text] = stemmer.stemWords(words)
        lists.append(known[text])
    return lists


class TermIndex:
    """Which of many short texts, such as names, have a term. Rare terms weigh more, as in BM25.

    Args:
        texts: the terms of each text.
    """

    def __init__(self, texts: Sequence[Sequence[str]]):
        rows: dict[str, list[int]] = {}
        for row, terms in enumerate(texts):
            for term in dict.fromkeys(terms):
                rows.setdefault(term, []).append(row)
        self._rows = {term: np.array(places) for term, places in rows.items()}

        self._size = len(texts)
        self._weights = {term: self._weight(len(places)) for term, places in rows.items()}
        self._totals = np.zeros(len(texts))
        for term, places in self._rows.items():
            self._totals[places] += self._weights[term]

    def coverage(
        self, query: Iterable[str], texts: np.ndarray | slice = slice(None)
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return how much of each text the query has, and how much of the query each text has.

        Args:
            query: terms.
            texts: which texts to tell about.

        Returns:
            Two arrays (texts,) of shares in [0, 1]. A text without terms has nothing.
        """
        query = sorted(set(query))
        common = np.zeros(self._size)
        for term in query:
            if term in self._rows:
                common[self._rows[term]] += self._weights[term]

        common, totals = common[texts], self._totals[texts]
        total = sum(self._weights.get(term, self._weight(0)) for term in query)
        of_text = np.divide(common, totals, out=np.zeros(len(common)), where=totals > 0)
        return np.minimum(of_text, 1.0), np.minimum(common / total, 1.0) if total else common

    def _weight(self, frequency: int) -> float:
        """Return the inverse document frequency of a term, above 0."""
        return float(np.log1p((self._size - frequency + 0.5) / (frequency + 0.5)))
