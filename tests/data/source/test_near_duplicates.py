import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mose.data.source.near_duplicates import NearDuplicates, similar_sets
from mose.data.source.ngrams import hashed_ngrams


def grams(text: str, n: int = 5) -> set[str]:
    return {text[i : i + n] for i in range(max(len(text) - n + 1, 1))}


def jaccard(first: str, second: str) -> float:
    a, b = grams(first), grams(second)
    return len(a & b) / len(a | b)


def kept(texts: list[str]) -> list[int]:
    seen = NearDuplicates()
    return [position for position, text in enumerate(texts) if seen.add(text)]


def edited(text: str, edits: int, rng: random.Random) -> str:
    letters = list(text)
    for _ in range(edits):
        letters[rng.randrange(len(letters))] = chr(rng.randrange(97, 123))
    return "".join(letters)


@pytest.mark.slow
def test_texts_kept_are_those_that_brute_force_keeps():
    rng = random.Random(0)
    texts, sides = [], []
    for _ in range(60):
        base = "".join(rng.choices("abcdefghijklmnopqrstuvwxyz ()_=\n", k=rng.randrange(200, 600)))
        copy = edited(base, len(base) * rng.choice([0, 1, 2, 8, 15]) // 100, rng)
        similarity = jaccard(base, copy)
        if 0.58 < similarity < 0.82:  # four standard errors about the threshold: a signature may err there
            continue
        sides.append(similarity > 0.7)
        texts += [base, copy]
    assert sides.count(True) >= 15 and sides.count(False) >= 15
    expected = []
    for position, text in enumerate(texts):
        if all(jaccard(text, texts[other]) < 0.7 for other in expected):
            expected.append(position)
    assert kept(texts) == expected
    assert len(expected) == 2 * len(sides) - sides.count(True)


@settings(max_examples=30, deadline=None)
@given(st.text(max_size=40), st.integers(1, 6))
def test_hashes_are_as_many_as_distinct_ngrams(text, n):
    assert len(hashed_ngrams(text, n)) == len(grams(text, n))


def test_short_and_empty_texts_are_their_own_ngram():
    assert kept(["", "a", "", "ab", "a", "b" * 5, "b" * 9]) == [0, 1, 3, 5]


def test_the_class_adds_what_is_new_only():
    seen = NearDuplicates()
    assert seen.add("def add(a, b): return a + b")
    assert not seen.add("def add(a, b): return a + b")
    assert len(seen) == 1


def test_the_estimate_is_that_of_the_seed_and_close_to_the_truth():
    rng = random.Random(1)
    base = "".join(rng.choices("abcdefgh ", k=400))
    other = edited(base, 20, rng)
    truth = jaccard(base, other)
    estimates = []
    for seed in (0, 0, 1, 2):
        seen = NearDuplicates(seed=seed)
        estimates.append(seen._signature(base).jaccard(seen._signature(other)))
    assert estimates[0] == estimates[1] and len(set(estimates)) > 1
    assert all(abs(estimate - truth) < 4 * (truth * (1 - truth) / 256) ** 0.5 for estimate in estimates)


@settings(max_examples=20)
@given(
    st.lists(st.sets(st.integers(0, 2**32 - 1), min_size=1, max_size=12), max_size=8),
    st.sampled_from([0.3, 0.6, 1.0]),
)
def test_similar_sets_are_pairs_of_exact_similarity(sets, threshold):
    arrays = [np.array(sorted(values), np.uint64) for values in sets]
    pairs = list(similar_sets(arrays, threshold))
    assert all(first < second for first, second, _ in pairs)
    for first, second, similarity in pairs:
        assert similarity == len(sets[first] & sets[second]) / len(sets[first] | sets[second]) >= threshold
    equal = {(i, j) for j in range(len(sets)) for i in range(j) if sets[i] == sets[j]}
    assert equal <= {(first, second) for first, second, _ in pairs}


def test_similar_sets_misses_none_that_are_clearly_similar():
    rng = np.random.default_rng(0)
    base = rng.integers(0, 2**32, (20, 100), np.uint64)
    sets = [
        np.unique(values) for row in base for values in (row, np.concatenate([row[:85], row[:15] ^ np.uint64(1)]))
    ]
    pairs = {(first, second) for first, second, _ in similar_sets(sets, 0.5)}
    assert pairs == {(2 * row, 2 * row + 1) for row in range(20)}
