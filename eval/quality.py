"""How well rows of a report (exits, peers) rank one retrieval set: figures, intervals, tests, languages."""

from collections.abc import Iterable, Mapping
from itertools import combinations
from typing import Any

import numpy as np

from mose.data.retrieval.retrieval_set import RetrievalSet
from mose.eval import metrics
from mose.eval.significance import intervals, permutation_p_value
from mose.eval.topk import vector_ranks
from mose.inference.store import Vectors

Ranks = list[np.ndarray]  # per query, those of its relevant documents
Embeddings = Mapping[str, np.ndarray | Vectors]  # key of an encoder -> (texts, dim)


class Judgements:
    """The relevance judgements of a set by the positions of its documents.

    Attributes:
        relevant, grades: per query, the columns and the grades of its relevant documents, in the same order.
        own: per query, the column that is the query itself and no candidate; None where there is none.
    """

    def __init__(self, data: RetrievalSet):
        column = {document: at for at, document in enumerate(data.document_ids)}
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

    def ranks(self, blocks: Iterable[np.ndarray]) -> Ranks:
        """From scores in blocks of consecutive queries."""
        if self.own is not None:
            blocks = metrics.without_own(blocks, self.own)
        return metrics.ranks(blocks, self.relevant, self.data.document_ids)

    def vector_ranks(self, queries: np.ndarray | Vectors, documents: np.ndarray | Vectors) -> Ranks:
        """From embeddings, in memory or on a disk."""
        return vector_ranks(np.asarray(queries), documents, self.relevant, self.data.document_ids, self.own)


def figures(judgements: Judgements, rows: Mapping[str, Mapping[str, Ranks]], certainty: bool) -> dict[str, Any]:
    """What a report says of one set.

    Args:
        judgements: of the set.
        rows: "exits" and "peers" → row → ranks.
        certainty: with intervals and the tests between exits, which take the longest.

    Returns:
        "exits" and "peers": row → measures; "languages": language → "queries" and, in the same way, `mrr`. With
        `certainty` also "intervals": row → measure → [lower, upper], in the same way, and "p_values": exit →
        deeper exit → p of the permutation test on reciprocal ranks.
    """
    measures, grades = judgements.data.measures, judgements.grades
    values = {
        kind: {row: metrics.per_query(ranks, grades, measures) for row, ranks in of.items()}
        for kind, of in rows.items()
    }
    found: dict[str, Any] = {
        kind: {row: {name: float(v.mean()) for name, v in by_name.items()} for row, by_name in of.items()}
        for kind, of in values.items()
    }
    found["languages"] = _languages(judgements, rows)
    if certainty:
        together = {
            (kind, row, name): v
            for kind, of in values.items()
            for row, by_name in of.items()
            for name, v in by_name.items()
        }
        found["intervals"] = {kind: {row: {} for row in of} for kind, of in rows.items()}
        for (kind, row, name), interval in intervals(together).items():
            found["intervals"][kind][row][name] = list(interval)
        reciprocal = {row: metrics.reciprocal_ranks(ranks) for row, ranks in rows["exits"].items()}
        found["p_values"] = {row: {} for row in reciprocal}
        for first, second in combinations(reciprocal, 2):
            found["p_values"][first][second] = permutation_p_value(reciprocal[first], reciprocal[second])
    return found


def across_exits(
    judgements: Judgements, queries: Embeddings, documents: Embeddings
) -> dict[str, dict[str, float]]:
    """Query exit → document exit → MRR: queries embedded at one depth, the index at another."""
    return {
        q: {d: metrics.mrr(judgements.vector_ranks(queries[q], documents[d])) for d in documents} for q in queries
    }


def _languages(judgements: Judgements, rows: Mapping[str, Mapping[str, Ranks]]) -> dict[str, Any]:
    """MRR by the language of the relevant documents, or of the queries where all documents have the same.

    Where relevant documents are in several languages, each language is ranked without the relevant ones of the
    others: those are no mistake, and would hide all but the first.
    """
    data = judgements.data
    by_document = len(set(data.document_languages)) > 1
    of_query: dict[str, list[int]] = {}
    for at, columns in enumerate(judgements.relevant):
        spoken = {data.document_languages[c] for c in columns} if by_document else {_language(data, at)}
        for language in spoken - {""}:
            of_query.setdefault(language, []).append(at)
    found: dict[str, Any] = {}
    for language, queries in sorted(of_query.items()):
        found[language] = {"queries": len(queries), **{kind: {} for kind in rows}}
        wanted = [
            np.array([not by_document or data.document_languages[c] == language for c in judgements.relevant[q]])
            for q in queries
        ]
        for kind, of in rows.items():
            for row, ranks in of.items():
                kept = [_filtered(ranks[q], keep) for q, keep in zip(queries, wanted, strict=True)]
                found[language][kind][row] = {"mrr": metrics.mrr(kept)}
    return found


def _language(data: RetrievalSet, query: int) -> str:
    return data.query_languages[query] if len(set(data.query_languages)) > 1 else data.document_languages[0]


def _filtered(ranks: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """The ranks that are kept, without those ahead of them that are not."""
    others = ranks[~keep]
    return np.array([rank - np.count_nonzero(others < rank) for rank in ranks[keep]], dtype=np.int64)
