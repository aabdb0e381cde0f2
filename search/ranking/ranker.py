"""The order of the units for a query: all ranking functions together."""

import dataclasses
from typing import NamedTuple

import numpy as np

from mose.search.ranking.catalogue import Catalogue
from mose.search.ranking.constants import DEFAULT_CONSTANTS, RankingConstants
from mose.search.ranking.files import agreement, repeats
from mose.search.ranking.fusion import scale_dense, scale_lexical
from mose.search.ranking.names import definition_grades, file_name_matches, name_matches, path_matches
from mose.search.ranking.queries import SearchQuery
from mose.search.ranking.roles import ROLES, role_factors, roles_asked_for

#: Best units that vouch for their file.
_JURY = 50
#: Units that can become hits for each hit wanted: enough that a file's further hits make room for others.
_POOL = 40


@dataclasses.dataclass(frozen=True)
class Evidence:
    """All that speaks for each unit, before anything is weighted. Arrays are (units,) unless noted.

    Attributes:
        query: the parsed query.
        similarities: cosine similarities.
        bm25: BM25 scores.
        coverage: share of the query's words that the unit has.
        dense: similarities, scaled to [0, 1].
        lexical: BM25 scores, scaled to [0, 1].
        definition: how well the unit defines a symbol of the query.
        name: how far its name has the words of the query.
        file_name: (files,) the same for the file's name.
        path: (files,) share of the query in the file's path.
        among: number of units that these are the best of.
    """

    query: SearchQuery
    similarities: np.ndarray
    bm25: np.ndarray
    coverage: np.ndarray
    dense: np.ndarray
    lexical: np.ndarray
    definition: np.ndarray
    name: np.ndarray
    file_name: np.ndarray
    path: np.ndarray
    among: int

    def take(self, rows: np.ndarray) -> "Evidence":
        """Return the evidence of some of the units, scaled as before. The others are no part of the search."""
        names = ("similarities", "bm25", "coverage", "dense", "lexical", "definition", "name")
        return dataclasses.replace(self, among=len(rows), **{name: getattr(self, name)[rows] for name in names})


class Parts(NamedTuple):
    """The sum that a hit's rank comes from: ((the first six and structure) · role + agreement) · repeat."""

    dense: float  # share of the similarity
    lexical: float  # share of BM25
    definition: float  # boost for defining a symbol of the query
    name: float  # boost for words in its name
    file_name: float
    path: float
    role: float  # factor of tests, examples, stubs, …
    agreement: float  # boost for other good units of the file
    repeat: float  # factor for better hits of the same file
    structure: float = 0.0  # share of the sequences of tokens that are in common, if the query is code

    @property
    def fit(self) -> float:
        """Fit of the unit, whatever stands before it."""
        boosted = self.dense + self.lexical + self.definition + self.name + self.file_name + self.path
        boosted += self.structure
        return boosted * self.role + self.agreement

    @property
    def rank_score(self) -> float:
        """The score that hits are ordered by."""
        return self.fit * self.repeat


class Ranking(NamedTuple):
    """The best units for a query, best first."""

    rows: np.ndarray  # (hits,)
    parts: list[Parts]


def collect_evidence(
    query: SearchQuery,
    catalogue: Catalogue,
    similarities: np.ndarray,
    bm25: np.ndarray,
    coverage: np.ndarray,
    rows: np.ndarray | None = None,
    lowest: float | None = None,
) -> Evidence:
    """Return what speaks for each unit, or for some that have the highest scores.

    Args:
        query: from `mose.search.ranking.queries.parse_query`.
        catalogue: all units.
        similarities: (units,) cosine similarities with the query, or (rows,).
        bm25: the BM25 scores of the same units, at least 0.
        coverage: share of the query's words that each of them has, in [0, 1].
        rows: ascending; None means all units.
        lowest: the lowest similarity of all units; None means that of `similarities`.
    """
    grades = definition_grades(query, catalogue)
    definition = np.zeros(len(similarities))
    if rows is None:
        definition[list(grades)] = list(grades.values())
    elif grades:
        defining = np.array(sorted(grades), np.intp)
        defining = defining[np.isin(defining, rows)]
        definition[np.searchsorted(rows, defining)] = [grades[row] for row in defining.tolist()]

    return Evidence(
        query=query,
        similarities=similarities,
        bm25=bm25,
        coverage=coverage,
        dense=scale_dense(similarities, lowest),
        lexical=scale_lexical(bm25),
        definition=definition,
        name=name_matches(query, catalogue, slice(None) if rows is None else rows),
        file_name=file_name_matches(query, catalogue),
        path=path_matches(query, catalogue),
        among=len(catalogue),
    )


