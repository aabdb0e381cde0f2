import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mose.eval.significance import intervals, permutation_p_value

VALUES = st.lists(st.integers(0, 4).map(lambda n: n / 4), min_size=1, max_size=7)


def test_an_interval_is_that_of_the_central_limit_theorem():
    """Of many queries, mean ± 1.96 standard errors; of half of them about √2 as wide."""
    values = np.random.default_rng(0).random(2000)
    result = intervals({"all": values}, resamples=4000)["all"]
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert result == pytest.approx((values.mean() - half, values.mean() + half), abs=0.1 * half)
    wider = intervals({"half": values[:1000]}, resamples=4000)["half"]
    assert (wider[1] - wider[0]) / (result[1] - result[0]) == pytest.approx(2**0.5, rel=0.1)
    narrow = intervals({"all": values}, confidence=0.5, resamples=4000)["all"]
    assert (narrow[1] - narrow[0]) / (2 * half) == pytest.approx(0.6745 / 1.96, rel=0.1)


def test_queries_are_resampled_together():
    """So that a row which is better by the same at every query has an interval moved by just that."""
    values = np.random.default_rng(1).random(50)
    result = intervals({"low": values, "high": values + 0.25})
    assert result["high"] == pytest.approx(tuple(bound + 0.25 for bound in result["low"]))
    assert result == intervals({"low": values, "high": values + 0.25})  # the same every time


def test_intervals_of_little():
    assert intervals({"one": np.array([0.5])}) == {"one": (0.5, 0.5)}
    assert intervals({"same": np.ones(9)})["same"] == pytest.approx((1, 1))
    assert intervals({}) == {}
    with pytest.raises(ValueError, match="no queries"):
        intervals({"none": np.array([])})


@given(VALUES, st.data())
@settings(max_examples=40)
def test_few_queries_are_tested_exactly(first, data):
    """Against all ways to swap the two values of a query, written out."""
    second = data.draw(st.lists(st.sampled_from(first), min_size=len(first), max_size=len(first)))
    difference = np.array(first) - np.array(second)
    swapped = [abs(np.dot(signs, difference)) for signs in itertools.product((1, -1), repeat=len(first))]
    expected = np.mean([value >= abs(difference.sum()) - 1e-9 for value in swapped])
    assert permutation_p_value(first, second) == pytest.approx(expected)


def test_many_queries_are_tested_at_random():
    generator = np.random.default_rng(2)
    first, noise = generator.random(300), generator.standard_normal(300)
    assert permutation_p_value(first, first + 0.05 + 0.01 * noise, resamples=999) == pytest.approx(2 / 1000)
    # Under the null hypothesis p is anything, and like the normal approximation's.
    difference = 0.1 * noise
    z = abs(difference.mean()) / (np.sqrt((difference**2).sum()) / len(difference))
    from scipy.stats import norm

    assert permutation_p_value(first + difference, first) == pytest.approx(2 * norm.sf(z), abs=0.02)
    with pytest.raises(ValueError, match="must have shape"):
        permutation_p_value([], [])
