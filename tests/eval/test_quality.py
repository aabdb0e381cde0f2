"""Figures of one set on ranks that can be checked by hand."""

import numpy as np
import pytest

from mose.data.retrieval.retrieval_set import RetrievalSet
from mose.eval.quality import Judgements, across_exits, quality_figures

DOCUMENTS = ("a", "b", "c", "d")


def data_of(document_languages, query_languages, qrels):
    return RetrievalSet(
        "toy", DOCUMENTS, DOCUMENTS, document_languages, ("q", "r"), ("q", "r"), query_languages, qrels
    )


QRELS = {"q": {"a": 1, "b": 1}, "r": {"d": 1}}
#: Query q ranks d, b, a, c; query r ranks c, d, b, a.
SCORES = np.array([[2, 3, 1, 4], [1, 2, 4, 3]], np.float32)


def test_a_language_is_ranked_without_the_relevant_documents_of_the_others():
    judgements = Judgements(data_of(("java", "go", "go", "go"), ("en", "en"), QRELS))
    result = quality_figures(
        judgements, {"exits": {"3": judgements.ranks([SCORES])}, "peers": {}}, certainty=False
    )
    assert result["exits"]["3"]["mrr"] == pytest.approx((1 / 2 + 1 / 2) / 2)
    # a is third behind d and b, of which b is relevant in another language: second among the others.
    assert result["languages"]["java"] == {"queries": 1, "exits": {"3": {"mrr": 0.5}}, "peers": {}}
    assert result["languages"]["go"] == {"queries": 2, "exits": {"3": {"mrr": 0.5}}, "peers": {}}
    assert "intervals" not in result


def test_documents_of_one_language_are_told_apart_by_their_queries():
    judgements = Judgements(data_of(("go",) * 4, ("en", "python"), QRELS))
    scores = SCORES.copy()
    scores[1, 3] = 9
    result = quality_figures(
        judgements, {"exits": {"3": judgements.ranks([scores])}, "peers": {}}, certainty=False
    )
    assert {name: values["exits"]["3"]["mrr"] for name, values in result["languages"].items()} == {
        "en": 0.5,
        "python": 1,
    }
    same = Judgements(data_of(("",) * 4, ("", ""), QRELS))
    assert quality_figures(same, {"exits": {"3": same.ranks([scores])}}, certainty=False)["languages"] == {}


def test_intervals_hold_the_figures_and_pairs_of_exits_are_tested():
    judgements = Judgements(data_of(("go",) * 4, ("en",) * 2, QRELS))
    rows = {
        "exits": {"0": judgements.ranks([SCORES]), "3": judgements.ranks([-SCORES])},
        "peers": {"x": judgements.ranks([SCORES])},
    }
    result = quality_figures(judgements, rows, certainty=True)
    for kind in ("exits", "peers"):
        for row, values in result[kind].items():
            for measure, value in values.items():
                lower, upper = result["intervals"][kind][row][measure]
                assert 0 <= lower <= value <= upper <= 1
    assert set(result["p_values"]) == {"0", "3"} and result["p_values"]["3"] == {}
    assert result["p_values"]["0"] == {"3": 1.0}  # q: 1/2 and 1/2; r: 1/2 and 1/3, one difference alone


def test_queries_and_documents_of_different_exits():
    """At exit 0 queries fit the documents of exit 0 alone; at exit 1 those of both."""
    judgements = Judgements(data_of(("go",) * 4, ("en",) * 2, {"q": {"a": 1}, "r": {"b": 1}}))
    unit = np.eye(4, dtype=np.float32)
    queries = {"0": unit[:2], "1": unit[:2] + unit[2:]}
    documents = {"0": unit, "1": unit[[2, 3, 0, 1]]}
    result = across_exits(judgements, queries, documents)
    assert result["0"]["0"] == 1
    # Exit-0 query q = e0 meets c first; a, b and d tie at 0, and the greatest id is first: a is fourth.
    assert result["0"]["1"] == pytest.approx((1 / 4 + 1 / 3) / 2)
    assert result["1"]["0"] == result["1"]["1"] == pytest.approx(1 / 2)  # ties with c and d, which win
