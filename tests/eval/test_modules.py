import ast
import math
import socket
from pathlib import Path

import evaluate
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, f1_score, ndcg_score, precision_score, recall_score

from mose.eval import metrics

MODULES = Path(__file__).parents[2] / "eval" / "modules"
MEASURES = ["mrr", "ndcg@10", "ndcg@3", "recall@1", "recall@10", "map@r"]


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """Loads a module by its path, through a cache of its own and without a network."""

    def refuse(*_):
        raise AssertionError("something asks the network")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        cache = tmp_path_factory.mktemp("evaluate")
        patch.setattr(evaluate.config, "HF_MODULES_CACHE", str(cache / "modules"))
        patch.syspath_prepend(str(cache / "modules"))
        yield lambda name: evaluate.load(str(MODULES / name), cache_dir=str(cache))


@pytest.fixture(scope="module")
def retrieval(load):
    return load("retrieval")


@pytest.fixture(scope="module")
def clone_detection(load):
    return load("clone_detection")


@st.composite
def cases(draw):
    """Queries with many ties, grades with gaps, relevant documents that are missing, and empty queries."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    predictions, references = [], []
    for _ in range(draw(st.integers(1, 4))):
        ids = [f"{'dcé'[i % 3]}{i}" for i in generator.permutation(draw(st.integers(0, 20)))]
        scores = generator.integers(0, draw(st.integers(1, 8)), len(ids)) / 3 - 1
        known = [*ids, "missing", "lost"]
        judged = [key for key in known if generator.random() < draw(st.sampled_from([0.0, 0.3, 0.7]))]
        predictions.append({"ids": ids, "scores": scores.tolist()})
        references.append({"ids": judged, "grades": generator.integers(0, 4, len(judged)).tolist()})
    return predictions, references


def by_definition(measure, ranking, judged):
    """One query, from a plain sort by score and id."""
    relevant = {key: grade for key, grade in zip(judged["ids"], judged["grades"], strict=True) if grade > 0}
    order = [key for _, key in sorted(zip(ranking["scores"], ranking["ids"], strict=True), reverse=True)]
    hits = [rank for rank, key in enumerate(order, 1) if key in relevant]
    kind, _, k = measure.partition("@")
    if not relevant:
        return 0.0
    if kind == "mrr":
        return 1 / hits[0] if hits else 0.0
    if kind == "map":
        within = [rank for rank in hits if rank <= len(relevant)]
        return sum(i / rank for i, rank in enumerate(within, 1)) / len(relevant)
    if kind == "recall":
        return sum(rank <= int(k) for rank in hits) / len(relevant)

    def gain(keys):
        return sum(relevant.get(key, 0) / math.log2(1 + rank) for rank, key in enumerate(keys[: int(k)], 1))

    return gain(order) / gain(sorted(relevant, key=relevant.__getitem__, reverse=True))


@settings(deadline=None, max_examples=60)
@given(cases())
def test_every_measure_equals_its_definition(retrieval, case):
    result = retrieval._compute(*case, measures=MEASURES)
    for measure in MEASURES:
        values = [by_definition(measure, *query) for query in zip(*case, strict=True)]
        assert result[measure] == pytest.approx(np.mean(values), abs=1e-9), measure


@settings(deadline=None, max_examples=40)
@given(cases())
def test_the_report_s_own_metrics_agree(retrieval, case):
    """Over a whole corpus, where nothing is missing."""
    predictions, references = case
    expected = {measure: [] for measure in MEASURES}
    kept = []
    for ranking, judged in zip(predictions, references, strict=True):
        column = {key: i for i, key in enumerate(ranking["ids"])}
        grades = {
            key: grade
            for key, grade in zip(judged["ids"], judged["grades"], strict=True)
            if key in column and grade
        }
        kept.append({"ids": list(grades), "grades": list(grades.values())})
        if not column:
            ranks = [np.array([], dtype=int)]
        else:
            scores = np.array([ranking["scores"]])
            ranks = metrics.relevant_ranks([scores], [[column[key] for key in grades]], ranking["ids"])
        for measure, value in metrics.summary(ranks, [list(grades.values())], MEASURES).items():
            expected[measure].append(value)
    result = retrieval._compute(predictions, kept, measures=MEASURES)
    assert result == pytest.approx({measure: np.mean(values) for measure, values in expected.items()}, abs=1e-6)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000))
def test_without_ties_equals_scikit_learn(retrieval, seed):
    generator = np.random.default_rng(seed)
    scores = generator.permutation(20).astype(float)
    grades = generator.integers(1, 4, 20) * (generator.random(20) < 0.4)
    grades[3] = 1
    ids = [f"d{i}" for i in range(20)]
    prediction, reference = {"ids": ids, "scores": scores}, {"ids": ids, "grades": grades}
    result = retrieval._compute([prediction], [reference], measures=["ndcg@5"])
    assert result["ndcg@5"] == pytest.approx(ndcg_score([grades], [scores], k=5))
    # Average precision of the first R alone, which knows of the relevant ones among them only.
    judged = grades > 0
    first = np.argsort(-scores)[: judged.sum()]
    result = retrieval._compute([prediction], [reference], measures=["map@r"])
    share = judged[first].mean()
    expected = average_precision_score(judged[first], scores[first]) * share if share else 0
    assert result["map@r"] == pytest.approx(expected)


def test_scores_that_single_precision_cannot_tell_apart_are_no_ties(retrieval):
    prediction = {"ids": ["b", "a"], "scores": [1.0, 1.0 + 1e-12]}
    reference = {"ids": ["a"], "grades": [1]}
    assert retrieval.compute(predictions=[prediction], references=[reference], measures=["mrr"]) == {"mrr": 1}
    prediction["scores"] = [1.0, 1.0]  # now a tie: the greater id first
    assert retrieval.compute(predictions=[prediction], references=[reference])["mrr"] == 0.5


@pytest.mark.parametrize(
    ("prediction", "reference", "options", "message"),
    [
        ({"ids": ["a"], "scores": [1.0, 2.0]}, {"ids": [], "grades": []}, {}, "query 0: 1 ids but 2 scores"),
        ({"ids": ["a"], "scores": [1.0]}, {"ids": ["a"], "grades": []}, {}, "query 0: 1 ids but 0 grades"),
        ({"ids": ["a", "a"], "scores": [1.0, 2.0]}, {"ids": [], "grades": []}, {}, "id 'a' occurs twice"),
        (
            {"ids": ["a"], "scores": [float("nan")]},
            {"ids": [], "grades": []},
            {},
            "query 0: scores must not be NaN",
        ),
        (
            {"ids": [], "scores": []},
            {"ids": [], "grades": []},
            {"measures": ["map"]},
            "measure must be mrr, map@r, ndcg@k or recall@k, got 'map'",
        ),
        (
            {"ids": [], "scores": []},
            {"ids": [], "grades": []},
            {"measures": ["recall@0"]},
            "measure must be .* got 'recall@0'",
        ),
    ],
)
def test_bad_input_is_named(retrieval, prediction, reference, options, message):
    with pytest.raises(ValueError, match=message):
        retrieval._compute(predictions=[prediction], references=[reference], **options)


@pytest.mark.slow
@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=30))
def test_clone_detection_equals_scikit_learn(clone_detection, pairs):
    references, predictions = zip(*pairs, strict=True)
    result = clone_detection._compute(predictions, references)
    for name, score in (("f1", f1_score), ("precision", precision_score), ("recall", recall_score)):
        assert result[name] == pytest.approx(score(references, predictions, zero_division=0))


def test_clone_detection_refuses_other_classes(clone_detection):
    assert clone_detection.compute(predictions=[1, 0, 0], references=[1, 1, 0]) == {
        "f1": pytest.approx(2 / 3),
        "precision": 1,
        "recall": 0.5,
    }
    with pytest.raises(ValueError, match="classes must be 0 .other. or 1 .clone., got 2"):
        clone_detection._compute(predictions=[2], references=[1])


@pytest.mark.parametrize("path", MODULES.glob("*/*.py"), ids=lambda path: path.stem)
def test_a_module_needs_no_other_file_of_this_repository(path):
    """It is copied elsewhere before it is imported; `import datasets, evaluate` on one line would fail there."""
    imported = [
        node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    assert all(isinstance(node, ast.Import) and len(node.names) == 1 for node in imported)
    names = {node.names[0].name.split(".")[0] for node in imported}
    assert {"datasets", "evaluate"} <= names <= {"datasets", "evaluate", "numpy", "pytrec_eval", "sklearn"}
