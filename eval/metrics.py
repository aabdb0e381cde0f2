"""Ranking metrics as functions of the ranks of the relevant documents.

Ranks are over the whole corpus, from 1. **Ties** are broken as trec_eval breaks them: of documents with the
same score, the one whose id is greater (by code points) ranks first. It is deterministic and has nothing to
do with relevance or with the order of the corpus, and the figures equal trec_eval's to the last digit.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from mose.data.retrieval.retrieval_set import DEFAULT_MEASURES

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
    tie = tie_places(document_ids)
    found: list[np.ndarray] = []
    for block in blocks:
        if block.ndim != 2 or block.shape[1] != len(tie):
            raise ValueError(f"scores of shape {block.shape}: must be (queries, {len(tie)} documents)")
        for row in block:
            if len(found) == len(relevant):
                raise ValueError(f"more rows of scores than the {len(relevant)} queries")
            if np.isnan(row).any():
                raise ValueError(f"the scores of query {len(found)} hold NaN")
            columns = np.asarray(relevant[len(found)], dtype=np.int64)
            found.append(1 + ahead(row, tie, row[columns], tie[columns]))
    if len(found) != len(relevant):
        raise ValueError(f"{len(found)} rows of scores for {len(relevant)} queries")
    return found


def tie_places(document_ids: Sequence[str]) -> np.ndarray:
    """(documents,) int64: the place that each document would have if all scores were equal."""
    places = np.empty(len(document_ids), dtype=np.int64)
    places[sorted(range(len(places)), key=document_ids.__getitem__, reverse=True)] = np.arange(len(places))
    return places


def ahead(row: np.ndarray, tie: np.ndarray, scores: np.ndarray, places: np.ndarray) -> np.ndarray:
    """How many documents of a row rank before each of some others: by score, and where that is equal, by place.

    Args:
        row, tie: (documents,) scores and tie places of those that are counted.
        scores, places: (others,), of those that are ranked, which may be among the documents.
    """
    if len(scores) > 8:  # sorting once is cheaper than so many looks at the row
        ordered = np.sort(row)
        upper = np.searchsorted(ordered, scores, side="right")
        higher, same = len(row) - upper, upper - np.searchsorted(ordered, scores, side="left")
    else:
        higher = np.array([np.count_nonzero(row > score) for score in scores], dtype=np.int64)
        same = np.array([np.count_nonzero(row == score) for score in scores], dtype=np.int64)
    for at in np.flatnonzero(same):
        higher[at] += np.count_nonzero((row == scores[at]) & (tie < places[at]))
    return higher


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


def reciprocal_ranks(ranks: Sequence[np.ndarray]) -> np.ndarray:
    """(queries,): reciprocal rank of the first relevant document, not cut; 0 for a query without one.

    Args:
        ranks: as `ranks` returns them.
    """
    return np.array([1.0 / query.min() if len(query) else 0.0 for query in ranks])


def mrr(ranks: Sequence[np.ndarray]) -> float:
    """Mean of `reciprocal_ranks`."""
    return _mean(reciprocal_ranks(ranks))


def recalls(ranks: Sequence[np.ndarray], k: int) -> np.ndarray:
    """(queries,): share of a query's relevant documents that rank within the first k; 0 without any.

    Raises:
        ValueError: k < 1.
    """
    _check_cutoff(k)
    return np.array([float((query <= k).mean()) if len(query) else 0.0 for query in ranks])


def recall(ranks: Sequence[np.ndarray], k: int) -> float:
    """Mean of `recalls`.

    Raises:
        ValueError: k < 1, or no queries.
    """
    return _mean(recalls(ranks, k))


def ndcgs(ranks: Sequence[np.ndarray], grades: Sequence[Sequence[int]], k: int) -> np.ndarray:
    """(queries,): normalised discounted cumulative gain of the first k (Järvelin and Kekäläinen, 2002).

    DCG = Σ grade / log2(1 + rank) over the documents with rank ≤ k, divided by that of the best order. The
    gain is the grade itself, as in trec_eval. 0 for a query without relevant documents.

    Args:
        ranks: as `ranks` returns them.
        grades: the positive grade of each of those documents.

    Raises:
        ValueError: k < 1, or a query whose ranks and grades differ in number.
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
    return np.array(values)


def ndcg(ranks: Sequence[np.ndarray], grades: Sequence[Sequence[int]], k: int) -> float:
    """Mean of `ndcgs`.

    Raises:
        ValueError: as there, and for no queries.
    """
    return _mean(ndcgs(ranks, grades, k))


def precisions_at_r(ranks: Sequence[np.ndarray]) -> np.ndarray:
    """(queries,): average precision of the first R, where R is how many relevant documents a query has.

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
    return np.array(values)


def map_at_r(ranks: Sequence[np.ndarray]) -> float:
    """Mean of `precisions_at_r`."""
    return _mean(precisions_at_r(ranks))


def per_query(
    ranks: Sequence[np.ndarray], grades: Sequence[Sequence[int]], measures: Sequence[str] = DEFAULT_MEASURES
) -> dict[str, np.ndarray]:
    """The values, (queries,) each, whose means `summary` gives.

    Raises:
        ValueError: an unknown measure.
    """
    return {name: _measure(name, ranks, grades) for name in measures}


def summary(
    ranks: Sequence[np.ndarray], grades: Sequence[Sequence[int]], measures: Sequence[str] = DEFAULT_MEASURES
) -> dict[str, float]:
    """The figures of a report: `mrr`, `map@r`, `ndcg@k` and `recall@k` for any k, as many as asked for.

    Raises:
        ValueError: an unknown measure, no queries.
    """
    return {name: _mean(values) for name, values in per_query(ranks, grades, measures).items()}


def _measure(name: str, ranks: Sequence[np.ndarray], grades: Sequence[Sequence[int]]) -> np.ndarray:
    if name == "mrr":
        return reciprocal_ranks(ranks)
    if name == "map@r":
        return precisions_at_r(ranks)
    kind, _, k = name.partition("@")
    if kind not in ("ndcg", "recall") or not k.isdecimal():
        raise ValueError(f"measure {name!r}: there are mrr, map@r, ndcg@k and recall@k")
    return ndcgs(ranks, grades, int(k)) if kind == "ndcg" else recalls(ranks, int(k))


def _mean(values: np.ndarray) -> float:
    if not len(values):
        raise ValueError("no queries: a mean over none is not defined")
    return float(values.mean())


def _check_cutoff(k: int) -> None:
    if k < 1:
        raise ValueError(f"k={k}: a cut-off must be at least 1")
