"""Ranking in blocks against a plain sort of everything."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mose.eval import metrics
from mose.eval.topk import top_k, vector_ranks
from mose.inference.store import Vectors


@st.composite
def searches(draw):
    """Queries and documents of small whole numbers, so that many scores tie, and ids in no order."""
    numbers = st.integers(-1, 1)
    queries, documents, dim = draw(st.integers(1, 4)), draw(st.integers(1, 30)), draw(st.integers(1, 3))
    vectors = [
        np.array(draw(st.lists(numbers, min_size=n * dim, max_size=n * dim)), np.float32).reshape(n, dim)
        for n in (queries, documents)
    ]
    ids = [f"d{i}" for i in draw(st.permutations(range(documents)))]
    return vectors[0], vectors[1], ids


def sharded(folder, documents, rows):
    """Write the documents in shards, under the second of two keys."""
    files = []
    for start in range(0, len(documents), rows):
        files.append(folder / f"{start}.npy")
        block = documents[start : start + rows]
        np.save(files[-1], np.stack([np.zeros_like(block), block]))
    return Vectors(tuple(files), 1, len(documents))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("shards")


@pytest.mark.slow
@given(searches(), st.integers(1, 40), st.integers(1, 7), st.integers(1, 200))
@settings(max_examples=60)
def test_top_k_is_a_sort_by_score_then_by_id(folder, search, k, shard, block_bytes):
    queries, documents, ids = search
    expected = [
        sorted(range(len(ids)), key=lambda i: (row[i], ids[i]), reverse=True)[:k] for row in queries @ documents.T
    ]
    for given_documents in (documents, sharded(folder, documents, shard)):
        scores, positions = top_k(queries, given_documents, k, ids, block_bytes)
        assert positions.tolist() == expected
        np.testing.assert_array_equal(scores, np.take_along_axis(queries @ documents.T, positions, axis=1))


@pytest.mark.slow
@given(searches(), st.integers(1, 7), st.integers(1, 200), st.data())
@settings(max_examples=60)
def test_ranks_from_shards_equal_ranks_from_all_scores(folder, search, shard, block_bytes, data):
    queries, documents, ids = search
    columns = st.lists(st.integers(0, len(ids) - 1), max_size=12, unique=True)
    relevant = [data.draw(columns) for _ in queries]
    own = data.draw(
        st.none()
        | st.lists(st.none() | st.integers(0, len(ids) - 1), min_size=len(queries), max_size=len(queries))
    )
    blocks = [queries @ documents.T]
    expected = metrics.relevant_ranks(metrics.mask_own(blocks, own) if own else blocks, relevant, ids)
    for given_documents in (documents, sharded(folder, documents, shard)):
        result = vector_ranks(queries, given_documents, relevant, ids, own, block_bytes)
        assert [values.tolist() for values in result] == [values.tolist() for values in expected]


def test_without_ids_the_earlier_document_wins():
    scores, positions = top_k(np.ones((2, 1), np.float32), np.ones((5, 1), np.float32), 3)
    assert positions.tolist() == [[0, 1, 2]] * 2
    assert scores.dtype == np.float32 and positions.dtype == np.int64


@pytest.mark.parametrize("documents", [9, 2000])
def test_thousands_of_queries_and_documents(documents):
    generator = np.random.default_rng(documents)
    queries = generator.standard_normal((1500, 4), dtype=np.float32)
    vectors = generator.standard_normal((documents, 4), dtype=np.float32)
    _, positions = top_k(queries, vectors, 5, block_bytes=1 << 18)
    np.testing.assert_array_equal(positions, np.argsort(-(queries @ vectors.T), axis=1, kind="stable")[:, :5])


def test_bad_input_is_named(folder):
    one, broken = np.ones((1, 2), np.float32), np.full((3, 2), np.nan, np.float32)
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        top_k(one, one, 0)
    with pytest.raises(ValueError, match="2 ids for 1 documents"):
        top_k(one, one, 1, ["a", "b"])
    with pytest.raises(ValueError, match="NaN"):
        top_k(one, broken, 1)
    with pytest.raises(ValueError, match="NaN"):
        vector_ranks(one, sharded(folder, broken, 2), [[0]], ["a", "b", "c"])
    with pytest.raises(ValueError, match="judgements for 2 and 3 ids"):
        vector_ranks(one, sharded(folder, broken, 2), [[0], [1]], ["a", "b", "c"])


def test_ranks_of_double_precision_queries(folder):
    """A score that was rounded to float32 would find itself ahead of itself."""
    draw = np.random.default_rng(0)
    queries, documents = draw.normal(size=(8, 5)), draw.normal(size=(20, 5)).astype(np.float32)
    ids = [f"d{i:02}" for i in range(20)]
    expected = metrics.relevant_ranks([queries @ documents.T], [range(20)] * 8, ids)
    for relevant in ([range(20)] * 8, [[i] for i in range(8)]):
        result = vector_ranks(queries, sharded(folder, documents, 7), relevant, ids)
        assert [values.tolist() for values in result] == [
            ranked[list(values)].tolist() for ranked, values in zip(expected, relevant, strict=True)
        ]
