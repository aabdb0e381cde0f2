"""The blocks of docs/integrations.md, each run where its library is installed."""

import re
from types import SimpleNamespace

import numpy as np
import pytest

from mose.inference.encoding import encode
from mose.inference.loading import load_model
from mose.tokenization.prompts import code_prompt, text_prompt
from mose.utils.locations import package_folder

pytestmark = pytest.mark.slow

PAGE = (package_folder() / "docs" / "integrations.md").read_text(encoding="utf-8")
SECTION = re.compile(
    r"^## (?P<title>[^\n]+)\n(?:(?!^## ).)*?"
    r"<!-- needs: (?P<needs>[^\n]+) -->\n```python\n(?P<code>.*?)```",
    re.M | re.S,
)
BLOCKS = {match["title"]: match for match in SECTION.finditer(PAGE)}
SETUP = re.search(r"```python\n(.*?)```", PAGE, re.S)[1]


@pytest.fixture(scope="module")
def expected():
    """The embeddings of the page's texts by our own encoder: code at exits 0 to 3, and the query."""
    names = {}
    exec(SETUP, names)
    model, tokenizer, exits = load_model(names["MODEL"], device="cpu", trust_remote_code=False)

    def embed(texts, prompt):
        return encode(model, tokenizer, texts, exits, prompt)

    flat = [code.replace("\n", " ") for code in names["CODE"]]
    return SimpleNamespace(
        documents=embed(names["CODE"], code_prompt("python")),
        flat=embed(flat, code_prompt("python")),
        any_language=embed(names["CODE"], code_prompt()),
        queries=embed([names["QUERY"]], text_prompt()),
    )


def assert_same_direction(vectors, others, least=0.9995):
    """Check the cosines: libraries choose the type of the weights themselves, and some choose bf16."""
    vectors, others = (np.atleast_2d(np.asarray(rows, dtype=np.float64)) for rows in (vectors, others))
    assert vectors.shape == others.shape
    norms = np.linalg.norm(vectors, axis=1) * np.linalg.norm(others, axis=1)
    assert ((vectors * others).sum(axis=1) / norms).min() > least


def run_block(title, tmp_path, monkeypatch):
    for module in BLOCKS[title]["needs"].split():
        pytest.importorskip(module)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(SETUP + BLOCKS[title]["code"], names)
    return names


def test_every_section_but_the_demo_has_a_block():
    titles = re.findall(r"^## (.+)$", PAGE, re.M)
    assert list(BLOCKS) == [title for title in titles if title != "Gradio"] and len(BLOCKS) == 10


def test_sentence_transformers(expected, tmp_path, monkeypatch):
    names = run_block("sentence-transformers", tmp_path, monkeypatch)
    documents, queries = expected.documents, expected.queries
    assert_same_direction(names["deep"], documents[3])
    assert_same_direction(names["shallow"], queries[0])
    assert_same_direction(names["vectors"], documents[1])
    assert names["best"] == 0


@pytest.mark.parametrize(("title", "query_exit"), [("LangChain", 0), ("LlamaIndex", 3), ("Haystack", 3)])
def test_frameworks_embed_as_we_do(title, query_exit, expected, tmp_path, monkeypatch):
    names = run_block(title, tmp_path, monkeypatch)
    queries = expected.queries
    assert_same_direction(names["vectors"], (expected.flat if title == "LangChain" else expected.documents)[3])
    assert_same_direction(names["query"], queries[query_exit][0])


def test_txtai(expected, tmp_path, monkeypatch):
    ((row, score),) = run_block("txtai", tmp_path, monkeypatch)["hits"]
    cosine = float(expected.queries[3][0] @ expected.any_language[3][0])
    assert row == 0 and score == pytest.approx(cosine, abs=2e-3)


def test_chroma(expected, tmp_path, monkeypatch):
    names = run_block("Chroma", tmp_path, monkeypatch)
    documents, queries = expected.documents, expected.queries
    assert names["hits"]["ids"] == [["add"]]
    distance = 1 - float(queries[0][0] @ documents[3][0])
    assert names["hits"]["distances"][0][0] == pytest.approx(distance, abs=2e-3)


def test_mteb(tmp_path, monkeypatch):
    names = run_block("MTEB", tmp_path, monkeypatch)
    assert names["encoder"].mteb_model_meta.name


def test_openvino(expected, tmp_path, monkeypatch):
    names = run_block("OpenVINO", tmp_path, monkeypatch)
    assert_same_direction(names["vectors"], expected.documents[0])


@pytest.mark.parametrize("title", ["torchao", "bitsandbytes"])
def test_quantized_models_stay_close(title, expected, tmp_path, monkeypatch):
    names = run_block(title, tmp_path, monkeypatch)
    tokenizer = load_model(names["MODEL"], [0], device="cpu", trust_remote_code=False)[1]
    for exit_layer in (0, 3):
        vectors = encode(names["model"], tokenizer, names["CODE"], [exit_layer], code_prompt("python"))
        assert_same_direction(vectors[exit_layer], expected.documents[exit_layer], 0.999)
