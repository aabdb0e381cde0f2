"""Properties of embeddings: independence of padding, unit norm, one pass for all exits, gradients."""

import copy
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from mose.modeling_mose import SIMILARITY_SCALE_RANGE, MoSEModel

POOLINGS = ("mean", "cls", "gated")


def pad(rows: list[torch.Tensor], amount: int, side: str, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    tokens = max(map(len, rows)) + amount
    ids, mask = torch.zeros(len(rows), tokens, dtype=torch.long), torch.zeros(len(rows), tokens, dtype=dtype)
    for index, row in enumerate(rows):
        place = slice(tokens - len(row), tokens) if side == "left" else slice(0, len(row))
        ids[index, place], mask[index, place] = row, 1
    return {"input_ids": ids, "attention_mask": mask}


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("pooling", POOLINGS)
@settings(max_examples=15, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 16), min_size=1, max_size=4),
    amount=st.integers(0, 6),
    side=st.sampled_from(["left", "right"]),
    dtype=st.sampled_from([torch.bool, torch.long, torch.int32, torch.uint8, torch.float32]),
    exit_norm=st.sampled_from(["every", "final"]),
    seed=st.integers(0, 1000),
)
def test_batch_composition_and_padding_change_no_embedding(
    tiny_config, build_model, attention, pooling, lengths, amount, side, dtype, exit_norm, seed
):
    config = tiny_config(pooling=pooling, exit_norm=exit_norm, attn_implementation=attention)
    model = build_model(MoSEModel, config, seed)
    rows = [torch.randint(0, 320, (length,)) for length in lengths]
    with torch.no_grad():
        batched = model(**pad(rows, amount, side, dtype), output_all_exits=True).exit_embeddings
        for index, row in enumerate(rows):
            alone = model(row[None], output_all_exits=True).exit_embeddings
            for actual, expected in zip(batched, alone, strict=True):
                assert (actual[index] - expected[0]).abs().max() <= 1e-5


