"""Depth × dimension: an embedding of any exit, cut to any length."""

import itertools

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from torch.nn import functional as F

from mose.configuration_mose import MoSEConfig
from mose.hub.files import write_sentence_transformers_files
from mose.modeling_mose import MoSEModel

DIMS = (1, 7, 32)


def test_truncated_embeddings_are_the_first_dimensions_renormalised(tiny_model, tiny_batch):
    with torch.no_grad():
        for exit_layer, dim in itertools.product(tiny_model.exit_layers, DIMS):
            full = tiny_model(**tiny_batch, exit_layer=exit_layer).pooler_output
            cut = tiny_model(**tiny_batch, exit_layer=exit_layer, truncate_dim=dim).pooler_output
            torch.testing.assert_close(cut, F.normalize(full[:, :dim], dim=-1), atol=1e-6, rtol=0)
        every = tiny_model(**tiny_batch, truncate_dim=7, output_all_exits=True).exit_embeddings
        for exit_layer, embedding in zip(tiny_model.exit_layers, every, strict=True):
            one = tiny_model(**tiny_batch, exit_layer=exit_layer, truncate_dim=7).pooler_output
            torch.testing.assert_close(embedding, one, atol=1e-6, rtol=0)


def test_bad_truncate_dims_are_refused(tiny_model, tiny_batch, tiny_config):
    for dim in (0, -1, 33, 7.0, True):
        with pytest.raises(ValueError, match=rf"truncate_dim must be an integer in \[1, 32\], got {dim}"):
            tiny_model(**tiny_batch, truncate_dim=dim)
        with pytest.raises(ValueError, match=rf"truncate_dim must be an integer in \[1, 32\], got {dim}"):
            tiny_config(truncate_dim=dim)
    with pytest.raises(ValueError, match=r"truncate_dim must be an integer in \[1, 32\], got 64"):
        tiny_config(matryoshka_dims=[64, 16])
    assert tiny_config(truncate_dim=32).resolve_truncate_dim() == 32


@pytest.mark.slow
def test_every_route_to_depth_and_dimension_agrees(tiny_model, tiny_tokenizer, tmp_path):
    tiny_model.save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    write_sentence_transformers_files(tmp_path)
    texts = ["def add(a, b): return a + b", "Add.", "(" * 30]
    batch = tiny_tokenizer(texts, padding=True, return_tensors="pt", return_token_type_ids=False)
    sentences = SentenceTransformer(str(tmp_path), trust_remote_code=True, device="cpu")
    for exit_layer, dim in itertools.product(tiny_model.exit_layers, DIMS):
        with torch.no_grad():
            expected = tiny_model(**batch, exit_layer=exit_layer, truncate_dim=dim).pooler_output.numpy()
            loaded = MoSEModel.from_pretrained(tmp_path, exit_layer=exit_layer, truncate_dim=dim)
            np.testing.assert_allclose(loaded(**batch).pooler_output.numpy(), expected, atol=1e-6)
        cut = sentences.encode(texts, exit_layer=exit_layer, truncate_dim=dim, normalize_embeddings=True)
        np.testing.assert_allclose(cut, expected, atol=1e-5)
    settings = {"exit_layer": 1, "truncate_dim": 7}
    stored = SentenceTransformer(
        str(tmp_path), trust_remote_code=True, device="cpu", config_kwargs=settings
    ).encode(texts)
    np.testing.assert_allclose(np.linalg.norm(stored, axis=1), 1, atol=1e-5)
    with torch.no_grad():
        expected = tiny_model(**batch, **settings).pooler_output.numpy()
    np.testing.assert_allclose(stored, expected, atol=1e-5)


def test_fields_about_the_embedding_space_are_stored(tmp_path, tiny_config):
    config = tiny_config(aligned_exits=True, matryoshka_dims=[16, 8], truncate_dim=8)
    config.save_pretrained(tmp_path)
    loaded = MoSEConfig.from_pretrained(tmp_path)
    assert (loaded.aligned_exits, list(loaded.matryoshka_dims), loaded.truncate_dim) == (True, [16, 8], 8)
    assert MoSEConfig.from_pretrained(tmp_path, truncate_dim=None).resolve_truncate_dim() == 32
    assert not MoSEConfig().aligned_exits and MoSEConfig().matryoshka_dims is None
