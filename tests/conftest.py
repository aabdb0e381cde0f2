"""Fixtures that several rooms share."""

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from mose.tokenization.prompts import CLS, MASK, PAD, SEP

CORPUS = [
    "def add(first, second):\n    return first + second",
    "public int add(int first, int second) { return first + second; }",
    "Represent this Python code snippet for retrieval:",
    "Represent this code description for retrieving supporting snippets of code:",
    "Add two numbers and return their sum.",
]


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
