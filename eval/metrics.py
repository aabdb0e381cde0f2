"""Ranking metrics as functions of the ranks of the relevant documents.

Ranks are over the whole corpus, from 1. **Ties** are broken as trec_eval breaks them: of documents with the
same score, the one whose id is greater (by code points) ranks first. It is deterministic and has nothing to
do with relevance or with the order of the corpus, and the figures equal trec_eval's to the last digit.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

BLOCK_BYTES = 64 << 20  # what one block of scores may take


def score_blocks(
    queries: np.ndarray, documents: np.ndarray, block_bytes: int = BLOCK_BYTES
) -> Iterator[np.ndarray]:
    """Inner products in blocks of consecutive queries.

    Args:
        queries: (queries, dim) float.
        documents: (documents, dim) float.
        block_bytes: upper bound of one block's size; a block has at least one row.

    Yields:
        (rows, documents) arrays that stacked would be `queries @ documents.T`.
    """
    rows = max(1, block_bytes // max(1, len(documents) * queries.itemsize))
    for start in range(0, len(queries), rows):
        yield queries[start : start + rows] @ documents.T


def ranks(
    blocks: Iterable[np.ndarray], relevant: Sequence[Sequence[int]], document_ids: Sequence[str]
) -> list[np.ndarray]:
    """Ranks of every query's relevant documents.

    Args:
        blocks: arrays (rows, documents) of scores, greater is better, which together hold one row per query.
        relevant: for each query, the columns of its relevant documents.
        document_ids: one id per column, for ties.

    Returns:
        For each query an int array, its relevant documents' ranks in the order of `relevant`.

    Raises:
        ValueError: a block's width or the number of rows does not fit, or a score is NaN.
    """
    tie = np.empty(len(document_ids), dtype=np.int64)  # place of each document if all scores were equal
    tie[sorted(range(len(document_ids)), key=document_ids.__getitem__, reverse=True)] = np.arange(len(tie))
    found: list[np.ndarray] = []
    for block in blocks:
        if block.ndim != 2 or block.shape[1] != len(tie):
            raise ValueError(f"scores of shape {block.shape}: must be (queries, {len(tie)} documents)")
        for row in block:
            if len(found) == len(relevant):
                raise ValueError(f"more rows of scores than the {len(relevant)} queries")
            if np.isnan(row).any():
                raise ValueError(f"the scores of query {len(found)} hold NaN")
            found.append(_ranks_in_row(row, np.asarray(relevant[len(found)], dtype=np.int64), tie))
    if len(found) != len(relevant):
        raise ValueError(f"{len(found)} rows of scores for {len(relevant)} queries")
    return found


def _ranks_in_row(row: np.ndarray, columns: np.ndarray, tie: np.ndarray) -> np.ndarray:
    """1 + the number of documents that score higher + those that score the same and win the tie."""
    ordered, scores = np.sort(row), row[columns]
    upper = np.searchsorted(ordered, scores, side="right")
    result = len(row) - upper + 1
    for at in np.flatnonzero(upper - np.searchsorted(ordered, scores, side="left") > 1):
        result[at] += np.count_nonzero((row == scores[at]) & (tie < tie[columns[at]]))
    return result


def without_own(blocks: Iterable[np.ndarray], own: Sequence[int | None]) -> Iterator[np.ndarray]:
    """Blocks in which the document that is the query itself scores -∞, so that every other ranks before it.

    Args:
        blocks: as for `ranks`.
        own: for each query, the column of that document; None where it has none.
    """
    start = 0
    for block in blocks:
        block = np.array(block)
        for row, column in enumerate(own[start : start + len(block)]):
            if column is not None:
                block[row, column] = -np.inf
        start += len(block)
        yield block


def mrr(ranks: Sequence[np.ndarray]) -> float:
    """Mean reciprocal rank of the first relevant document, not cut; 0 for a query without one.

    Args:
        ranks: as `ranks` returns them.
    """
    return _mean(ranks, [1.0 / query.min() if len(query) else 0.0 for query in ranks])


def recall(ranks: Sequence[np.ndarray], k: int) -> float:
    """Mean share of a query's relevant documents that rank within the first k; 0 for a query without one.

    Raises:
        ValueError: k < 1, or no queries.
    """
    _check_cutoff(k)
    return _mean(ranks, [float((query <= k).mean()) if len(query) else 0.0 for query in ranks])


def ndcg(ranks: Sequence[np.ndarray], grades: Sequence[Sequence[int]], k: int) -> float:
    """Mean normalised discounted cumulative gain of the first k (Järvelin and Kekäläinen, 2002).

    DCG = Σ grade / log2(1 + rank) over the documents with rank ≤ k, divided by that of the best order. The
    gain is the grade itself, as in trec_eval. 0 for a query without relevant documents.

    Args:
        ranks: as `ranks` returns them.
        grades: the positive grade of each of those documents.

    Raises:
        ValueError: k < 1, no queries, or a query whose ranks and grades differ in number.
    """
    _check_cutoff(k)
    values = []
    for at, (query, grade) in enumerate(zip(ranks, grades, strict=True)):
        if len(query) != len(grade):
            raise ValueError(f"query {at} has {len(query)} ranks but {len(grade)} grades")
        gains = np.asarray(grade, dtype=np.float64)
        best = np.sort(gains)[::-1][:k]
        ideal = (best / np.log2(np.arange(2, len(best) + 2))).sum()
        reached = (gains / np.log2(query + 1))[query <= k].sum()
        values.append(reached / ideal if ideal > 0 else 0.0)
    return _mean(ranks, values)


def map_at_r(ranks: Sequence[np.ndarray]) -> float:
    """Mean average precision of the first R, where R is how many relevant documents a query has.

    AP@R = 1/R Σ P(i) over the relevant documents with rank i ≤ R, where P(i) is the share of relevant ones
    among the first i (Musgrave et al., 2020, arXiv 2003.08505; CodeXGLUE's POJ-104). 0 for a query without
    relevant documents.

    Args:
        ranks: as `ranks` returns them.
    """
    values = []
    for query in ranks:
        ordered = np.sort(query)
        precision = np.arange(1, len(ordered) + 1) / ordered
        values.append(float(precision[ordered <= len(ordered)].sum() / len(ordered)) if len(ordered) else 0.0)
    return _mean(ranks, values)


def summary(
    ranks: Sequence[np.ndarray],
    grades: Sequence[Sequence[int]],
    measures: Sequence[str] = ("mrr", "ndcg@10", "recall@1", "recall@10"),
) -> dict[str, float]:
    """The figures of a report: `mrr`, `map@r`, `ndcg@k` and `recall@k` for any k, as many as asked for.

    Raises:
        ValueError: an unknown measure, no queries.
    """
    return {name: _measure(name, ranks, grades) for name in measures}


def _measure(name: str, ranks: Sequence[np.ndarray], grades: Sequence[Sequence[int]]) -> float:
    if name == "mrr":
        return mrr(ranks)
    if name == "map@r":
        return map_at_r(ranks)
    kind, _, k = name.partition("@")
    if kind not in ("ndcg", "recall") or not k.isdecimal():
        raise ValueError(f"measure {name!r}: there are mrr, map@r, ndcg@k and recall@k")
    return ndcg(ranks, grades, int(k)) if kind == "ndcg" else recall(ranks, int(k))


def _mean(ranks: Sequence[np.ndarray], values: list[float]) -> float:
    if not len(ranks):
        raise ValueError("no queries: a mean over none is not defined")
    return float(np.mean(values))


def _check_cutoff(k: int) -> None:
    if k < 1:
        raise ValueError(f"k={k}: a cut-off must be at least 1")
