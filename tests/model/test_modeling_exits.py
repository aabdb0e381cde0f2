"""What stands at an exit: norm, pooling, projection, and what an embedding must not depend on."""

import copy
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from mose.modeling_mose import SIMILARITY_SCALE_RANGE, MoSEExit, MoSEForPreTraining, MoSEModel, last_token

POOLINGS = ("mean", "cls", "gated")


def pad(rows: list[torch.Tensor], amount: int, side: str, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    tokens = max(map(len, rows)) + amount
    ids, mask = torch.zeros(len(rows), tokens, dtype=torch.long), torch.zeros(len(rows), tokens, dtype=dtype)
    for at, row in enumerate(rows):
        place = slice(tokens - len(row), tokens) if side == "left" else slice(0, len(row))
        ids[at, place], mask[at, place] = row, 1
    return {"input_ids": ids, "attention_mask": mask}


@pytest.mark.slow
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
def test_neighbours_and_padding_change_no_embedding(
    tiny_config, build_model, attention, pooling, lengths, amount, side, dtype, exit_norm, seed
):
    config = tiny_config(pooling=pooling, exit_norm=exit_norm, attn_implementation=attention)
    model = build_model(MoSEModel, config, seed)
    rows = [torch.randint(0, 320, (length,)) for length in lengths]
    with torch.no_grad():
        batched = model(**pad(rows, amount, side, dtype), output_all_exits=True).exit_embeddings
        for at, row in enumerate(rows):
            alone = model(row[None], output_all_exits=True).exit_embeddings
            for found, expected in zip(batched, alone, strict=True):
                assert (found[at] - expected[0]).abs().max() <= 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_embeddings_have_unit_norm_and_half_precision_is_near(
    build_model, tiny_config, tiny_batch, pooling, dtype
):
    model = build_model(MoSEModel, tiny_config(pooling=pooling))
    with torch.no_grad():
        exact = model(**tiny_batch, output_all_exits=True).exit_embeddings
        found = model.to(dtype)(**tiny_batch, output_all_exits=True).exit_embeddings
    for embedding, expected in zip(found, exact, strict=True):
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
            found = model(**tiny_batch).pooler_output
    torch.testing.assert_close(found.float().norm(dim=-1), torch.ones(3), atol=1e-2, rtol=0)
    assert F.cosine_similarity(found.float(), exact).min() > 0.99


def independent_gate(exit_head: MoSEExit, states: torch.Tensor) -> torch.Tensor:
    """The gated pooling's weights of one unpadded sequence (tokens, hidden), by a convolution of torch's own.

    The taps' biases ride on a channel of ones, which the convolution pads with zeros as it does the states.
    """
    gate = exit_head.gate
    kernel, width, hidden = gate.kernel_size, gate.place.out_features, states.shape[1]
    convolution = nn.Conv1d(hidden + 1, width, kernel, padding=kernel - 1, bias=False)
    weight = torch.cat((gate.taps.weight, gate.taps.bias[:, None]), dim=1).view(kernel, width, hidden + 1)
    # Tap s looks s tokens back; torch's kernel runs from the past to the present.
    convolution.weight.data = weight.flip(0).permute(1, 2, 0)
    channels = torch.cat((states, torch.ones(len(states), 1)), dim=1)
    features = convolution(channels.T[None])[0, :, : len(states)].T
    place = torch.arange(1, len(states) + 1).add(1).log()[:, None]
    features = features + place * gate.place.weight[:, 0] + gate.place.bias
    return F.softmax(F.gelu(features, approximate="tanh") @ gate.score.weight[0], dim=0)


def pooled(exit_head: MoSEExit, states: torch.Tensor) -> torch.Tensor:
    """One unpadded sequence (tokens, hidden) → hidden."""
    if exit_head.pooling == "cls":
        return states[-1]
    if exit_head.pooling == "mean":
        return sum(states) / len(states)
    return sum(w * state for w, state in zip(independent_gate(exit_head, states), states, strict=True))


@pytest.mark.parametrize("kernel", [1, 2, 4, 7])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_pooling_equals_its_definition(build_model, tiny_config, tiny_batch, pooling, kernel):
    model = build_model(MoSEModel, tiny_config(pooling=pooling, gate_kernel_size=kernel))
    mask = tiny_batch["attention_mask"]
    with torch.no_grad():
        for exit_layer in model.exit_layers:
            out = model(**tiny_batch, exit_layer=exit_layer)
            exit_head = model.exits[str(exit_layer)]
            for row, real in enumerate(mask.bool()):
                states = out.last_hidden_state[row, real]
                expected = F.normalize(exit_head.projection(pooled(exit_head, states)), dim=0)
                torch.testing.assert_close(out.pooler_output[row], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_projecting_the_pooled_equals_pooling_the_projected(build_model, tiny_config, pooling):
    exit_head = build_model(MoSEModel, tiny_config(pooling=pooling)).exits["3"]
    states = torch.randn(7, 32)
    with torch.no_grad():
        weights = torch.full((7,), 1 / 7) if pooling == "mean" else F.one_hot(torch.tensor(6), 7).float()
        if pooling == "gated":
            weights = independent_gate(exit_head, states)
        expected = F.normalize(weights @ exit_head.projection(states), dim=0)
        found = exit_head(states[None], torch.ones(1, 7, dtype=torch.long))[0]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("model_class", [MoSEModel, MoSEForPreTraining])
def test_gated_pooling_starts_as_the_mean_and_learns(tiny_config, tiny_batch, model_class):
    torch.manual_seed(0)
    gated = model_class(tiny_config(pooling="gated")).eval().base_model
    mean = MoSEModel(tiny_config(pooling="mean")).eval()
    mean.load_state_dict({name: gated.state_dict()[name] for name in mean.state_dict()})
    found = gated(**tiny_batch, output_all_exits=True)
    torch.testing.assert_close(
        found.exit_embeddings, mean(**tiny_batch, output_all_exits=True).exit_embeddings, atol=1e-6, rtol=0
    )
    torch.stack(found.exit_embeddings).pow(3).sum().backward()
    for exit_head in gated.exits.values():
        assert exit_head.gate.score.weight.grad.abs().max() > 0


@pytest.mark.parametrize("embedding_norm", ["unit", "at_most_one"])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_projections_equal_their_definition(
    build_model, tiny_config, tiny_batch, pooling, layers, embedding_norm
):
    config = tiny_config(pooling=pooling, projection_layers=layers, embedding_norm=embedding_norm)
    model = build_model(MoSEModel, config)
    weights = model.state_dict()

    def project(states: torch.Tensor, exit_layer: int) -> torch.Tensor:
        """Of one layer: on the pooled state. Of two: on every token's state."""
        name = f"exits.{exit_layer}.projection"
        if layers == 1:
            return states @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]
        states = states @ weights[f"{name}.0.weight"].T + weights[f"{name}.0.bias"]
        states = torch.where(states > 0, states, 0.01 * states)  # leaky_relu
        return states @ weights[f"{name}.2.weight"].T + weights[f"{name}.2.bias"]

    with torch.no_grad():
        for exit_layer in model.exit_layers:
            out = model(**tiny_batch, exit_layer=exit_layer)
            head = model.exits[str(exit_layer)]
            for row, real in enumerate(tiny_batch["attention_mask"].bool()):
                states = out.last_hidden_state[row, real]
                if pooling == "mean":
                    shares = torch.full((len(states),), 1 / len(states))
                else:
                    shares = F.one_hot(torch.tensor(len(states) - 1), len(states)).float()
                if pooling == "gated":
                    shares = independent_gate(head, states)
                if layers == 2:
                    expected = shares @ project(states, exit_layer)
                else:
                    expected = project(shares @ states, exit_layer)
                norm = expected.norm()
                expected = expected / (norm if embedding_norm == "unit" else max(norm, torch.tensor(1.0)))
                torch.testing.assert_close(out.pooler_output[row], expected, atol=1e-5, rtol=0)


def test_the_activation_of_a_projection_can_be_chosen(build_model, tiny_config, tiny_batch):
    leaky, relu = (
        build_model(MoSEModel, tiny_config(projection_layers=2, projection_act=act))
        for act in ("leaky_relu", "relu")
    )
    assert set(leaky.state_dict()) == set(relu.state_dict())
    assert not torch.equal(leaky(**tiny_batch).pooler_output, relu(**tiny_batch).pooler_output)


def test_short_embeddings_stay_short_where_the_configuration_says_so(build_model, tiny_config, tiny_batch):
    model = build_model(MoSEModel, tiny_config(embedding_norm="at_most_one"))
    with torch.no_grad():
        for parameter in model.exits["3"].projection.parameters():
            parameter.mul_(1e-3)
        norms = model(**tiny_batch).pooler_output.norm(dim=-1)
    assert (norms < 0.5).all()


def test_the_last_real_token_is_found_whatever_the_padding():
    states = torch.arange(12.0).view(3, 4, 1)
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 0, 0], [0, 1, 1, 0]])
    assert last_token(states, mask).flatten().tolist() == [3.0, 5.0, 10.0]


