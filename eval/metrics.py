"""Ranking metrics, as functions of the ranks of the relevant documents.

Ranks are over the whole corpus and start at 1. **Ties** are broken as in trec_eval: among documents with the
same score, the greater id (by code points) ranks first. This is deterministic, independent of relevance and of
the order of the corpus, and reproduces trec_eval's figures to the last digit.

To add a metric, write a function from `Ranks` to one value per query and name it in `_per_query_values`.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from mose.data.retrieval.retrieval_set import DEFAULT_MEASURES

#: Maximum size of one block of scores.
BLOCK_BYTES = 64 << 20
#: One int array for each query: the ranks of its relevant documents, as `relevant_ranks` returns them.
Ranks = Sequence[np.ndarray]


def score_blocks(
    queries: np.ndarray, documents: np.ndarray, block_bytes: int = BLOCK_BYTES
) -> Iterator[np.ndarray]:
    """Yield (rows, documents) blocks of `queries @ documents.T`, of at most `block_bytes` or one row."""
    rows = max(1, block_bytes // max(1, len(documents) * queries.itemsize))
    for start in range(0, len(queries), rows):
        yield queries[start : start + rows] @ documents.T


def relevant_ranks(
    blocks: Iterable[np.ndarray], relevant: Sequence[Sequence[int]], document_ids: Sequence[str]
) -> list[np.ndarray]:
    """Return the ranks of every query's relevant documents: one int array per query, in the order of `relevant`.

    Args:
        blocks: (rows, documents) arrays of scores, greater is better. Together they have one row per query.
        relevant: the columns of the relevant documents of each query.
        document_ids: one per column, to break ties.

    Raises:
        ValueError: the width of a block or the number of rows does not fit, or a score is NaN.
    """
    ties = tie_order(document_ids)
    ranks: list[np.ndarray] = []

    for block in blocks:
        if block.ndim != 2 or block.shape[1] != len(ties):
            raise ValueError(f"scores must have shape (queries, {len(ties)} documents), got {block.shape}")
        for row in block:
            if len(ranks) == len(relevant):
                raise ValueError(f"scores must have one row for each of the {len(relevant)} queries, got more")
            if np.isnan(row).any():
                raise ValueError(f"scores must not be NaN, got NaN for query {len(ranks)}")

            columns = np.asarray(relevant[len(ranks)], dtype=np.int64)
            ranks.append(1 + count_ahead(row, ties, row[columns], ties[columns]))

    if len(ranks) != len(relevant):
        raise ValueError(f"scores must have one row for each of the {len(relevant)} queries, got {len(ranks)}")
    return ranks


def tie_order(document_ids: Sequence[str]) -> np.ndarray:
    """Return (documents,) int64: the position of each document if all scores were equal."""
    order = np.empty(len(document_ids), dtype=np.int64)
    order[sorted(range(len(order)), key=document_ids.__getitem__, reverse=True)] = np.arange(len(order))
    return order


def count_ahead(row: np.ndarray, ties: np.ndarray, scores: np.ndarray, score_ties: np.ndarray) -> np.ndarray:
    """Count the documents of a row that rank before each of some documents.

    Args:
        row: (documents,) scores.
        ties: (documents,) tie order.
        scores: (ranked,) scores of the documents to rank, which can be among those of the row.
        score_ties: (ranked,) their tie order.
    """
    # Up to a few documents, one pass over the row for each is cheaper than sorting it.
    if len(scores) > 8:
        ordered = np.sort(row)
        upper = np.searchsorted(ordered, scores, side="right")
        ahead, equal = len(row) - upper, upper - np.searchsorted(ordered, scores, side="left")
    else:
        ahead = np.array([np.count_nonzero(row > score) for score in scores], dtype=np.int64)
        equal = np.array([np.count_nonzero(row == score) for score in scores], dtype=np.int64)

    # Only documents with the same score need a look at their ids.
    for index in np.flatnonzero(equal):
        ahead[index] += np.count_nonzero((row == scores[index]) & (ties < score_ties[index]))
    return ahead


def mask_own(blocks: Iterable[np.ndarray], own: Sequence[int | None]) -> Iterator[np.ndarray]:
    """Yield copies of the blocks in which the document that is the query itself scores -∞ and ranks last.

    `own` has the column of that document for each query, or None.
    """
    start = 0
    for block in blocks:
        block = np.array(block)  # scores of the caller stay as they are
        for row, column in enumerate(own[start : start + len(block)]):
            if column is not None:
                block[row, column] = -np.inf
        start += len(block)
        yield block


def reciprocal_ranks(ranks: Ranks) -> np.ndarray:
    """Return (queries,): the reciprocal rank of the first relevant document, without a cut-off; 0 without any."""
    return np.array([1.0 / query.min() if len(query) else 0.0 for query in ranks])


def recalls(ranks: Ranks, k: int) -> np.ndarray:
    """Return (queries,): the share of the relevant documents that rank within the first k; 0 without any.

    Raises:
        ValueError: k < 1.
    """
    _check_cutoff(k)
    return np.array([float((query <= k).mean()) if len(query) else 0.0 for query in ranks])


def ndcgs(ranks: Ranks, grades: Sequence[Sequence[int]], k: int) -> np.ndarray:
    """Return (queries,): normalised discounted cumulative gain at k (Järvelin and Kekäläinen, 2002).

    DCG = Σ grade / log2(1 + rank) over the documents with rank ≤ k, divided by the DCG of the best order. The
    gain is the grade itself, as in trec_eval. A query without relevant documents has 0.

    Raises:
        ValueError: k < 1, or a query has not as many positive `grades` as `ranks`.
    """
    _check_cutoff(k)
    values = []

    for index, (query, query_grades) in enumerate(zip(ranks, grades, strict=True)):
        if len(query) != len(query_grades):
            raise ValueError(f"query {index} has {len(query)} ranks but {len(query_grades)} grades")

        gains = np.asarray(query_grades, dtype=np.float64)
        best = np.sort(gains)[::-1][:k]
        ideal = (best / np.log2(np.arange(2, len(best) + 2))).sum()
        reached = (gains / np.log2(query + 1))[query <= k].sum()
        values.append(reached / ideal if ideal > 0 else 0.0)

    return np.array(values)


def precisions_at_r(ranks: Ranks) -> np.ndarray:
    """Return (queries,): average precision at R, the number of relevant documents of the query.

    AP@R = 1/R Σ P(i) over the relevant documents with rank i ≤ R, where P(i) is the share of relevant ones
    among the first i (Musgrave et al., 2020, arXiv 2003.08505; CodeXGLUE's POJ-104). A query without relevant
    documents has 0.
    """
    values = []
    for query in ranks:
        # The i-th relevant document is preceded by i - 1 others, so its precision is i / rank.
        ordered = np.sort(query)
        precision = np.arange(1, len(ordered) + 1) / ordered
        values.append(float(precision[ordered <= len(ordered)].sum() / len(ordered)) if len(ordered) else 0.0)
    return np.array(values)


def mrr(ranks: Ranks) -> float:
    """Return the mean reciprocal rank; ValueError without queries."""
    return _query_mean(reciprocal_ranks(ranks))


def map_at_r(ranks: Ranks) -> float:
    """Return the mean of `precisions_at_r`; ValueError without queries."""
    return _query_mean(precisions_at_r(ranks))


def per_query(
    ranks: Ranks, grades: Sequence[Sequence[int]], measures: Sequence[str] = DEFAULT_MEASURES
) -> dict[str, np.ndarray]:
    """Return measure -> (queries,), the values whose means `summary` returns."""
    return {name: _per_query_values(name, ranks, grades) for name in measures}


def summary(
    ranks: Ranks, grades: Sequence[Sequence[int]], measures: Sequence[str] = DEFAULT_MEASURES
) -> dict[str, float]:
    """Return measure -> mean over queries, the figures of a report.

    Args:
        ranks: see `Ranks`.
        grades: the positive grade of each of those documents.
        measures: any of `mrr`, `map@r`, and `ndcg@k` and `recall@k` for any k.

    Raises:
        ValueError: an unknown measure, or no queries.
    """
    return {name: _query_mean(values) for name, values in per_query(ranks, grades, measures).items()}


def _per_query_values(name: str, ranks: Ranks, grades: Sequence[Sequence[int]]) -> np.ndarray:
    if name == "mrr":
        return reciprocal_ranks(ranks)
    if name == "map@r":
        return precisions_at_r(ranks)

    kind, _, k = name.partition("@")
    if kind not in ("ndcg", "recall") or not k.isdecimal():
        raise ValueError(f"measure must be mrr, map@r, ndcg@k or recall@k, got {name!r}")
    return ndcgs(ranks, grades, int(k)) if kind == "ndcg" else recalls(ranks, int(k))


def _query_mean(values: np.ndarray) -> float:
    if not len(values):
        raise ValueError("no queries: their mean is undefined. Pass at least one.")
    return float(values.mean())


def _check_cutoff(k: int) -> None:
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
