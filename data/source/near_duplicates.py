"""Near-duplicate detection by MinHash and locality-sensitive hashing over character 5-grams."""

from collections.abc import Iterator, Sequence

import numpy as np
from datasketch import MinHash, MinHashLSH

from mose.data.source.ngrams import hashed_ngrams

#: Estimated Jaccard similarity from which two texts are near-duplicates.
THRESHOLD = 0.7
#: Length of a signature. The standard error of a similarity J is sqrt(J (1 - J) / 256), 0.03 at the threshold.
PERMUTATIONS = 256
#: Weights of false positives and false negatives in datasketch's choice of bands. False positives are filtered by
#: their signatures later; false negatives are lost, so weigh them more.
_WEIGHTS = (0.1, 0.9)
#: Length of a signature that only has to propose pairs.
_PAIR_PERMUTATIONS = 128


class NearDuplicates:
    """A set of texts in which no two are near-duplicates.

    Two texts are near-duplicates if the estimated Jaccard similarity of their character 5-grams is 0.7 or more; a
    pair within about 0.1 of that can be decided either way. Results depend only on the texts, their order and
    `seed`, the seed of the permutations. Each text takes about 1 kB of memory, plus the hash tables.
    """

    def __init__(self, seed: int = 0):
        self._empty = MinHash(num_perm=PERMUTATIONS, seed=seed + 1, hashfunc=int)
        self._index = MinHashLSH(threshold=THRESHOLD, num_perm=PERMUTATIONS, weights=_WEIGHTS)
        self._signatures: list[MinHash] = []

    def __len__(self) -> int:
        """Return the number of texts added."""
        return len(self._signatures)

    def add(self, text: str) -> bool:
        """Add a text unless it is a near-duplicate, and return True if it was added."""
        signature = self._signature(text)
        if self._first_like(signature) is not None:
            return False

        self._index.insert(len(self._signatures), signature, check_duplication=False)
        self._signatures.append(signature)
        return True

    def find(self, text: str) -> int | None:
        """Return the position of the first text of which this is a near-duplicate; None if there is none."""
        return self._first_like(self._signature(text))

    def _first_like(self, signature: MinHash) -> int | None:
        candidates = sorted(self._index.query(signature))
        return next((row for row in candidates if self._signatures[row].jaccard(signature) >= THRESHOLD), None)

    def _signature(self, text: str) -> MinHash:
        signature = self._empty.copy()
        signature.update_batch(hashed_ngrams(text).tolist())
        return signature


def similar_sets(sets: Sequence[np.ndarray], threshold: float, seed: int = 0) -> Iterator[tuple[int, int, float]]:
    """Yield the pairs of sets with a Jaccard similarity of `threshold` or more.

    Candidates come from signatures, so that a pair at the threshold can be missed. Similarities are exact.

    Args:
        sets: (size,) uint64 each, ascending, below 2**32, not empty.
        threshold: in (0, 1].
        seed: of the permutations.

    Yields:
        Positions of both, the lower one first, and the similarity. The order is that of the higher position.
    """
    empty = MinHash(num_perm=_PAIR_PERMUTATIONS, seed=seed + 1, hashfunc=int)
    index = MinHashLSH(threshold=min(threshold, 0.99), num_perm=_PAIR_PERMUTATIONS, weights=_WEIGHTS)

    for row, values in enumerate(sets):
        signature = empty.copy()
        signature.update_batch(values.tolist())
        for other in sorted(index.query(signature)):
            common = len(np.intersect1d(values, sets[other], assume_unique=True))
            similarity = common / (len(values) + len(sets[other]) - common)
            if similarity >= threshold:
                yield other, row, similarity
        index.insert(row, signature, check_duplication=False)
