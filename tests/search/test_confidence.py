"""The score of a hit: what it grows with, and that it never rises along the hits."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from mose.search.evaluation.figures import area_under_curve
from mose.search.ranking.catalogue import Catalogue
from mose.search.ranking.confidence import ConfidenceConstants, hit_scores, query_confidence
from mose.search.ranking.queries import parse_query
from mose.search.ranking.ranker import collect_evidence


def evidence_of(query, similarities, coverage):
    count = len(similarities)
    rows = range(count)
    names = [f"f{row}" for row in rows]
    catalogue = Catalogue([f"{row}.py" for row in rows], names, names, ["function"] * count, [1] * count)
    arrays = np.array(similarities), np.zeros(count), np.array(coverage)
    return collect_evidence(parse_query(query), catalogue, *arrays)


def test_confidence_is_the_logistic_function_of_the_best_units():
    constants = ConfidenceConstants(-2.0, similarity=3.0, coverage=1.0, together=2.0, symbol=-0.5, log_units=-0.1)
    evidence = evidence_of("two words", [0.1, 0.6], [0.5, 0.2])
    logit = -2.0 + 3 * 0.6 + 0.5 + 2 * 0.12 - 0.1 * np.log(2)
    assert query_confidence(evidence, constants) == pytest.approx(1 / (1 + np.exp(-logit)))
    symbol = evidence_of("word", [0.1, 0.6], [0.5, 0.2])
    assert query_confidence(symbol, constants) == pytest.approx(1 / (1 + np.exp(-logit + 0.5)))
    extreme = dataclasses.replace(constants, bias=-1e9)
    assert query_confidence(evidence, extreme) == pytest.approx(0)


shares = st.floats(0, 1)


@given(st.lists(st.tuples(shares, shares), min_size=1, max_size=6), shares, st.booleans(), st.data())
def test_confidence_grows_with_similarity_and_coverage_and_falls_with_units(units, more, is_similar, data):
    row = data.draw(st.integers(0, len(units) - 1))
    similarities, coverage = map(list, zip(*units, strict=True))
    before = query_confidence(evidence_of("two words", similarities, coverage))
    assert 0 <= before <= 1
    assert query_confidence(evidence_of("two words", [*similarities, 0.0], [*coverage, 0.0])) <= before

    raised = similarities if is_similar else coverage
    raised[row] = max(raised[row], more)
    assert query_confidence(evidence_of("two words", similarities, coverage)) >= before


@given(shares, st.lists(st.floats(0, 5), max_size=10))
def test_scores_begin_with_the_confidence_and_never_rise(confidence, fits):
    scores = hit_scores(confidence, fits)
    assert len(scores) == len(fits) and scores[:1] == [confidence][: len(fits)]
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= score <= confidence for score in scores)


def test_scores_fall_with_the_fit():
    assert hit_scores(0.8, [2.0, 1.0, 1.5, 0.0]) == pytest.approx([0.8, 0.4, 0.4, 0.0])


@given(st.lists(st.integers(0, 5), min_size=1, max_size=20), st.lists(st.integers(0, 5), min_size=1, max_size=20))
def test_area_under_curve_is_that_of_sklearn(positive, negative):
    labels = [1] * len(positive) + [0] * len(negative)
    expected = roc_auc_score(labels, positive + negative)
    assert area_under_curve(np.array(positive), np.array(negative)) == pytest.approx(expected)