def test_every_exit_has_a_norm_or_the_final_one_alone(build_model, tiny_config, tiny_batch):
    every = build_model(MoSEModel, tiny_config(exit_norm="every"))
    assert [e for e in (0, 1, 3) if f"exits.{e}.norm.weight" in every.state_dict()] == [0, 1, 3]
    final = MoSEModel(tiny_config(exit_norm="final")).eval()
    assert [e for e in (0, 1, 3) if f"exits.{e}.norm.weight" in final.state_dict()] == [3]
    final.load_state_dict({name: every.state_dict()[name] for name in final.state_dict()})
    for exit_layer in (0, 1):
        raw = final(**tiny_batch, exit_layer=exit_layer).last_hidden_state
        normed = every(**tiny_batch, exit_layer=exit_layer).last_hidden_state
        torch.testing.assert_close(every.exits[str(exit_layer)].norm(raw), normed)
        assert not torch.allclose(raw, normed)
    torch.testing.assert_close(final(**tiny_batch).to_tuple(), every(**tiny_batch).to_tuple())
    # The deepest exit is not the last block here: nothing is normed.
    assert not [
        n for n in MoSEModel(tiny_config(exit_norm="final", exit_layers=(1,))).state_dict() if ".norm." in n
    ]


def test_exit_0_is_pooled_token_embeddings(build_model, tiny_config):
    model = build_model(MoSEModel, tiny_config(pooling="mean"))
    ids = torch.tensor([[5, 6, 7, 5]])
    states = model.exits["0"].norm(model.embed_tokens.weight[ids])
    expected = F.normalize(model.exits["0"].projection(states.mean(dim=1)), dim=-1)
    torch.testing.assert_close(model(ids, exit_layer=0).pooler_output, expected)
    # No block, no order: a bag of tokens.
    torch.testing.assert_close(model(ids.flip(1), exit_layer=0).pooler_output, expected)


