"""Quality of the rows of a report (exits, baselines) on one retrieval set: measures, intervals, languages."""

from collections.abc import Iterable, Mapping
from itertools import combinations
from typing import Any

import numpy as np

from mose.data.retrieval.retrieval_set import RetrievalSet
from mose.eval import metrics
from mose.eval.significance import intervals, permutation_p_value
from mose.eval.topk import vector_ranks
from mose.inference.store import Vectors

Embeddings = Mapping[str, np.ndarray | Vectors]  # key of an encoder -> (texts, dim)
RowRanks = Mapping[str, Mapping[str, metrics.Ranks]]  # "exits" and "peers" -> row -> ranks
RowValues = dict[str, dict[str, dict[str, np.ndarray]]]  # kind -> row -> measure -> (queries,)


class Judgements:
    """Relevance judgements of a set, by the positions of its documents.

    Attributes:
        relevant: for each query, the columns of its relevant documents.
        grades: their grades, in the same order.
        own: for each query, the column of the query itself, which is not a candidate; None if there is none.
    """

    def __init__(self, data: RetrievalSet):
        column = {document: index for index, document in enumerate(data.document_ids)}
        judged = [data.qrels[query] for query in data.query_ids]
        self.data = data
        self.own: list[int | None] | None = None

        if data.exclude_own:
            self.own = [column.get(query) for query in data.query_ids]
            judged = [
                {document: grade for document, grade in grades.items() if document != query}
                for query, grades in zip(data.query_ids, judged, strict=True)
            ]

        self.relevant = [[column[document] for document in grades] for grades in judged]
        self.grades = [list(grades.values()) for grades in judged]

    def ranks(self, blocks: Iterable[np.ndarray]) -> list[np.ndarray]:
        """Return the ranks of the relevant documents, from scores in blocks of consecutive queries."""
        if self.own is not None:
            blocks = metrics.mask_own(blocks, self.own)
        return metrics.relevant_ranks(blocks, self.relevant, self.data.document_ids)

    def vector_ranks(self, queries: np.ndarray | Vectors, documents: np.ndarray | Vectors) -> list[np.ndarray]:
        """Return the ranks of the relevant documents, from embeddings in memory or on disk."""
        return vector_ranks(np.asarray(queries), documents, self.relevant, self.data.document_ids, self.own)


def quality_figures(judgements: Judgements, rows: RowRanks, certainty: bool) -> dict[str, Any]:
    """Return a report's figures of one set.

    Args:
        judgements: of the set.
        rows: "exits" and "peers" -> row -> ranks.
        certainty: include intervals and the tests between exits, which take the longest.

    Returns:
        "exits" and "peers": row -> measure -> mean; "languages": see `_language_figures`. With `certainty` also
        "intervals": kind -> row -> measure -> [lower, upper], and "p_values": exit -> deeper exit -> p of the
        permutation test on reciprocal ranks.
    """
    values: RowValues = {
        kind: {
            row: metrics.per_query(ranks, judgements.grades, judgements.data.measures)
            for row, ranks in kind_rows.items()
        }
        for kind, kind_rows in rows.items()
    }
    figures: dict[str, Any] = {
        kind: {
            row: {measure: float(query_values.mean()) for measure, query_values in measures.items()}
            for row, measures in kind_rows.items()
        }
        for kind, kind_rows in values.items()
    }

    figures["languages"] = _language_figures(judgements, rows)

    if certainty:
        figures["intervals"] = _row_intervals(values)
        figures["p_values"] = _exit_p_values(rows["exits"])
    return figures


def _row_intervals(values: RowValues) -> dict[str, dict[str, dict[str, list[float]]]]:
    """Return kind -> row -> measure -> [lower, upper]. All rows are resampled together."""
    flat: dict[Any, np.ndarray] = {
        (kind, row, measure): query_values
        for kind, rows in values.items()
        for row, measures in rows.items()
        for measure, query_values in measures.items()
    }
    nested: dict[str, Any] = {kind: {row: {} for row in rows} for kind, rows in values.items()}

    for (kind, row, measure), interval in intervals(flat).items():
        nested[kind][row][measure] = list(interval)
    return nested


def _exit_p_values(exits: Mapping[str, metrics.Ranks]) -> dict[str, dict[str, float]]:
    reciprocal = {key: metrics.reciprocal_ranks(ranks) for key, ranks in exits.items()}

    p_values: dict[str, dict[str, float]] = {key: {} for key in reciprocal}
    for first, second in combinations(reciprocal, 2):
        p_values[first][second] = permutation_p_value(reciprocal[first], reciprocal[second])
    return p_values


def across_exits(
    judgements: Judgements, queries: Embeddings, documents: Embeddings
) -> dict[str, dict[str, float]]:
    """Return query exit -> document exit -> MRR: queries embedded at one depth, the index at another."""
    return {
        q: {d: metrics.mrr(judgements.vector_ranks(queries[q], documents[d])) for d in documents} for q in queries
    }


def _language_figures(judgements: Judgements, rows: RowRanks) -> dict[str, Any]:
    """Return language -> "queries", and kind -> row -> {"mrr"}.

    The language is that of the relevant documents, or of the queries if all documents share one. A language is
    ranked without relevant documents in other languages: they are not mistakes, and would push the rest down.
    """
    data = judgements.data
    by_document = len(set(data.document_languages)) > 1
    figures: dict[str, Any] = {}

    for language, queries in sorted(_queries_by_language(judgements, by_document).items()):
        counted = [
            np.array([not by_document or data.document_languages[c] == language for c in judgements.relevant[q]])
            for q in queries
        ]

        figures[language] = {"queries": len(queries), **{kind: {} for kind in rows}}
        for kind, kind_rows in rows.items():
            for row, ranks in kind_rows.items():
                remaining_ranks = [
                    _ranks_without(ranks[q], mask) for q, mask in zip(queries, counted, strict=True)
                ]
                figures[language][kind][row] = {"mrr": metrics.mrr(remaining_ranks)}

    return figures


def _queries_by_language(judgements: Judgements, by_document: bool) -> dict[str, list[int]]:
    data = judgements.data
    # Queries in one language say nothing; then the language of the documents names the group.
    one_query_language = len(set(data.query_languages)) == 1
    groups: dict[str, list[int]] = {}

    for query, columns in enumerate(judgements.relevant):
        if by_document:
            languages = {data.document_languages[column] for column in columns}
        else:
            languages = {data.document_languages[0] if one_query_language else data.query_languages[query]}

        for language in languages - {""}:
            groups.setdefault(language, []).append(query)
    return groups


def _ranks_without(ranks: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """Return the counted ranks as if the other relevant documents were not in the corpus."""
    others = ranks[~counted]
    return np.array([rank - np.count_nonzero(others < rank) for rank in ranks[counted]], dtype=np.int64)
