import numpy as np
import pytest
import pytrec_eval
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import label_ranking_average_precision_score, ndcg_score

from mose.eval import metrics

MEASURES = {"mrr": "recip_rank", "ndcg@10": "ndcg_cut_10", "recall@1": "recall_1", "recall@10": "recall_10"}


@st.composite
def rankings(draw):
    """Scores with many ties, grades with gaps, ids in an order of their own; a query may have no relevant."""
    queries, documents = draw(st.integers(1, 5)), draw(st.integers(1, 25))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    levels = draw(st.integers(1, 12))
    scores = generator.integers(0, levels, (queries, documents)).astype(np.float32) / 4
    grades = generator.integers(0, 4, (queries, documents)) * (generator.random((queries, documents)) < 0.3)
    ids = [f"{'dcé'[i % 3]}{i}" for i in generator.permutation(documents)]
    return scores, grades, ids


def judged(grades):
    relevant = [np.flatnonzero(row) for row in grades]
    return relevant, [row[columns].tolist() for row, columns in zip(grades, relevant, strict=True)]


@settings(deadline=None)
@given(rankings())
def test_summary_equals_trec_eval(case):
    scores, grades, ids = case
    relevant, gains = judged(grades)
    result = metrics.summary(metrics.relevant_ranks([scores], relevant, ids), gains)

    run = {str(q): {ids[d]: float(s) for d, s in enumerate(row)} for q, row in enumerate(scores)}
    qrels = {str(q): {ids[d]: int(g) for d, g in enumerate(row)} for q, row in enumerate(grades)}
    per_query = pytrec_eval.RelevanceEvaluator(qrels, set(MEASURES.values())).evaluate(run).values()
    for ours, theirs in MEASURES.items():
        assert result[ours] == pytest.approx(np.mean([query[theirs] for query in per_query]), abs=1e-6), ours


@given(rankings())
def test_ranks_equal_a_plain_sort(case):
    scores, grades, ids = case
    relevant, _ = judged(grades)
    for row, columns, result in zip(
        scores, relevant, metrics.relevant_ranks([scores], relevant, ids), strict=True
    ):
        order = sorted(range(len(ids)), key=lambda i: (row[i], ids[i]), reverse=True)
        assert result.tolist() == [order.index(column) + 1 for column in columns]


@settings(deadline=None)
@given(st.integers(0, 10_000))
def test_without_ties_equals_scikit_learn(seed):
    generator = np.random.default_rng(seed)
    scores = np.stack([generator.permutation(30) for _ in range(4)]).astype(np.float64)
    grades = generator.integers(1, 4, scores.shape) * (generator.random(scores.shape) < 0.3)
    grades[:, 0] = 2
    relevant, gains = judged(grades)
    result = metrics.relevant_ranks([scores], relevant, [str(i) for i in range(30)])
    assert metrics.ndcgs(result, gains, 10).mean() == pytest.approx(ndcg_score(grades, scores, k=10))

    single = np.eye(30, dtype=int)[generator.integers(0, 30, 4)]  # one relevant: average precision = 1 / rank
    result = metrics.relevant_ranks([scores], judged(single)[0], [str(i) for i in range(30)])
    assert metrics.mrr(result) == pytest.approx(label_ranking_average_precision_score(single, scores))


@settings(deadline=None)
@given(rankings())
def test_map_at_r_equals_trec_eval_cut_at_the_number_of_relevant(case):
    scores, grades, ids = case
    relevant, _ = judged(grades)
    expected = []
    for row, columns in zip(scores, relevant, strict=True):
        if not len(columns):
            expected.append(0.0)
            continue
        measure = f"map_cut_{len(columns)}"
        evaluator = pytrec_eval.RelevanceEvaluator({"q": {ids[i]: 1 for i in columns}}, {measure})
        expected.append(evaluator.evaluate({"q": dict(zip(ids, row.tolist(), strict=True))})["q"][measure])
    result = metrics.summary(metrics.relevant_ranks([scores], relevant, ids), [[]] * len(scores), ["map@r"])
    assert result == {"map@r": pytest.approx(np.mean(expected))}


