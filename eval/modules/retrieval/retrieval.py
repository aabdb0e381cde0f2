"""Ranking measures as an `evaluate` module, thin over pytrec_eval; it needs no other file of this repository.

    import evaluate
    metric = evaluate.load("eval/modules/retrieval")
    metric.compute(
        predictions=[{"ids": ["a", "b", "c"], "scores": [0.9, 0.5, 0.5]}],
        references=[{"ids": ["c"], "grades": [1]}],
        measures=["mrr", "ndcg@10"],
    )

Ties are broken as trec_eval breaks them: of documents with the same score, the one whose id is greater (by code
points) ranks first. In the example that is `c`.
"""

import datasets
import evaluate
import numpy
import pytrec_eval

_DESCRIPTION = """
mrr: mean reciprocal rank of the first relevant document, not cut.
ndcg@k: normalised discounted cumulative gain of the first k; the gain is the grade, the discount log2(1 + rank).
recall@k: share of the relevant documents among the first k.
map@r: average precision of the first R, where R is how many relevant documents the query has.
All are means over queries; a query without relevant documents or without predictions counts as 0.
"""
_KWARGS_DESCRIPTION = """
Args:
    predictions: per query `ids` (of the documents, in any order, each once) and `scores` (greater is better).
    references: per query `ids` (of the judged documents) and `grades` (whole numbers; above 0 means relevant).
        A relevant document that is not among the predictions counts as not found.
    measures: any of "mrr", "map@r", "ndcg@k" and "recall@k" with a number for k.
Returns:
    measure → mean over the queries.
Raises:
    ValueError: an unknown measure; no queries; ids and scores or grades that differ in number; an id twice in one
        query; a score that is NaN.
"""
_CITATION = ""
MEASURES = ("mrr", "ndcg@10", "recall@1", "recall@10")


class Retrieval(evaluate.Metric):
    """See the module's description."""

    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(
                {
                    "predictions": {
                        "ids": datasets.Sequence(datasets.Value("string")),
                        "scores": datasets.Sequence(datasets.Value("float64")),
                    },
                    "references": {
                        "ids": datasets.Sequence(datasets.Value("string")),
                        "grades": datasets.Sequence(datasets.Value("int64")),
                    },
                }
            ),
            reference_urls=["https://trec.nist.gov/trec_eval/", "https://arxiv.org/abs/2003.08505"],
        )

    def _compute(self, predictions, references, measures=MEASURES):
        if not len(predictions):
            raise ValueError("no queries: a mean over none is not defined")
        queries = [
            (_run(at, ranking), _relevant(at, judged))
            for at, (ranking, judged) in enumerate(zip(predictions, references, strict=True))
        ]
        return {
            measure: float(numpy.mean([_value(measure, run, relevant) for run, relevant in queries]))
            for measure in measures
        }


def _run(at, ranking):
    ids, scores = _columns(at, ranking, "scores")
    if numpy.isnan(scores).any():
        raise ValueError(f"query {at}: a score is NaN")
    # trec_eval keeps scores in single precision; their order, told in whole numbers, it keeps exactly.
    order = numpy.unique(scores, return_inverse=True)[1]
    return dict(zip(ids, order.astype(float).tolist(), strict=True))


def _relevant(at, judged):
    ids, grades = _columns(at, judged, "grades")
    return {key: int(grade) for key, grade in zip(ids, grades, strict=True) if grade > 0}


def _columns(at, row, of):
    ids, values = list(row["ids"]), numpy.asarray(row[of])
    if len(ids) != len(values):
        raise ValueError(f"query {at}: {len(ids)} ids but {len(values)} {of}")
    if len(set(ids)) != len(ids):
        twice = next(key for key in ids if ids.count(key) > 1)
        raise ValueError(f"query {at}: id {twice!r} stands there twice")
    return ids, values


def _value(measure, run, relevant):
    name = _trec_name(measure, len(relevant))
    if not run or not relevant:
        return 0.0
    return pytrec_eval.RelevanceEvaluator({"q": relevant}, {name}).evaluate({"q": run})["q"][name]


def _trec_name(measure, relevant):
    if measure == "mrr":
        return "recip_rank"
    if measure == "map@r":
        return f"map_cut_{relevant}"
    kind, _, k = measure.partition("@")
    if kind not in ("ndcg", "recall") or not k.isdecimal() or not int(k):
        raise ValueError(f"measure {measure!r}: there are mrr, map@r, ndcg@k and recall@k")
    return f"{'ndcg_cut' if kind == 'ndcg' else kind}_{int(k)}"
