"""Exits against their definition: norm, pooling, projection."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mose.modeling_mose import MoSEExit, MoSEForPreTraining, MoSEModel, last_token

POOLINGS = ("mean", "cls", "gated")


def independent_gate(exit_head: MoSEExit, states: torch.Tensor) -> torch.Tensor:
    """The gated pooling's weights of one unpadded sequence (tokens, hidden), by a convolution of torch's own.

    The taps' biases ride on a channel of ones, which the convolution pads with zeros as it does the states.
    """
    gate = exit_head.gate
    kernel, width, hidden = gate.kernel_size, len(gate.place.bias), states.shape[1]
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
        actual = exit_head(states[None], torch.ones(1, 7, dtype=torch.long))[0]
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("model_class", [MoSEModel, MoSEForPreTraining])
def test_gated_pooling_starts_as_the_mean_and_learns(tiny_config, tiny_batch, model_class):
    torch.manual_seed(0)
    gated = model_class(tiny_config(pooling="gated")).eval().base_model
    mean = MoSEModel(tiny_config(pooling="mean")).eval()
    mean.load_state_dict({name: gated.state_dict()[name] for name in mean.state_dict()})
    actual = gated(**tiny_batch, output_all_exits=True)
    torch.testing.assert_close(
        actual.exit_embeddings, mean(**tiny_batch, output_all_exits=True).exit_embeddings, atol=1e-6, rtol=0
    )
    torch.stack(actual.exit_embeddings).pow(3).sum().backward()
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


def test_at_most_one_keeps_short_embeddings_short(build_model, tiny_config, tiny_batch):
    model = build_model(MoSEModel, tiny_config(embedding_norm="at_most_one"))
    with torch.no_grad():
        for parameter in model.exits["3"].projection.parameters():
            parameter.mul_(1e-3)
        norms = model(**tiny_batch).pooler_output.norm(dim=-1)
    assert (norms < 0.5).all()


def test_the_last_real_token_is_read_with_padding_on_either_side():
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