@given(rankings(), st.integers(1, 5))
def test_a_query_is_no_candidate_for_itself(case, rows):
    """As if its own column were not there."""
    scores, grades, ids = case
    relevant, _ = judged(grades)
    own = [i if i < len(ids) else None for i in range(len(scores))]
    others = [[c for c in columns if c != column] for columns, column in zip(relevant, own, strict=True)]
    blocks = [scores[i : i + rows] for i in range(0, len(scores), rows)]
    result = metrics.relevant_ranks(metrics.mask_own(blocks, own), others, ids)
    for row, columns, column, ranks in zip(scores, others, own, result, strict=True):
        left = [i for i in range(len(ids)) if i != column]
        expected = metrics.relevant_ranks(
            [row[None, left]], [[left.index(c) for c in columns]], [ids[c] for c in left]
        )
        assert ranks.tolist() == expected[0].tolist()


@given(rankings(), st.integers(1, 5))
def test_blocks_and_corpus_order_do_not_matter(case, rows):
    scores, grades, ids = case
    relevant, gains = judged(grades)
    whole = metrics.summary(metrics.relevant_ranks([scores], relevant, ids), gains)
    blocks = [scores[i : i + rows] for i in range(0, len(scores), rows)]
    assert metrics.summary(metrics.relevant_ranks(blocks, relevant, ids), gains) == whole

    shuffled = np.random.default_rng(0).permutation(len(ids))
    relevant, gains = judged(grades[:, shuffled])
    result = metrics.relevant_ranks([scores[:, shuffled]], relevant, [ids[i] for i in shuffled])
    assert metrics.summary(result, gains) == pytest.approx(whole)


def test_of_equal_scores_the_greater_id_ranks_first():
    result = metrics.relevant_ranks([np.ones((1, 3))], [[0, 1, 2]], ["a", "c", "b"])
    assert result[0].tolist() == [3, 1, 2]


def test_score_blocks_are_the_product_within_the_bound():
    generator = np.random.default_rng(0)
    queries, documents = generator.random((7, 4), np.float32), generator.random((10, 4), np.float32)
    blocks = list(metrics.score_blocks(queries, documents, block_bytes=2 * 10 * 4))
    assert [len(block) for block in blocks] == [2, 2, 2, 1]
    np.testing.assert_allclose(np.concatenate(blocks), queries @ documents.T, rtol=1e-6)
    assert len(next(metrics.score_blocks(queries, documents, block_bytes=1))) == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: metrics.relevant_ranks([np.ones((1, 2))], [[0]], ["a"]),
            r"must have shape \(queries, 1 documents\), got \(1, 2\)",
        ),
        (
            lambda: metrics.relevant_ranks([np.ones((2, 1))], [[0]], ["a"]),
            "one row for each of the 1 queries, got more",
        ),
        (
            lambda: metrics.relevant_ranks([np.ones((1, 1))], [[0], [0]], ["a"]),
            "one row for each of the 2 queries, got 1",
        ),
        (
            lambda: metrics.relevant_ranks([np.array([[np.nan]])], [[0]], ["a"]),
            "must not be NaN, got NaN for query 0",
        ),
        (lambda: metrics.recalls([np.array([1])], 0), "k must be at least 1, got 0"),
        (lambda: metrics.ndcgs([np.array([1])], [[1, 2]], 10), "1 ranks but 2 grades"),
        (lambda: metrics.mrr([]), "no queries"),
        (
            lambda: metrics.summary([np.array([1])], [[1]], ["map"]),
            "measure must be mrr, map@r, ndcg@k or recall@k, got 'map'",
        ),
        (lambda: metrics.summary([np.array([1])], [[1]], ["recall@"]), "measure must be .* got 'recall@'"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