def test_a_row_of_only_padding_changes_no_other_row(tiny_model, tiny_batch):
    expected = tiny_model(**tiny_batch).pooler_output
    mask = tiny_batch["attention_mask"].clone()
    mask[2] = 0
    for attention in ("eager", "sdpa"):
        tiny_model.set_attn_implementation(attention)
        actual = tiny_model(tiny_batch["input_ids"], mask).pooler_output
        assert actual.isfinite().all()
        torch.testing.assert_close(actual[:2], expected[:2], atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_embeddings_have_unit_norm_and_half_precision_is_near(
    build_model, tiny_config, tiny_batch, pooling, dtype
):
    model = build_model(MoSEModel, tiny_config(pooling=pooling))
    with torch.no_grad():
        exact = model(**tiny_batch, output_all_exits=True).exit_embeddings
        actual = model.to(dtype)(**tiny_batch, output_all_exits=True).exit_embeddings
    for embedding, expected in zip(actual, exact, strict=True):
        assert embedding.dtype == dtype
        tolerance = 1e-5 if dtype == torch.float32 else 1e-2
        torch.testing.assert_close(embedding.float().norm(dim=-1), torch.ones(3), atol=tolerance, rtol=0)
        assert F.cosine_similarity(embedding.float(), expected).min() > 1 - tolerance


@pytest.mark.parametrize("pooling", POOLINGS)
def test_autocast_stays_near_and_of_unit_norm(build_model, tiny_config, tiny_batch, pooling):
    model = build_model(MoSEModel, tiny_config(pooling=pooling))
    with torch.no_grad():
        exact = model(**tiny_batch).pooler_output
        with torch.autocast("cpu", torch.bfloat16):
            actual = model(**tiny_batch).pooler_output
    torch.testing.assert_close(actual.float().norm(dim=-1), torch.ones(3), atol=1e-2, rtol=0)
    assert F.cosine_similarity(actual.float(), exact).min() > 0.99


@pytest.mark.parametrize("exit_layer", [0, 1, 3, None])
def test_all_exits_in_one_pass_equal_separate_passes(tiny_model, tiny_batch, exit_layer):
    out = tiny_model(**tiny_batch, exit_layer=exit_layer, output_all_exits=True)
    exits = [e for e in tiny_model.exit_layers if exit_layer is None or e <= exit_layer]
    assert len(out.exit_embeddings) == len(exits)
    for depth, embedding in zip(exits, out.exit_embeddings, strict=True):
        assert torch.equal(embedding, tiny_model(**tiny_batch, exit_layer=depth).pooler_output)
    assert torch.equal(out.pooler_output, out.exit_embeddings[-1])
    assert len({tuple(embedding[0].tolist()) for embedding in out.exit_embeddings}) == len(exits)


def test_exit_states_replace_embeddings(tiny_model, tiny_batch):
    every = tiny_model(**tiny_batch, output_all_exits=True, output_exit_states=True)
    assert list(every.exit_states) == [0, 1, 3]
    assert every.pooler_output is every.exit_embeddings is every.similarity_scale is None
    for exit_layer, states in every.exit_states.items():
        one = tiny_model(**tiny_batch, exit_layer=exit_layer, output_exit_states=True)
        assert list(one.exit_states) == [exit_layer]
        assert torch.equal(one.exit_states[exit_layer], states)
        assert torch.equal(tiny_model(**tiny_batch, exit_layer=exit_layer).last_hidden_state, states)


@pytest.mark.parametrize("exit_norm", ["every", "final"])
def test_all_exits_keep_no_hidden_states_alive(build_model, tiny_config, tiny_batch, exit_norm):
    model = build_model(
        MoSEModel, tiny_config(num_hidden_layers=6, exit_layers=(0, 2, 4, 6), exit_norm=exit_norm)
    )
    states: list[weakref.ref] = []
    alive: list[int] = []
    for block in model.layers:
        block.register_forward_pre_hook(lambda *_: alive.append(sum(ref() is not None for ref in states)))
        block.register_forward_hook(lambda _, args, out: states.append(weakref.ref(out)))
    with torch.no_grad():
        out = model(**tiny_batch, output_all_exits=True)
    assert len(states) == 6
    # At most the block's input and, un-normed, the exit that was taken last.
    assert max(alive) <= (1 if exit_norm == "every" else 2)
    assert [ref() for ref in states if ref() is not None and ref() is not out.last_hidden_state] == []


def test_gradients_reach_every_parameter_up_to_the_exit_and_none_beyond(tiny_model, tiny_batch):
    tiny_model.train()
    out = tiny_model(**tiny_batch, exit_layer=1, output_all_exits=True)
    (torch.stack(out.exit_embeddings).pow(3).sum() * out.similarity_scale.sum()).backward()
    for name, parameter in tiny_model.named_parameters():
        deeper = name.startswith(("layers.1.", "layers.2.", "exits.3."))
        assert (parameter.grad is None or not parameter.grad.any()) == deeper or "k_proj.bias" in name, name


def test_the_similarity_scale_starts_as_configured_and_is_bounded(tiny_config, tiny_batch):
    model = MoSEModel(tiny_config(similarity_scale_init=7.0))
    assert model(**tiny_batch).similarity_scale is None
    assert model(**tiny_batch, output_all_exits=True).similarity_scale.tolist() == [7.0]
    for value, bound in zip((-1.0, 99.0), SIMILARITY_SCALE_RANGE, strict=True):
        changed = copy.deepcopy(model)
        changed.similarity_scale.data.fill_(value)
        scale = changed(**tiny_batch, output_all_exits=True).similarity_scale
        torch.testing.assert_close(scale, torch.tensor([bound]))


def test_weights_are_initialised_as_configured(tiny_config):
    torch.manual_seed(0)
    model = MoSEModel(tiny_config(initializer_range=0.05, vocab_size=4000))
    assert model.embed_tokens.weight[1:].std().item() == pytest.approx(0.05, rel=0.05)
    assert not model.embed_tokens.weight[0].any()  # padding
    for name, parameter in model.named_parameters():
        if "norm" in name:
            assert (parameter == name.endswith("weight")).all()
        elif name.endswith("bias") or "score" in name:
            assert not parameter.any()
        elif name.startswith("layers"):
            assert parameter.std().item() == pytest.approx(0.05, rel=0.2)


@pytest.mark.parametrize("exit_layer", [0, 3])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_row_without_real_tokens_is_finite_and_changes_no_other(
    build_model, tiny_config, pooling, attention, exit_layer
):
    model = build_model(MoSEModel, tiny_config(pooling=pooling, attn_implementation=attention))
    rows = [torch.arange(1, 9), torch.arange(1, 1), torch.arange(3, 6)]
    batch = pad(rows, 0, "left", torch.long)
    with torch.no_grad():
        embeddings = model(**batch, exit_layer=exit_layer).pooler_output
        whole = {name: tensor[[0, 2]] for name, tensor in batch.items()}
        others = model(**whole, exit_layer=exit_layer).pooler_output
    assert batch["attention_mask"].sum(1).tolist() == [8, 0, 3] and embeddings.isfinite().all()
    torch.testing.assert_close(embeddings[[0, 2]], others, rtol=0, atol=1e-6)
