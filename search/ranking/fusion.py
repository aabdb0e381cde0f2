"""Fusion of similarities and BM25 scores, as pure functions of arrays."""

import numpy as np

DEFAULT_HYBRID = True
DENSE_WEIGHT = 0.8  # BM25 has the rest


def fuse(dense: np.ndarray, lexical: np.ndarray, dense_weight: float = DENSE_WEIGHT) -> np.ndarray:
    """Return the convex combination of a query's scaled scores.

        w · (dense - min dense) / (max dense - min dense) + (1 - w) · lexical / max lexical

    Bruch, Gai and Ingber, "An Analysis of Fusion Functions for Hybrid Retrieval", 2023, arXiv 2210.11934.
    Similarities are scaled from their minimum because models differ in how far they spread them. BM25 has a
    natural minimum of 0.

    Args:
        dense: (…, documents) cosine similarities.
        lexical: (…, documents) BM25 scores, at least 0.
        dense_weight: weight of the similarities, in [0, 1].

    Returns:
        (…, documents) fused scores in [0, 1].
    """
    return dense_weight * scale_dense(dense) + (1 - dense_weight) * scale_lexical(lexical)


def scale_dense(similarities: np.ndarray, lowest: float | None = None) -> np.ndarray:
    """Return (…, documents) similarities scaled to [0, 1] for each query; 0 if all are equal.

    Args:
        similarities: cosine similarities.
        lowest: what becomes 0, if documents with low similarities were left out before. None means the lowest.
    """
    least = similarities.min(axis=-1, keepdims=True)
    lowest = least if lowest is None else np.minimum(least, similarities.dtype.type(lowest))
    spread = similarities.max(axis=-1, keepdims=True) - lowest
    return (similarities - lowest) / np.where(spread > 0, spread, 1)


def scale_lexical(scores: np.ndarray) -> np.ndarray:
    """Return (…, documents) BM25 scores scaled to [0, 1] for each query; 0 if no document has its words."""
    best = scores.max(axis=-1, keepdims=True)
    return scores / np.where(best > 0, best, 1)