@pytest.mark.parametrize("exit_layer", [0, 1, 3, None])
def test_all_exits_in_one_pass_equal_separate_passes(tiny_model, tiny_batch, exit_layer):
    out = tiny_model(**tiny_batch, exit_layer=exit_layer, output_all_exits=True)
    exits = [e for e in tiny_model.exit_layers if exit_layer is None or e <= exit_layer]
    assert len(out.exit_embeddings) == len(exits)
    for depth, embedding in zip(exits, out.exit_embeddings, strict=True):
        assert torch.equal(embedding, tiny_model(**tiny_batch, exit_layer=depth).pooler_output)
    assert torch.equal(out.pooler_output, out.exit_embeddings[-1])
    assert len({tuple(embedding[0].tolist()) for embedding in out.exit_embeddings}) == len(exits)


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


def test_the_similarity_scale_starts_where_the_configuration_says_and_is_bounded(tiny_config, tiny_batch):
    model = MoSEModel(tiny_config(similarity_scale_init=7.0))
    assert model(**tiny_batch).similarity_scale is None
    assert model(**tiny_batch, output_all_exits=True).similarity_scale.tolist() == [7.0]
    for value, bound in zip((-1.0, 99.0), SIMILARITY_SCALE_RANGE, strict=True):
        changed = copy.deepcopy(model)
        changed.similarity_scale.data.fill_(value)
        scale = changed(**tiny_batch, output_all_exits=True).similarity_scale
        torch.testing.assert_close(scale, torch.tensor([bound]))


def test_a_row_of_padding_alone_spoils_no_other(tiny_model, tiny_batch):
    expected = tiny_model(**tiny_batch).pooler_output
    mask = tiny_batch["attention_mask"].clone()
    mask[2] = 0
    for attention in ("eager", "sdpa"):
        tiny_model.set_attn_implementation(attention)
        found = tiny_model(tiny_batch["input_ids"], mask).pooler_output
        assert found.isfinite().all()
        torch.testing.assert_close(found[:2], expected[:2], atol=1e-5, rtol=0)


def test_weights_start_as_the_configuration_says(tiny_config):
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
