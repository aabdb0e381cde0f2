"""Fixtures that several rooms share."""

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.models import Pooling, Transformer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from mose.configuration_mose import MoSEConfig
from mose.modeling_mose import MoSEModel
from mose.tokenization.prompts import CLS, MASK, PAD, SEP

CORPUS = [
    "def add(first, second):\n    return first + second",
    "public int add(int first, int second) { return first + second; }",
    "Represent this Python code snippet for retrieval:",
    "Represent this code description for retrieving supporting snippets of code:",
    "Add two numbers and return their sum.",
]


@pytest.fixture(scope="session", autouse=True)
def offline():
    """No test waits for the Hub: what is not on this machine is missing, at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        yield


@pytest.fixture(scope="session")
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE of about 300 tokens that writes `<sep> … <cls>`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=320,
            special_tokens=[PAD, SEP, CLS, MASK],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{SEP} $A {CLS}",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (SEP, CLS)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, sep_token=SEP, cls_token=CLS, mask_token=MASK
    )


@pytest.fixture(scope="session")
def tiny_config(tiny_tokenizer) -> MoSEConfig:
    """Three blocks, exits 0, 1 and 3, gated pooling, dropout on."""
    return MoSEConfig.from_preset(
        "mose-nano",
        vocab_size=len(tiny_tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_attention_heads=4,
        exit_layers=(0, 1, 3),
        gate_size=8,
        attention_dropout=0.1,
        residual_dropout=0.1,
        embedding_dropout=0.1,
    )


@pytest.fixture(scope="session")
def tiny_model_folder(tiny_config, tiny_tokenizer, tmp_path_factory) -> str:
    """That model, untrained, and its tokenizer, as `from_pretrained` reads them."""
    folder = str(tmp_path_factory.mktemp("tiny-mose"))
    torch.manual_seed(0)
    MoSEModel(tiny_config).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_teacher(tiny_tokenizer, tmp_path_factory) -> str:
    """A sentence-transformers model of 48 dimensions with random weights, in a folder."""
    folder = str(tmp_path_factory.mktemp("tiny-teacher"))
    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=len(tiny_tokenizer),
        hidden_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        initializer_range=0.5,
    )
    BertModel(config).save_pretrained(f"{folder}/bert")
    tiny_tokenizer.save_pretrained(f"{folder}/bert")
    SentenceTransformer(modules=[Transformer(f"{folder}/bert"), Pooling(48)], device="cpu").save(folder)
    return folder
