"""The evidence for each unit of an index, or for those of a large one that can be hits."""

import numpy as np

from mose.search.ranking.catalogue import Catalogue
from mose.search.ranking.names import definition_grades
from mose.search.ranking.queries import parse_query
from mose.search.ranking.ranker import Evidence, collect_evidence, highest_rows
from mose.search.snapshot import Snapshot

#: Units of a large index that may become hits: so many by each kind of score.
CANDIDATES = 1000


def evidence_for(
    snapshot: Snapshot, query: str, vector: np.ndarray, rows: np.ndarray | None, exact: bool
) -> tuple[Evidence, Catalogue, np.ndarray | None]:
    """Return what speaks for the units that a search ranks, their catalogue, and their rows; None for all.

    Args:
        snapshot: a version of an index.
        query: what is searched for.
        vector: (dim,) its embedding.
        rows: the units that pass the filters, ascending; None if there are no filters.
        exact: rank all units of a large index, too.
    """
    if rows is None and not exact and snapshot.neighbours is not None:
        evidence, rows = evidence_of_best(snapshot, query, vector)
        return evidence, snapshot.catalogue.take(rows), rows

    evidence = evidence_of_all(snapshot, query, vector)
    if rows is None:
        return evidence, snapshot.catalogue, None
    return evidence.take(rows), snapshot.catalogue.take(rows), rows


def evidence_of_all(snapshot: Snapshot, query: str, vector: np.ndarray) -> Evidence:
    """Return what speaks for each unit. Arguments are those of `evidence_for`."""
    parsed = parse_query(query)
    bm25, coverage = snapshot.terms.match(parsed.keywords)
    return collect_evidence(parsed, snapshot.catalogue, snapshot.vectors @ vector, bm25, coverage)


def evidence_of_best(snapshot: Snapshot, query: str, vector: np.ndarray) -> tuple[Evidence, np.ndarray]:
    """Return what speaks for the units that can be hits, and their rows, ascending.

    They are the nearest ones in the graph, those with most of the query's words, and what defines its symbols.
    """
    parsed, neighbours = parse_query(query), snapshot.neighbours
    assert neighbours is not None
    near = neighbours.nearest(vector, CANDIDATES)
    bm25, coverage = snapshot.terms.match(parsed.keywords)
    with_words = [highest_rows(scores, CANDIDATES) for scores in (bm25, coverage)]
    defining = np.array(sorted(definition_grades(parsed, snapshot.catalogue)), np.intp)

    rows = np.unique(np.concatenate([near, defining, *with_words]))
    scores = snapshot.vectors[rows] @ vector, bm25[rows], coverage[rows]
    lowest = neighbours.lowest(vector, snapshot.vectors)
    return collect_evidence(parsed, snapshot.catalogue, *scores, rows, lowest), rows
