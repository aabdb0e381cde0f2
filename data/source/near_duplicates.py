"""Near-duplicate detection by MinHash and locality-sensitive hashing over character 5-grams."""

import numpy as np
from datasketch import MinHash, MinHashLSH

#: Weights of false positives and false negatives in datasketch's choice of bands. False positives are filtered by
#: their signatures later; false negatives are lost, so weigh them more.
_WEIGHTS = (0.1, 0.9)
_MULTIPLIER = np.uint64(6364136223846793005)


class NearDuplicates:
    """A set of texts in which no two are near-duplicates.

    Two texts are near-duplicates if the Jaccard similarity of their sets of character n-grams is at least
    `threshold`. MinHash signatures estimate the similarity J with a standard error of sqrt(J (1 - J) / num_perm),
    0.03 at the defaults, so a pair within about 0.1 of the threshold can be decided either way. Results depend
    only on the texts, their order and the seed. Each text takes about 4 bytes × `num_perm` of memory, plus the
    hash tables.

    Args:
        threshold: estimated Jaccard similarity from which two texts are near-duplicates.
        num_perm: number of MinHash permutations, the length of a signature.
        ngram: characters per n-gram; a shorter text is one n-gram.
        seed: seed of the permutations.

    Raises:
        ValueError: `threshold` is not in (0, 1], `num_perm` is below 2, or `ngram` is below 1.
    """

    def __init__(self, threshold: float = 0.7, num_perm: int = 256, ngram: int = 5, seed: int = 0):
        if not 0.0 < threshold <= 1.0:
            raise ValueError(f"threshold must be in (0, 1], got {threshold}. Pass a Jaccard similarity.")
        if num_perm < 2 or ngram < 1:
            raise ValueError(f"num_perm must be at least 2 and ngram at least 1, got {num_perm} and {ngram}.")

        self.threshold, self.num_perm, self.ngram, self.seed = threshold, num_perm, ngram, seed
        self._empty = MinHash(num_perm=num_perm, seed=seed + 1, hashfunc=int)
        self._index = MinHashLSH(threshold=threshold, num_perm=num_perm, weights=_WEIGHTS)
        self._signatures: list[MinHash] = []

    def __len__(self) -> int:
        """Return the number of texts added."""
        return len(self._signatures)

    def add(self, text: str) -> bool:
        """Add a text unless it is a near-duplicate, and return True if it was added."""
        signature = self._signature(text)
        candidates = self._index.query(signature)
        if any(self._signatures[index].jaccard(signature) >= self.threshold for index in candidates):
            return False

        self._index.insert(len(self._signatures), signature, check_duplication=False)
        self._signatures.append(signature)
        return True

    def _signature(self, text: str) -> MinHash:
        signature = self._empty.copy()
        signature.update_batch(hashed_ngrams(text, self.ngram).tolist())
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
