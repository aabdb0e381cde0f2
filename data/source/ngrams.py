"""Sets of n-grams, of characters or of anything that has a number, as sorted hashes."""

import numpy as np

_MULTIPLIER = np.uint64(6364136223846793005)


def hashed_ngrams(text: str, ngram: int = 5) -> np.ndarray:
    """Return the set of a text's character n-grams, as sorted 32-bit hashes: (distinct n-grams,) uint64."""
    characters = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    return hashed_windows(characters.astype(np.uint64), ngram)


def hashed_windows(values: np.ndarray, width: int) -> np.ndarray:
    """Return the set of sequences of `width` values in a row, as sorted 32-bit hashes: (distinct,) uint64.

    Args:
        values: (count,) uint64. Fewer than `width` are one sequence.
        width: values in a sequence.
    """
    count = max(len(values) - width + 1, 1)
    hashes = np.full(count, min(len(values), width), dtype=np.uint64)

    for offset in range(min(width, len(values))):
        # A multiplicative hash modulo 2**64. Its high bits are the good ones, so fold them down.
        hashes = (hashes + values[offset : offset + count]) * _MULTIPLIER
        hashes ^= hashes >> np.uint64(29)
    return np.unique(hashes >> np.uint64(32))
