"""Near-duplicate detection by MinHash and locality-sensitive hashing over character 5-grams."""

import numpy as np
from datasketch import MinHash, MinHashLSH

#: Estimated Jaccard similarity from which two texts are near-duplicates.
THRESHOLD = 0.7
#: Length of a signature. The standard error of a similarity J is sqrt(J (1 - J) / 256), 0.03 at the threshold.
PERMUTATIONS = 256
#: Weights of false positives and false negatives in datasketch's choice of bands. False positives are filtered by
#: their signatures later; false negatives are lost, so weigh them more.
_WEIGHTS = (0.1, 0.9)
_MULTIPLIER = np.uint64(6364136223846793005)


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
        candidates = self._index.query(signature)
        if any(self._signatures[index].jaccard(signature) >= THRESHOLD for index in candidates):
            return False

        self._index.insert(len(self._signatures), signature, check_duplication=False)
        self._signatures.append(signature)
        return True

    def _signature(self, text: str) -> MinHash:
        signature = self._empty.copy()
        signature.update_batch(hashed_ngrams(text).tolist())
        return signature


def hashed_ngrams(text: str, ngram: int = 5) -> np.ndarray:
    """Return the set of a text's character n-grams, as sorted 32-bit hashes: (distinct n-grams,) uint64."""
    characters = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32).astype(np.uint64)
    count = max(len(characters) - ngram + 1, 1)
    hashes = np.full(count, len(characters) if len(characters) < ngram else ngram, dtype=np.uint64)

    for offset in range(min(ngram, len(characters))):
        # A multiplicative hash modulo 2**64. Its high bits are the good ones, so fold them down.
        hashes = (hashes + characters[offset : offset + count]) * _MULTIPLIER
        hashes ^= hashes >> np.uint64(29)
    return np.unique(hashes >> np.uint64(32))
