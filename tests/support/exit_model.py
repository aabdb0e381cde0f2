"""Fixtures that several folders import: a tiny tokenizer and a tiny MoSE with random weights."""

import copy

import pytest
import torch

from mose.configuration_mose import MoSEConfig
from mose.modeling_mose import MoSEModel


@pytest.fixture(scope="session")
def tokenizer(tiny_tokenizer):
    """Declares the model's length limit, as shipped tokenizers do."""
    limited = copy.deepcopy(tiny_tokenizer)
    limited.model_max_length = 64
    return limited


@pytest.fixture(scope="session")
def model(tokenizer):
    torch.manual_seed(0)
    config = MoSEConfig.from_preset(
        "mose-nano-256",
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        exit_layers=(0, 1, 3),
        max_position_embeddings=64,
        embedding_dropout=0.3,
        residual_dropout=0.3,
    )
    return MoSEModel(config).eval()


@pytest.fixture(scope="session")
def model_folder(model, tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
