"""Near-duplicates by MinHash and locality-sensitive hashing: Jaccard similarity of character 5-grams."""

from collections.abc import Iterable

import numpy as np
from datasketch import MinHash, MinHashLSH

#: Weights of false positives and false negatives when datasketch chooses its bands: a candidate that is none is
#: turned away afterwards by its signature, one that was never a candidate is lost.
_WEIGHTS = (0.1, 0.9)
_MULTIPLIER = np.uint64(6364136223846793005)


class NearDuplicates:
    """Remembers texts, and tells whether another is nearly one of them.

    The Jaccard similarity of two texts' sets of character n-grams is estimated from their MinHash signatures; its
    standard error is sqrt(J (1 - J) / num_perm), 0.03 at the defaults, so that pairs within about 0.1 of the
    threshold may fall on either side. The outcome depends on the texts, their order and the seed alone. Memory
    grows with the texts remembered: about 4 bytes × `num_perm` for each, and the tables.

    Args:
        threshold: The estimated similarity from which two texts are near-duplicates.
        num_perm: Length of a signature.
        ngram: Characters in an n-gram; a shorter text is one n-gram.
        seed: Of the permutations.

    Raises:
        ValueError: `threshold` is not in (0, 1], `num_perm` is below 2, or `ngram` below 1.
    """

    def __init__(self, threshold: float = 0.7, num_perm: int = 256, ngram: int = 5, seed: int = 0):
        if not 0.0 < threshold <= 1.0:
            raise ValueError(f"threshold={threshold}: a Jaccard similarity above 0 and up to 1")
        if num_perm < 2 or ngram < 1:
            raise ValueError(f"num_perm={num_perm}, ngram={ngram}: at least 2 permutations and 1 character")
        self.threshold, self.num_perm, self.ngram, self.seed = threshold, num_perm, ngram, seed
        self._empty = MinHash(num_perm=num_perm, seed=seed + 1, hashfunc=int)
        self._index = MinHashLSH(threshold=threshold, num_perm=num_perm, weights=_WEIGHTS)
        self._signatures: list[MinHash] = []

    def __len__(self) -> int:
        """How many texts are remembered."""
        return len(self._signatures)

    def is_duplicate(self, text: str) -> bool:
        """Whether a text that was added is nearly this one."""
        return self._has(self._signature(text))

    def add(self, text: str) -> bool:
        """Remembers a text unless it is a near-duplicate; whether it did."""
        signature = self._signature(text)
        if self._has(signature):
            return False
        self._index.insert(len(self._signatures), signature, check_duplication=False)
        self._signatures.append(signature)
        return True

    def _has(self, signature: MinHash) -> bool:
        candidates = self._index.query(signature)
        return any(self._signatures[at].jaccard(signature) >= self.threshold for at in candidates)

    def _signature(self, text: str) -> MinHash:
        signature = self._empty.copy()
        signature.update_batch(hashed_ngrams(text, self.ngram).tolist())
        return signature


def near_duplicates(
    texts: Iterable[str], threshold: float = 0.7, num_perm: int = 256, ngram: int = 5, seed: int = 0
) -> list[int]:
    """The positions of the texts to keep: each that is no near-duplicate of one kept before it.

    Takes the arguments of `NearDuplicates`, and raises what it raises.
    """
    seen = NearDuplicates(threshold, num_perm, ngram, seed)
    return [position for position, text in enumerate(texts) if seen.add(text)]


def hashed_ngrams(text: str, ngram: int = 5) -> np.ndarray:
    """The set of a text's character n-grams, as sorted 32-bit hashes in uint64, (distinct n-grams,)."""
    characters = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32).astype(np.uint64)
    count = max(len(characters) - ngram + 1, 1)
    hashes = np.full(count, len(characters) if len(characters) < ngram else ngram, dtype=np.uint64)
    for offset in range(min(ngram, len(characters))):
        # A multiplicative hash modulo 2**64, with the high bits folded down: they are its good ones.
        hashes = (hashes + characters[offset : offset + count]) * _MULTIPLIER
        hashes ^= hashes >> np.uint64(29)
    return np.unique(hashes >> np.uint64(32))
