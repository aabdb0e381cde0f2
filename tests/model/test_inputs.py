"""Inputs that the models accept or refuse, and the forms of their outputs."""

import pytest
import torch
from transformers.utils.logging import warning_once

from mose.modeling_mose import MoSEForPreTraining, MoSEForSequenceClassification, MoSEModel

CLASSES = (MoSEModel, MoSEForPreTraining, MoSEForSequenceClassification)


def test_embeddings_may_be_given_instead_of_ids(tiny_model, tiny_batch):
    ids, mask = tiny_batch["input_ids"], tiny_batch["attention_mask"]
    states = tiny_model.embed_tokens(ids)
    actual = tiny_model(inputs_embeds=states, attention_mask=mask).pooler_output
    assert torch.equal(actual, tiny_model(ids, mask).pooler_output)
    for both in ({}, {"input_ids": ids, "inputs_embeds": states}):
        with pytest.raises(ValueError, match="You must specify exactly one of input_ids or inputs_embeds"):
            tiny_model(**both)


def test_positions_may_be_given(tiny_model, tiny_batch):
    ids, mask = tiny_batch["input_ids"], tiny_batch["attention_mask"]
    expected = tiny_model(ids, mask).pooler_output
    counted = (mask.cumsum(dim=1) - 1).clamp(min=0)
    assert torch.equal(tiny_model(ids, mask, position_ids=counted).pooler_output, expected)
    whole = tiny_model(ids[:1], position_ids=torch.arange(9)).pooler_output
    torch.testing.assert_close(whole, expected[:1], atol=1e-5, rtol=0)
    stretched = tiny_model(ids, mask, position_ids=counted * 3).pooler_output
    assert (stretched - expected).abs().max() > 1e-3


@pytest.mark.parametrize("dropout", ["attention_dropout", "residual_dropout", "embedding_dropout"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_each_dropout_acts_only_in_training(build_model, tiny_config, tiny_batch, dropout, attention):
    model = build_model(MoSEModel, tiny_config(**{dropout: 0.5}, attn_implementation=attention))
    assert torch.equal(model(**tiny_batch).pooler_output, model(**tiny_batch).pooler_output)
    model.train()
    assert not torch.equal(model(**tiny_batch).pooler_output, model(**tiny_batch).pooler_output)


@pytest.mark.parametrize("model_class", CLASSES)
def test_the_vocabulary_can_grow_and_shrink(build_model, tiny_config, tiny_batch, model_class):
    model = build_model(model_class, tiny_config())
    base = model.base_model
    expected = base(**tiny_batch).pooler_output
    model.resize_token_embeddings(330, mean_resizing=False)
    assert model.config.vocab_size == base.config.vocab_size == len(base.embed_tokens.weight) == 330
    assert torch.equal(base(**tiny_batch).pooler_output, expected)
    base(torch.tensor([[329]]))
    model.resize_token_embeddings(320)
    assert torch.equal(base(**tiny_batch).pooler_output, expected)


def test_return_dict_false_gives_a_tuple(tiny_model, tiny_batch):
    whole = tiny_model(**tiny_batch, output_all_exits=True)
    parts = tiny_model(**tiny_batch, output_all_exits=True, return_dict=False)
    assert isinstance(parts, tuple)
    torch.testing.assert_close(parts, whole.to_tuple())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input_ids": torch.ones(0, 4, dtype=torch.long)}, r"at least one token, got shape \(0, 4\)"),
        ({"input_ids": torch.ones(2, 0, dtype=torch.long)}, r"at least one token, got shape \(2, 0\)"),
        ({"input_ids": torch.ones(4, dtype=torch.long)}, r"input_ids must have shape .* got \(4,\)"),
        ({"input_ids": torch.ones(1, 2, 4, dtype=torch.long)}, r"input_ids must have shape .* got \(1, 2, 4\)"),
        ({"inputs_embeds": torch.ones(4, 32)}, r"must have shape \(batch, tokens, hidden\), got \(4, 32\)"),
        (
            {"input_ids": torch.ones(2, 4, dtype=torch.long), "attention_mask": torch.ones(2, 1, 4, 4)},
            r"attention_mask must have shape \(batch, tokens\) = \(2, 4\), got \(2, 1, 4, 4\)",
        ),
        (
            {"input_ids": torch.ones(2, 4, dtype=torch.long), "attention_mask": torch.ones(2, 5)},
            r"attention_mask must have shape \(batch, tokens\) = \(2, 4\), got \(2, 5\)",
        ),
        (
            {"input_ids": torch.ones(1, 4, dtype=torch.long), "exit_layer": 2},
            "exit_layer must be one of 0, 1, 3, got 2",
        ),
    ],
)
@pytest.mark.parametrize("model_class", CLASSES)
def test_bad_input_is_refused(tiny_config, model_class, arguments, message):
    with pytest.raises(ValueError, match=message):
        model_class(tiny_config())(**arguments)


@pytest.mark.parametrize("model_class", CLASSES)
def test_an_exit_deeper_than_the_model_is_refused(tiny_config, tiny_batch, model_class):
    model = model_class(tiny_config(), exit_layer=1)
    with pytest.raises(ValueError, match="exit_layer must be one of .*loaded up to exit 1, got 3"):
        model(**tiny_batch, exit_layer=3)
    with pytest.raises(ValueError, match="exit_layer must be one of 0, 1, 3, got 2"):
        model_class(tiny_config(), exit_layer=2)


def test_a_model_without_any_block_embeds(build_model, tiny_config, tiny_batch):
    model = build_model(MoSEModel, tiny_config(num_hidden_layers=0, exit_layers=(0,)))
    assert len(model.layers) == 0
    assert model(**tiny_batch).pooler_output.shape == (3, 32)


def test_an_input_beyond_the_context_is_refused(tiny_model):
    ids = torch.randint(4, 320, (1, 65))
    with pytest.raises(ValueError, match="at most max_position_embeddings=64 tokens, got 65. Truncate"):
        tiny_model(ids)
    mask = torch.ones_like(ids)
    mask[0, 0] = 0  # padding does not count
    torch.testing.assert_close(tiny_model(ids, mask).pooler_output, tiny_model(ids[:, 1:]).pooler_output)


def test_padding_without_a_mask_is_warned_of_once(tiny_model, tiny_batch, caplog):
    warning_once.cache_clear()
    tiny_model.config.pad_token_id = 0
    tiny_model(**tiny_batch)
    assert not caplog.messages
    for _ in range(2):
        tiny_model(tiny_batch["input_ids"])
    assert sum("attention_mask" in message for message in caplog.messages) == 1
