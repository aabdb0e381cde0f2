"""Ranking measures as an `evaluate` module, thin over pytrec_eval. It needs no other file.

    import evaluate
    metric = evaluate.load("eval/modules/retrieval")
    metric.compute(
        predictions=[{"ids": ["a", "b", "c"], "scores": [0.9, 0.5, 0.5]}],
        references=[{"ids": ["c"], "grades": [1]}],
        measures=["mrr", "ndcg@10"],
    )

Ties are broken as in trec_eval: among documents with the same score, the greater id (by code points) ranks first.
In the example that is `c`.
"""

import datasets
import evaluate
import numpy
import pytrec_eval

_DESCRIPTION = """
mrr: mean reciprocal rank of the first relevant document, without a cut-off.
ndcg@k: normalised discounted cumulative gain at k; the gain is the grade, the discount log2(1 + rank).
recall@k: share of the relevant documents among the first k.
map@r: average precision of the first R, where R is the number of relevant documents of the query.
All are means over queries. A query without relevant documents or without predictions counts as 0.
"""
_KWARGS_DESCRIPTION = """
Args:
    predictions: per query `ids` (of the documents, in any order, each once) and `scores` (greater is better).
    references: per query `ids` (of the judged documents) and `grades` (whole numbers; above 0 means relevant).
        A relevant document that is not among the predictions counts as not retrieved.
    measures: any of "mrr", "map@r", "ndcg@k" and "recall@k" with a number for k.
Returns:
    measure -> mean over the queries.
Raises:
    ValueError: an unknown measure; no queries; a number of scores or grades that differs from that of the ids; an
        id that occurs twice in one query; a score that is NaN.
"""
MEASURES = ("mrr", "ndcg@10", "recall@1", "recall@10")


class Retrieval(evaluate.Metric):
    """A metric of ranked retrieval; see the module's description."""

    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
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
            raise ValueError("no queries: their mean is undefined. Pass at least one.")

        queries = [
            (_scored_documents(index, ranking), _relevant_grades(index, judged))
            for index, (ranking, judged) in enumerate(zip(predictions, references, strict=True))
        ]
        return {
            measure: float(numpy.mean([_query_value(measure, run, relevant) for run, relevant in queries]))
            for measure in measures
        }


def _scored_documents(index, ranking):
    ids, scores = _checked_columns(index, ranking, "scores")
    if numpy.isnan(scores).any():
        raise ValueError(f"query {index}: scores must not be NaN")

    # trec_eval keeps scores in single precision. It keeps their order exactly if they are small whole numbers.
    order = numpy.unique(scores, return_inverse=True)[1]
    return dict(zip(ids, order.astype(float).tolist(), strict=True))


def _relevant_grades(index, judged):
    ids, grades = _checked_columns(index, judged, "grades")
    return {key: int(grade) for key, grade in zip(ids, grades, strict=True) if grade > 0}


def _checked_columns(index, row, name):
    ids, values = list(row["ids"]), numpy.asarray(row[name])
    if len(ids) != len(values):
        raise ValueError(f"query {index}: {len(ids)} ids but {len(values)} {name}")

    # trec_eval would silently keep the last score of a repeated id.
    if len(set(ids)) != len(ids):
        twice = next(key for key in ids if ids.count(key) > 1)
        raise ValueError(f"query {index}: id {twice!r} occurs twice")
    return ids, values


def _query_value(measure, run, relevant):
    name = _trec_name(measure, len(relevant))

    # pytrec_eval leaves such a query out; the mean counts it as 0.
    if not run or not relevant:
        return 0.0
    return pytrec_eval.RelevanceEvaluator({"q": relevant}, {name}).evaluate({"q": run})["q"][name]


def _trec_name(measure, relevant_count):
    if measure == "mrr":
        return "recip_rank"
    if measure == "map@r":
        return f"map_cut_{relevant_count}"

    kind, _, k = measure.partition("@")
    if kind not in ("ndcg", "recall") or not k.isdecimal() or not int(k):
        raise ValueError(f"measure must be mrr, map@r, ndcg@k or recall@k, got {measure!r}")
    return f"{'ndcg_cut' if kind == 'ndcg' else kind}_{int(k)}"
