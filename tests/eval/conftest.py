"""A tiny tokenizer and a tiny MoSE with random weights, in memory and in a folder."""

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from mose.configuration_mose import MoSEConfig
from mose.modeling_mose import MoSEModel
from mose.tokenization.prompts import CLS, MASK, PAD, SEP

CORPUS = [
    "def parse_date(text): return datetime.fromisoformat(text)",
    "public int add(int a, int b) { return a + b; }",
]


@pytest.fixture(scope="session")
def tokenizer():
    base = Tokenizer(models.BPE())
    base.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    base.decoder = decoders.ByteLevel()
    base.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=300,
            special_tokens=[PAD, SEP, CLS, MASK],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    special = [(token, base.token_to_id(token)) for token in (SEP, CLS)]
    base.post_processor = processors.TemplateProcessing(single=f"{SEP} $A {CLS}", special_tokens=special)
    return PreTrainedTokenizerFast(
        tokenizer_object=base,
        pad_token=PAD,
        sep_token=SEP,
        cls_token=CLS,
        mask_token=MASK,
        model_max_length=64,
    )


@pytest.fixture(scope="session")
def model(tokenizer):
    torch.manual_seed(0)
    config = MoSEConfig.from_preset(
        "mose-nano",
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
