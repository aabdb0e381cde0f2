"""Ranking by inner product in blocks of documents: memory stays bounded however many there are."""

from collections.abc import Iterator, Sequence

import numpy as np

from mose.eval.metrics import BLOCK_BYTES, ahead, ranks, score_blocks, tie_places, without_own
from mose.inference.store import Vectors


def top_k(
    queries: np.ndarray,
    documents: np.ndarray | Vectors,
    k: int,
    document_ids: Sequence[str] | None = None,
    block_bytes: int = BLOCK_BYTES // 4,
) -> tuple[np.ndarray, np.ndarray]:
    """The best documents of each query.

    Documents are read once. Of equal scores, the document whose id is greater comes first, as in
    `mose.eval.metrics`; without ids, the earlier one.

    Args:
        queries: (queries, dim) float.
        documents: (documents, dim) float.
        k: how many documents; no more are returned than there are.
        document_ids: one per document.
        block_bytes: what one block of scores may take.

    Returns:
        (scores, positions), both (queries, min(k, documents)), float32 and int64, best first.

    Raises:
        ValueError: k < 1, ids that do not fit the documents, or a score that is NaN.
    """
    if k < 1:
        raise ValueError(f"k={k}: must be at least 1")
    if document_ids is not None and len(document_ids) != len(documents):
        raise ValueError(f"{len(document_ids)} ids for {len(documents)} documents")
    tie = np.arange(len(documents)) if document_ids is None else tie_places(document_ids)
    k = min(k, len(documents))
    best = np.full((len(queries), k), -np.inf, dtype=np.float32)
    places = np.full((len(queries), k), len(documents), dtype=np.int64)  # tie places of the best; no document
    for start, block in _blocks(documents, block_bytes // 4 // max(1, min(len(queries), 1024))):
        here = tie[start : start + len(block)]
        for first in range(0, len(queries), 1024):
            rows = slice(first, first + 1024)
            scores = queries[rows] @ block.T
            if np.isnan(scores).any():
                raise ValueError("a score is NaN")
            best[rows], places[rows] = _merge(best[rows], places[rows], scores, here, k)
    position = np.empty(len(tie), dtype=np.int64)
    position[tie] = np.arange(len(tie))
    return best, position[places]


def _merge(
    best: np.ndarray, places: np.ndarray, scores: np.ndarray, tie: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """The best so far (rows, k), given the scores (rows, documents) of one block more."""
    bound = best[:, -1:]
    if scores.shape[1] > k and np.count_nonzero(scores >= bound) > 4 * best.size:  # as in the first block
        bound = np.maximum(bound, np.partition(scores, -k, axis=1)[:, -k, None])
    row, column = np.nonzero(scores >= bound)  # with what ties with the last: its place may be better
    of = np.concatenate([np.repeat(np.arange(len(best)), k), row])
    score = np.concatenate([best.ravel(), scores[row, column]])
    place = np.concatenate([places.ravel(), tie[column]])
    order = np.lexsort((place, -score, of))
    counts = np.bincount(of, minlength=len(best))
    starts = np.cumsum(counts) - counts
    chosen = order[(starts[:, None] + np.arange(k)).ravel()]
    return score[chosen].reshape(-1, k), place[chosen].reshape(-1, k)


def vector_ranks(
    queries: np.ndarray,
    documents: np.ndarray | Vectors,
    relevant: Sequence[Sequence[int]],
    document_ids: Sequence[str],
    own: Sequence[int | None] | None = None,
    block_bytes: int = BLOCK_BYTES,
) -> list[np.ndarray]:
    """`metrics.ranks` from embeddings: the ranks, over all documents, of every query's relevant ones.

    Embeddings on a disk are read twice: for the scores of the relevant documents, then to count what ranks before
    them; no row of scores of the whole corpus is ever held.

    Args:
        queries: (queries, dim) float.
        documents: (documents, dim) float.
        relevant, document_ids: as for `metrics.ranks`.
        own: as for `metrics.without_own`.
        block_bytes: what one block of scores may take.

    Raises:
        ValueError: numbers that do not fit, or a score that is NaN.
    """
    if isinstance(documents, np.ndarray):
        blocks = score_blocks(queries, documents, block_bytes)
        return ranks(blocks if own is None else without_own(blocks, own), relevant, document_ids)
    if len(queries) != len(relevant) or len(documents) != len(document_ids):
        raise ValueError(
            f"{len(queries)} queries and {len(documents)} documents, "
            f"but judgements for {len(relevant)} and {len(document_ids)} ids"
        )
    tie = tie_places(document_ids)
    columns = [np.asarray(of, dtype=np.int64) for of in relevant]
    scores = [np.full(len(of), np.nan, dtype=np.result_type(queries, np.float32)) for of in columns]
    found = [np.ones(len(of), dtype=np.int64) for of in columns]
    size = block_bytes // 4 // max(1, min(len(queries), 1024))
    for counting in (False, True):  # blocks are the same both times, and so their scores to the last bit
        for start, block in _blocks(documents, size):
            here = tie[start : start + len(block)]
            for first in range(0, len(queries), 1024):
                for at, row in enumerate(queries[first : first + 1024] @ block.T, first):
                    column = own[at] if own is not None else None
                    if column is not None and start <= column < start + len(block):
                        row[column - start] = -np.inf
                    if counting:
                        found[at] += ahead(row, here, scores[at], tie[columns[at]])
                        continue
                    if np.isnan(row).any():
                        raise ValueError(f"the scores of query {at} hold NaN")
                    inside = (columns[at] >= start) & (columns[at] < start + len(block))
                    scores[at][inside] = row[columns[at][inside] - start]
    return found


def _blocks(documents: np.ndarray | Vectors, size: int) -> Iterator[tuple[int, np.ndarray]]:
    """(position of the first row, rows): at most `size` rows at a time, and at least one."""
    start = 0
    for part in [documents] if isinstance(documents, np.ndarray) else documents.blocks():
        for at in range(0, len(part), max(1, size)):
            block = part[at : at + max(1, size)]
            yield start, block
            start += len(block)
