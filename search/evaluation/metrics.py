"""Metrics of an order of files."""

import math
from collections.abc import Collection, Sequence


def file_ndcg(paths: Sequence[str], gold: Collection[str], k: int = 10) -> float:
    """Return the NDCG@k of hits, as files: a gold file counts once, at the rank of its first hit.

    Further hits of a file take up ranks, so repeating a file costs the others. Gold files count equally.

    Args:
        paths: file of each hit, best first.
        gold: at least one file.
        k: number of hits that count.
    """
    ranks = {path: rank for rank, path in reversed(list(enumerate(paths[:k], 1))) if path in gold}
    ideal = sum(1 / math.log2(rank + 1) for rank in range(1, min(k, len(gold)) + 1))
    return sum(1 / math.log2(rank + 1) for rank in ranks.values()) / ideal
