"""ONNX exports, run by onnxruntime, against the model; and the encoder that needs no torch."""

import copy
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mose.handler import EndpointHandler
from mose.hub import export as exporting
from mose.hub.__main__ import main
from mose.hub.export import export
from mose.hub.files import write_sentence_transformers_files
from mose.hub.onnx_encoder import OnnxEncoder
from mose.hub.publish import publish
from mose.modeling_mose import MoSEModel
from mose.training.setup import load_tokenizer

pytestmark = pytest.mark.slow

TEXTS = ["def add(first, second): return first + second", "", "x = 1\n" * 30, "é 漢"]


@pytest.fixture(scope="module")
def source(shared_tiny_model, tiny_tokenizer, tmp_path_factory) -> Path:
    """Exits 0, 1 and 3, gated pooling, on disk."""
    folder = tmp_path_factory.mktemp("source")
    shared_tiny_model.save_pretrained(folder)
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.model_max_length = 64
    tokenizer.save_pretrained(folder)
    load_tokenizer(str(folder)).save_pretrained(folder)  # as training saves it: it reads prompts
    write_sentence_transformers_files(folder)
    return folder


@pytest.fixture(scope="module")
def exported(source, tmp_path_factory) -> Path:
    """Two of them, by the command; the third is exported below, with heads as the released models may have."""
    folder = tmp_path_factory.mktemp("exported")
    assert main(["export", str(source), "--exit-layer", "0", "3", "--output-dir", str(folder), "--int8"]) == 0
    return folder


@pytest.fixture(scope="module")
def sessions(exported) -> dict[int, onnxruntime.InferenceSession]:
    return {e: onnxruntime.InferenceSession(exported / f"onnx/model_exit{e}.onnx") for e in (0, 3)}


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 64), min_size=1, max_size=7),
    amount=st.integers(0, 5),
    side=st.sampled_from(["left", "right"]),
    exit_layer=st.sampled_from([0, 3]),
    seed=st.integers(0, 1000),
)
def test_onnxruntime_agrees_at_any_batch_length_and_padding(
    shared_tiny_model, sessions, lengths, amount, side, exit_layer, seed
):
    torch.manual_seed(seed)
    mask = torch.zeros(len(lengths), max(lengths) + amount, dtype=torch.long)
    for row, length in zip(mask, lengths, strict=True):
        row[slice(-length, None) if side == "left" else slice(length)] = 1
    ids = torch.randint(0, 320, mask.shape)
    with torch.no_grad():
        expected = shared_tiny_model(ids, mask, exit_layer=exit_layer).pooler_output.numpy()
    (embeddings,) = sessions[exit_layer].run(None, {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})
    np.testing.assert_allclose(embeddings, expected, atol=1e-5, rtol=0)


def test_the_encoder_gives_the_vectors_that_are_served(source, exported):
    handler = EndpointHandler(source, device="cpu")
    for e in (0, 3):
        encoder = OnnxEncoder(exported, e, threads=1)
        for prompt in (None, "query", "cpp"):
            parameters = {"exit_layer": e} | ({"prompt_name": prompt} if prompt else {})
            expected = np.array(handler({"inputs": TEXTS, "parameters": parameters}))
            embeddings = encoder.encode(TEXTS, prompt)
            assert embeddings.dtype == np.float32
            np.testing.assert_allclose(embeddings, expected, atol=1e-5, rtol=0)


def test_int8_is_smaller_and_near(exported):
    for e in (0, 3):
        exact, rounded = OnnxEncoder(exported, e).encode(TEXTS), OnnxEncoder(exported, e, int8=True).encode(TEXTS)
        assert ((exact * rounded).sum(axis=1) > 0.95).all() and not np.array_equal(exact, rounded)
        types = {t.data_type for t in onnx.load(exported / f"onnx/model_exit{e}_int8.onnx").graph.initializer}
        assert onnx.TensorProto.INT8 in types


def test_an_exit_holds_no_deeper_block(exported):
    shallow, deep = (onnx.load(exported / f"onnx/model_exit{e}.onnx").graph.initializer for e in (0, 3))
    assert sum(len(tensor.raw_data) for tensor in shallow) < sum(len(tensor.raw_data) for tensor in deep)
    assert any("layers.2." in tensor.name for tensor in deep)
    assert not any("layers." in tensor.name for tensor in shallow)


