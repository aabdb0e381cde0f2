import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling

from mose.hub.files import sentence_transformers_files, write_sentence_transformers_files
from mose.tokenization.prompts import LANGUAGES, code_prompt, text_prompt

TEXTS = ["def add(first, second):\n    return first + second", "Add two numbers.", ""]


@pytest.fixture
def folder(shared_tiny_model, tiny_tokenizer, tmp_path) -> Path:
    shared_tiny_model.save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    write_sentence_transformers_files(tmp_path)
    return tmp_path


def load(folder: Path, **kwargs) -> SentenceTransformer:
    return SentenceTransformer(str(folder), trust_remote_code=True, device="cpu", **kwargs)


def test_what_is_written_is_the_json_that_was_promised(tmp_path):
    files = sentence_transformers_files(32)
    write_sentence_transformers_files(tmp_path, 32)
    written = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert written == set(files)  # no folder for the normalisation
    for name, content in files.items():
        assert json.loads((tmp_path / name).read_text(encoding="utf-8")) == content
    prompts = files["config_sentence_transformers.json"]["prompts"]
    assert prompts == {
        "query": text_prompt(),
        "document": code_prompt(),
        **{language: code_prompt(language) for language in LANGUAGES},
    }


@pytest.mark.filterwarnings("error")
def test_it_loads_without_a_word_as_stock_modules(folder, caplog):
    with caplog.at_level(logging.WARNING):
        encoder = load(folder)
    assert not caplog.records
    assert [type(module) for module in encoder] == [Transformer, Pooling, Normalize]
    assert encoder.similarity_fn_name == "cosine"
    assert encoder.get_embedding_dimension() == 32


def test_vectors_prompts_and_exits_are_those_of_the_model(folder, shared_tiny_model, tiny_tokenizer):
    encoder = load(folder)
    for exit_layer in (None, 0, 1, 3):
        chosen = {} if exit_layer is None else {"exit_layer": exit_layer}
        for embeddings, prompt in (
            (encoder.encode(TEXTS, **chosen), ""),
            (encoder.encode_query(TEXTS, **chosen), text_prompt()),
            (encoder.encode_document(TEXTS, **chosen), code_prompt()),
            (encoder.encode(TEXTS, prompt_name="cpp", **chosen), code_prompt("cpp")),
        ):
            batch = tiny_tokenizer([prompt + text for text in TEXTS], padding=True, return_tensors="pt")
            with torch.no_grad():
                expected = shared_tiny_model(**batch, exit_layer=exit_layer).pooler_output
            np.testing.assert_allclose(embeddings, expected.numpy(), atol=1e-6)


@pytest.mark.parametrize("where", ["config_kwargs", "model_kwargs"])
def test_a_shallow_encoder_has_no_deeper_block(folder, where):
    encoder = load(folder, **{where: {"exit_layer": 1}})
    assert len(encoder[0].auto_model.layers) == 1
    np.testing.assert_allclose(encoder.encode(TEXTS), load(folder).encode(TEXTS, exit_layer=1), atol=1e-6)
    with pytest.raises(ValueError, match="exit_layer must be one of .*loaded up to exit 1, got 3"):
        encoder.encode(TEXTS, exit_layer=3)


def test_an_exit_that_does_not_exist_is_named(folder):
    with pytest.raises(ValueError, match="exit_layer must be one of 0, 1, 3, got 2"):
        load(folder).encode(TEXTS, exit_layer=2)


def test_texts_are_cut_to_the_models_length_and_keep_cls(folder, tiny_tokenizer):
    encoder = load(folder)
    ids = encoder.tokenize([text_prompt() + "word " * 500])["input_ids"][0].tolist()
    assert len(ids) == 64
    assert (ids[0], ids[-1]) == (tiny_tokenizer.sep_token_id, tiny_tokenizer.cls_token_id)


def test_sentence_transformers_own_save_keeps_everything(folder, tmp_path_factory):
    again = tmp_path_factory.mktemp("again")
    encoder = load(folder)
    encoder.save(str(again))
    loaded = load(again)
    assert loaded.prompts == encoder.prompts
    for exit_layer in (0, 3):
        np.testing.assert_allclose(
            loaded.encode_query(TEXTS, exit_layer=exit_layer),
            encoder.encode_query(TEXTS, exit_layer=exit_layer),
            atol=1e-6,
        )
