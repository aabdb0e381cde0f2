import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mose.inference.bm25 import BM25, bm25_tokens


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("parseDate", ["pars", "date", "parsedate"]),
        ("parse_date", ["pars", "date", "parsedate"]),
        ("__PARSE_DATE__", ["pars", "date", "parsedate"]),
        ("HTTPServer", ["http", "server", "httpserver"]),
        ("utf8", ["utf", "8", "utf8"]),
        ("x = the(a, 1)", ["x", "the", "a", "1"]),
        ("naïve Größe", ["naïv", "größe"]),
        ("_ + () ", []),
    ],
)
def test_identifiers_are_split(text, tokens):
    assert bm25_tokens(text) == tokens


words = st.lists(st.sampled_from(["red", "blue", "green", "parseDate", "of", "42"]), max_size=8).map(" ".join)


def reference(documents, query):
    """BM25 as Lucene scores it, from the formula."""
    bags = [Counter(bm25_tokens(document)) for document in documents]
    mean = sum(bag.total() for bag in bags) / len(bags)
    scores = np.zeros(len(bags))
    for token in bm25_tokens(query):
        holding = sum(token in bag for bag in bags)
        idf = math.log(1 + (len(bags) - holding + 0.5) / (holding + 0.5))
        for row, bag in enumerate(bags):
            if bag[token]:
                scores[row] += idf * bag[token] / (bag[token] + 1.5 * (1 - 0.75 + 0.75 * bag.total() / mean))
    return scores


@settings(deadline=None)
@given(st.lists(words, min_size=1, max_size=8), words)
def test_scores_follow_the_formula(documents, query):
    np.testing.assert_allclose(BM25(documents).scores(query), reference(documents, query), rtol=1e-4, atol=1e-6)


def test_conventions_of_naming_meet():
    index = BM25(["def parse_date(s): ...", "int parseInt(String s)", "the date parser of the week"])
    assert index.scores("parseDate").argmax() == 0
    assert index.scores("").tolist() == [0, 0, 0]
    assert index.scores("unheard").tolist() == [0, 0, 0]


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="at least one document"):
        BM25([])


@settings(deadline=None)
@given(st.lists(words, min_size=1, max_size=8), words)
def test_coverage_is_the_share_of_the_rare_and_common_tokens_there(documents, query):
    tokens = set(bm25_tokens(query))
    bags = [set(bm25_tokens(document)) for document in documents]
    weights = {}
    for token in tokens:
        holding = sum(token in bag for bag in bags)
        weights[token] = math.log(1 + (len(bags) - holding + 0.5) / (holding + 0.5))
    total = sum(weights.values())
    expected = [sum(weights[token] for token in tokens & bag) / total if tokens else 0 for bag in bags]
    np.testing.assert_allclose(BM25(documents).coverage(query), expected, rtol=1e-5, atol=1e-6)