def test_released_kinds_of_exits_and_weights_that_lie_beside(
    build_model, tiny_config, source, tmp_path, monkeypatch
):
    """Un-normed states, a head of two layers on each token, short norms; weights in a file of their own."""
    monkeypatch.setattr(exporting, "INLINE_BYTES", 1_000)
    config = tiny_config(
        exit_norm="final",
        pooling="mean",
        projection_layers=2,
        embedding_norm="at_most_one",
    )
    (done,) = export(build_model(MoSEModel, config), source, tmp_path / "out", [1])
    assert done.difference <= 1e-5 and done.int8_path is None
    assert sorted(path.name for path in (tmp_path / "out/onnx").iterdir()) == [
        "model_exit1.onnx",
        "model_exit1.onnx_data",
    ]


def test_an_export_that_differs_is_not_written(shared_tiny_model, source, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "_write_onnx", lambda model, e, path: path.write_bytes(b"model"))
    monkeypatch.setattr(exporting, "_compare", lambda model, e, path: (2e-5, 0.9))
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx/model_exit1.onnx").write_bytes(b"old")
    with pytest.raises(RuntimeError, match="exit 1: the export differs from the model by 2.0e-05"):
        export(shared_tiny_model, source, tmp_path, [1])
    assert (tmp_path / "onnx/model_exit1.onnx").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["onnx"]


def test_from_the_hub(online, source, tmp_path, monkeypatch):
    """By repository id; what is exported how was tested above."""
    repo = f"{online.user}/exported"
    publish(source, repo, endpoint=online.url, token=online.token)
    seen = []
    monkeypatch.setattr(
        exporting, "_write_onnx", lambda model, e, path: (path.write_bytes(b"x"), seen.append((model, e)))
    )
    monkeypatch.setattr(exporting, "_compare", lambda model, e, path: (0.0, 1.0))
    assert main(["export", repo, "--exit-layer", "1", "--output-dir", str(tmp_path)]) == 0
    ((model, exit_layer),) = seen
    assert exit_layer == 1 and len(model.layers) == 1
    assert (tmp_path / "tokenizer.json").read_bytes() == (source / "tokenizer.json").read_bytes()


def test_what_cannot_be_had_is_named(source, exported, tmp_path, capsys, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"model_exit2.onnx: no such export. .* model_exit0.onnx"):
        OnnxEncoder(exported, 2)
    encoder = OnnxEncoder(exported, 3)
    with pytest.raises(ValueError, match="prompt_name must be one of query, .* got 'nobody'"):
        encoder.encode(["x"], "nobody")
    for wrong in ([], "text"):
        with pytest.raises(ValueError, match="at least one text"):
            encoder.encode(wrong)
    assert main(["export", str(source), "--exit-layer", "2", "--output-dir", str(tmp_path)]) == 2
    assert "exit_layer must be one of 0, 1, 3, got 2" in capsys.readouterr().err
    assert main(["export", str(tmp_path / "nowhere"), "--output-dir", str(tmp_path)]) == 2
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert main(["export", str(source), "--output-dir", str(tmp_path)]) == 1
    assert "mose[onnx]" in capsys.readouterr().err


def test_the_documentations_snippets_run(exported):
    """With onnxruntime and tokenizers alone, and with the encoder."""
    text = (Path(exporting.__file__).parent.parent / "docs/deploy.md").read_text(encoding="utf-8")
    snippets = [block.split("```")[0] for block in text.split("```python\n")[1:]]
    snippets = [snippet for snippet in snippets if "OUT" in snippet]
    assert len(snippets) == 2
    for snippet, prompt in zip(snippets, ("query", "document"), strict=True):
        names: dict = {}
        exec(snippet.replace("OUT", str(exported)).replace("1024", "64"), names)
        text = "parse an ISO date" if prompt == "query" else "def add(a, b): return a + b"
        expected = OnnxEncoder(exported, 3, int8=prompt == "query").encode([text], prompt)
        np.testing.assert_allclose(names["vectors"], expected, atol=1e-6, rtol=0)