def rank_units(
    evidence: Evidence,
    catalogue: Catalogue,
    top_k: int,
    constants: RankingConstants = DEFAULT_CONSTANTS,
    one_per_file: bool = False,
) -> Ranking:
    """Return the best units, best first. The order of the rows changes nothing.

    Args:
        evidence: from `collect_evidence`.
        catalogue: the units.
        top_k: number of hits, fewer if there are fewer units.
        constants: weights of the ranking functions.
        one_per_file: return the best unit of each file alone.
    """
    columns = _boosts(evidence, catalogue, constants)
    factors = {role: getattr(constants, role) for role in ROLES}
    role = role_factors(catalogue.roles, factors, roles_asked_for(evidence.query.terms))[catalogue.file_of]
    scores = sum(columns.values()) * role

    jury = best_rows_by(scores, _JURY, catalogue.position)
    agreed = constants.agreement * agreement(scores, catalogue.file_of, jury)
    scores = scores + agreed

    # Within a file the order stays, so each hit's factor is known beforehand.
    pool = best_rows_by(scores, len(scores) if one_per_file else _POOL * top_k, catalogue.position)
    before = repeats(catalogue.file_of[pool])
    if one_per_file:
        pool, before = pool[before == 0], before[before == 0]
    repeat = constants.repeat**before
    chosen = best_rows_by(scores[pool] * repeat, top_k, np.arange(len(pool)))
    rows = pool[chosen]

    table = [column[rows].tolist() for column in (*columns.values(), role, agreed)]
    return Ranking(rows, [Parts(*values) for values in zip(*table, repeat[chosen].tolist(), strict=True)])


def rank_by_similarity(
    evidence: Evidence, catalogue: Catalogue, top_k: int, one_per_file: bool = False
) -> Ranking:
    """Return the units whose embeddings are most similar to the query's, best first.

    Arguments are those of `rank_units`.
    """
    rows = best_rows_by(evidence.similarities, len(catalogue) if one_per_file else top_k, catalogue.position)
    if one_per_file:
        rows = rows[repeats(catalogue.file_of[rows]) == 0]
    rows = rows[:top_k]

    nothing = Parts(dense=0, lexical=0, definition=0, name=0, file_name=0, path=0, role=1, agreement=0, repeat=1)
    return Ranking(rows, [nothing._replace(dense=value) for value in evidence.dense[rows].tolist()])


def _boosts(evidence: Evidence, catalogue: Catalogue, constants: RankingConstants) -> dict[str, np.ndarray]:
    """Return the first six of `Parts`, (units,) each."""
    is_symbol, file_of = evidence.query.is_symbol, catalogue.file_of
    share = constants.dense_share_of_symbols if is_symbol else constants.dense_share_of_prose
    definition = constants.definition if is_symbol else constants.mentioned_definition
    definition_weights = definition * np.where(catalogue.is_type, 1.0, constants.function_share)
    return {
        "dense": share * evidence.dense,
        "lexical": (1 - share) * evidence.lexical,
        "definition": definition_weights * evidence.definition,
        "name": constants.name * evidence.name,
        "file_name": constants.file_name * evidence.file_name[file_of],
        "path": constants.path * evidence.path[file_of],
    }


def highest_rows(scores: np.ndarray, k: int) -> np.ndarray:
    """Return the rows of the `k` highest scores above 0, in any order; fewer if there are fewer."""
    rows = np.flatnonzero(scores)
    if len(rows) <= k:
        return rows
    return rows[np.argpartition(scores[rows], len(rows) - k)[len(rows) - k :]]


def best_rows_by(scores: np.ndarray, k: int, position: np.ndarray) -> np.ndarray:
    """Return the rows of the `k` highest of (units,) scores, best first. Of equal ones the first by position."""
    if k < len(scores):
        threshold = np.partition(scores, len(scores) - k)[len(scores) - k]
        rows = np.flatnonzero(scores >= threshold)
    else:
        rows = np.arange(len(scores))
    return rows[np.lexsort((position[rows], -scores[rows]))][:k]
