"""Ranking by inner product in blocks of documents, so that memory is bounded for a corpus of any size."""

from collections.abc import Iterator, Sequence

import numpy as np

from mose.eval.metrics import BLOCK_BYTES, count_ahead, mask_own, relevant_ranks, score_blocks, tie_order
from mose.inference.store import Vectors

#: Number of queries that are multiplied with a block of documents at once.
_QUERY_ROWS = 1024


def top_k(
    queries: np.ndarray,
    documents: np.ndarray | Vectors,
    k: int,
    document_ids: Sequence[str] | None = None,
    block_bytes: int = BLOCK_BYTES // 4,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the best documents of each query. Documents are read once.

    Among equal scores, the document with the greater id comes first, as in `mose.eval.metrics`. Without ids it
    is the earlier document.

    Args:
        queries: (queries, dim) float.
        documents: (documents, dim) float.
        k: number of documents per query; fewer are returned if there are fewer.
        document_ids: one per document.
        block_bytes: maximum size of a block of scores.

    Returns:
        (scores, positions), both (queries, min(k, documents)), float32 and int64, best first.

    Raises:
        ValueError: k < 1, a number of ids that differs from the number of documents, or a score that is NaN.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    if document_ids is not None and len(document_ids) != len(documents):
        raise ValueError(f"{len(document_ids)} ids for {len(documents)} documents. Pass one for each.")

    ties = np.arange(len(documents)) if document_ids is None else tie_order(document_ids)
    k = min(k, len(documents))
    best = np.full((len(queries), k), -np.inf, dtype=np.float32)
    best_ties = np.full((len(queries), k), len(documents), dtype=np.int64)  # no document yet

    for start, rows, scores in _score_tiles(queries, documents, block_bytes):
        if np.isnan(scores).any():
            raise ValueError("scores must not be NaN. Check queries and documents for NaN.")
        block_ties = ties[start : start + scores.shape[1]]
        best[rows], best_ties[rows] = _merge_best(best[rows], best_ties[rows], scores, block_ties, k)

    # From tie order back to positions.
    positions = np.empty(len(ties), dtype=np.int64)
    positions[ties] = np.arange(len(ties))
    return best, positions[best_ties]


def _merge_best(
    best: np.ndarray, best_ties: np.ndarray, scores: np.ndarray, ties: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Update the best (rows, k) scores and their tie order with the (rows, documents) scores of a block."""
    bound = best[:, -1:]

    # In the first blocks most scores would pass; the block's own k-th best is a tighter bound.
    if scores.shape[1] > k and np.count_nonzero(scores >= bound) > 4 * best.size:
        bound = np.maximum(bound, np.partition(scores, -k, axis=1)[:, -k, None])
    row, column = np.nonzero(scores >= bound)  # ties with the last may come before it

    rows = np.concatenate([np.repeat(np.arange(len(best)), k), row])
    all_scores = np.concatenate([best.ravel(), scores[row, column]])
    all_ties = np.concatenate([best_ties.ravel(), ties[column]])
    order = np.lexsort((all_ties, -all_scores, rows))

    # The first k of each row, in the flat order.
    counts = np.bincount(rows, minlength=len(best))
    starts = np.cumsum(counts) - counts
    chosen = order[(starts[:, None] + np.arange(k)).ravel()]
    return all_scores[chosen].reshape(-1, k), all_ties[chosen].reshape(-1, k)


def vector_ranks(
    queries: np.ndarray,
    documents: np.ndarray | Vectors,
    relevant: Sequence[Sequence[int]],
    document_ids: Sequence[str],
    own: Sequence[int | None] | None = None,
    block_bytes: int = BLOCK_BYTES,
) -> list[np.ndarray]:
    """Return the ranks, over all documents, of every query's relevant ones.

    Embeddings on disk are read twice: for the scores of the relevant documents, then to count the documents
    ahead of them. Scores over the whole corpus are never in memory at once.

    `queries` and `documents` are (n, dim) float. For the other arguments see `metrics.relevant_ranks` and
    `metrics.mask_own`; `block_bytes` is the maximum size of a block of scores.

    Raises:
        ValueError: numbers of queries, documents and judgements that do not fit, or a score that is NaN.
    """
    if isinstance(documents, np.ndarray):
        blocks = score_blocks(queries, documents, block_bytes)
        return relevant_ranks(blocks if own is None else mask_own(blocks, own), relevant, document_ids)
    if len(queries) != len(relevant) or len(documents) != len(document_ids):
        raise ValueError(
            f"{len(queries)} queries and {len(documents)} documents, "
            f"but judgements for {len(relevant)} and {len(document_ids)} ids"
        )

    ties = tie_order(document_ids)
    columns = [np.asarray(query, dtype=np.int64) for query in relevant]
    ranks = [np.ones(len(query), dtype=np.int64) for query in columns]

    # The blocks are the same in both passes, so the scores are equal to the last bit.
    scores = _relevant_scores(queries, documents, columns, own, block_bytes)
    for query, start, row in _query_rows(queries, documents, own, block_bytes):
        block_ties = ties[start : start + len(row)]
        ranks[query] += count_ahead(row, block_ties, scores[query], ties[columns[query]])
    return ranks


def _relevant_scores(
    queries: np.ndarray,
    documents: Vectors,
    columns: Sequence[np.ndarray],
    own: Sequence[int | None] | None,
    block_bytes: int,
) -> list[np.ndarray]:
    """Return the scores of each query's relevant documents, in the order of `columns`."""
    scores = [np.full(len(query), np.nan, dtype=np.result_type(queries, np.float32)) for query in columns]
    for query, start, row in _query_rows(queries, documents, own, block_bytes):
        if np.isnan(row).any():
            raise ValueError(f"scores must not be NaN, got NaN for query {query}")

        inside = (columns[query] >= start) & (columns[query] < start + len(row))
        scores[query][inside] = row[columns[query][inside] - start]
    return scores


def _query_rows(
    queries: np.ndarray, documents: Vectors, own: Sequence[int | None] | None, block_bytes: int
) -> Iterator[tuple[int, int, np.ndarray]]:
    """Yield (query, position of the first document, scores) per query and block; `own` scores -∞."""
    for start, rows, scores in _score_tiles(queries, documents, block_bytes):
        for query, row in enumerate(scores, rows.start):
            column = own[query] if own is not None else None
            if column is not None and start <= column < start + len(row):
                row[column - start] = -np.inf
            yield query, start, row


def _score_tiles(
    queries: np.ndarray, documents: np.ndarray | Vectors, block_bytes: int
) -> Iterator[tuple[int, slice, np.ndarray]]:
    """Yield (position of the first document, rows of queries, (rows, documents) scores)."""
    size = max(1, block_bytes // 4 // max(1, min(len(queries), _QUERY_ROWS)))
    start = 0

    for part in [documents] if isinstance(documents, np.ndarray) else documents.blocks():
        for first in range(0, len(part), size):
            block = part[first : first + size]
            for row in range(0, len(queries), _QUERY_ROWS):
                rows = slice(row, row + _QUERY_ROWS)
                yield start, rows, queries[rows] @ block.T
            start += len(block)
