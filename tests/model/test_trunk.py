"""The trunk: blocks, attention, depth of a forward pass, recorded outputs."""

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Starcoder2Config, Starcoder2Model

from mose.configuration_mose import MoSEConfig
from mose.modeling_mose import MoSEForPreTraining, MoSEForSequenceClassification, MoSEModel

CLASSES = (MoSEModel, MoSEForPreTraining, MoSEForSequenceClassification)
STARCODER2_FIELDS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "hidden_act",
    "max_position_embeddings",
    "norm_epsilon",
    "use_bias",
    "rope_parameters",
    "pad_token_id",
)


def starcoder2(model: MoSEModel, depth: int) -> Starcoder2Model:
    """transformers' own StarCoder-2 with the first `depth` blocks of `model` and the norm of that exit."""
    fields = {name: getattr(model.config, name) for name in STARCODER2_FIELDS}
    config = Starcoder2Config(**fields, num_hidden_layers=depth, sliding_window=None)
    config.is_causal = False
    config._attn_implementation = model.config._attn_implementation
    oracle = Starcoder2Model(config).eval()
    norm = f"exits.{depth}.norm."
    weights = {name.replace(norm, "norm."): tensor for name, tensor in model.state_dict().items()}
    oracle.load_state_dict({name: weights[name] for name in oracle.state_dict()})
    return oracle


def assert_same_states(model: MoSEModel, ids: torch.Tensor, mask: torch.Tensor | None) -> None:
    real = torch.ones_like(ids) if mask is None else mask
    for depth in range(1, model.config.num_hidden_layers + 1):
        with torch.no_grad():
            ours = model(ids, attention_mask=mask, exit_layer=depth).last_hidden_state
            theirs = starcoder2(model, depth)(ids, attention_mask=mask).last_hidden_state
        assert (ours - theirs)[real == 1].abs().max() <= 1e-5


def ragged_mask(lengths: list[int], side: str) -> torch.Tensor:
    tokens = max(lengths)
    rows = [[1] * length + [0] * (tokens - length) for length in lengths]
    return torch.tensor([row if side == "right" else row[::-1] for row in rows])


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (4, 1), (6, 2)])
@settings(max_examples=12, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 20), min_size=1, max_size=4),
    side=st.sampled_from(["left", "right"]),
    masked=st.booleans(),
    bias=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_the_trunk_equals_bidirectional_starcoder2(
    tiny_config, build_model, attention, heads, lengths, side, masked, bias, seed
):
    config = tiny_config(
        hidden_size=8 * heads[0],
        num_attention_heads=heads[0],
        num_key_value_heads=heads[1],
        exit_layers=(1, 2, 3),
        use_bias=bias,
        attn_implementation=attention,
    )
    model = build_model(MoSEModel, config, seed)
    assert model.config._attn_implementation == attention
    mask = ragged_mask(lengths, side) if masked else None
    assert_same_states(model, torch.randint(0, 320, (len(lengths), max(lengths))), mask)


def test_the_trunk_equals_starcoder2_over_2048_tokens(build_model, tiny_config):
    rope = MoSEConfig().rope_parameters
    sizes = {"num_hidden_layers": 1, "exit_layers": (1,), "max_position_embeddings": 2048}
    model = build_model(MoSEModel, tiny_config(**sizes, rope_parameters=rope))
    assert_same_states(model, torch.randint(0, 320, (1, 2048)), None)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_agrees(tiny_model, tiny_batch):
    with torch.no_grad():
        expected = tiny_model(**tiny_batch, output_all_exits=True).exit_embeddings
        tiny_model.set_attn_implementation("flex_attention")
        # Compiled, as users run it, it computes the same and takes half a minute to start.
        with torch.compiler.set_stance("force_eager"):
            actual = tiny_model(**tiny_batch, output_all_exits=True).exit_embeddings
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("model_class", CLASSES)
def test_an_exit_runs_its_blocks_and_no_deeper_module(build_model, tiny_config, tiny_batch, model_class):
    model = build_model(model_class, tiny_config())
    ran: list[str] = []
    for name, module in model.named_modules():
        module.register_forward_hook(lambda *_, name=name: ran.append(name))
    calls: list[dict] = [{}]
    if model_class is not MoSEForPreTraining:
        calls.append({"output_all_exits": True})
    if model_class is MoSEForPreTraining:
        labels = tiny_batch["input_ids"].masked_fill(tiny_batch["attention_mask"] == 0, -100)
        calls.append({"labels": labels, "context_labels": torch.tensor([0, 1, 0])})
    for exit_layer in (0, 1, 3, None):
        depth = 3 if exit_layer is None else exit_layer
        for call in calls:
            ran.clear()
            model(**tiny_batch, **call, exit_layer=exit_layer)
            blocks = [name for name in ran if re.search(r"(^|\.)layers\.\d+$", name)]
            assert [int(name.rsplit(".", 1)[1]) for name in blocks] == list(range(depth))
            heads = {int(m[2]) for name in ran if (m := re.search(r"(exits|classifiers)\.(\d+)(\.|$)", name))}
            assert max(heads) == depth


@pytest.mark.parametrize("exit_layer", [0, 1, 3])
def test_a_model_built_at_an_exit_equals_the_whole_model_there(shared_tiny_model, tiny_batch, exit_layer):
    whole = shared_tiny_model
    cut = MoSEModel(whole.config, exit_layer=exit_layer).eval()
    assert whole.config.exit_layer is None  # the caller's configuration is left alone
    assert cut.exit_layers == tuple(e for e in whole.exit_layers if e <= exit_layer)
    names = dict(cut.named_parameters()) | dict(cut.named_modules())
    assert not [name for name in names if (m := re.search(r"layers\.(\d+)", name)) and int(m[1]) >= exit_layer]
    assert not [name for name in names if (m := re.search(r"exits\.(\d+)", name)) and int(m[1]) > exit_layer]
    weights = whole.state_dict()
    cut.load_state_dict({name: weights[name] for name in cut.state_dict()})
    with torch.no_grad():
        for shallower in cut.exit_layers:
            expected = whole(**tiny_batch, exit_layer=shallower)
            actual = cut(**tiny_batch, exit_layer=shallower)
            assert torch.equal(actual.pooler_output, expected.pooler_output)
            assert torch.equal(actual.last_hidden_state, expected.last_hidden_state)
        assert torch.equal(cut(**tiny_batch).pooler_output, expected.pooler_output)


@pytest.mark.parametrize(
    ("exit_layer", "millions"), [(4, 160), (9, 300), (18, 550), (27, 800), (36, 1050), (None, 1050)]
)
def test_the_papers_model_has_the_papers_size_at_every_exit(exit_layer, millions):
    with torch.device("meta"):
        model = MoSEModel(MoSEConfig.from_preset("mose-1b"), exit_layer=exit_layer)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(millions * 1e6, rel=0.03)


@pytest.mark.parametrize("exit_layer", [0, 1, 3])
def test_hidden_states_are_the_residual_stream_and_last_the_normed_state(tiny_model, tiny_batch, exit_layer):
    stream: list[torch.Tensor] = []
    tiny_model.embed_tokens.register_forward_hook(lambda _, args, out: stream.append(out))
    for block in tiny_model.layers:
        block.register_forward_hook(lambda _, args, out: stream.append(out))
    out = tiny_model(**tiny_batch, exit_layer=exit_layer, output_hidden_states=True)
    assert len(out.hidden_states) == exit_layer + 1
    for actual, expected in zip(out.hidden_states[:-1], stream[:-1], strict=True):
        assert torch.equal(actual, expected)
    assert torch.equal(out.hidden_states[-1], out.last_hidden_state)
    assert torch.equal(out.last_hidden_state, tiny_model.exits[str(exit_layer)].norm(stream[-1]))
    assert tiny_model(**tiny_batch).hidden_states is None


def test_attentions_are_distributions_over_the_real_tokens(tiny_model, tiny_batch):
    mask = tiny_batch["attention_mask"]
    assert tiny_model(**tiny_batch, output_attentions=True).attentions == ()  # sdpa returns no weights
    tiny_model.set_attn_implementation("eager")
    attentions = tiny_model(**tiny_batch, output_attentions=True).attentions
    assert [tuple(weights.shape) for weights in attentions] == [(3, 4, 9, 9)] * 3
    for weights in attentions:
        torch.testing.assert_close(weights.sum(dim=-1), torch.ones(3, 4, 9))
        assert weights.masked_select(mask[:, None, None] == 0).max() == 0
        assert weights[0].triu(1).sum() > 0  # tokens look ahead, too
    assert tiny_model(**tiny_batch, exit_layer=0, output_attentions=True).attentions == ()


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable. is deprecated:FutureWarning")
@pytest.mark.parametrize("model_class", CLASSES)
def test_gradient_checkpointing_changes_no_gradient(build_model, tiny_config, tiny_batch, model_class):
    def gradients(checkpointing: bool) -> dict[str, torch.Tensor]:
        model = build_model(model_class, tiny_config()).train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        runs: list[int] = []
        model.base_model.layers[0].self_attn.register_forward_hook(lambda *_: runs.append(1))
        if model_class is MoSEModel:
            loss = torch.stack(model(**tiny_batch, output_all_exits=True).exit_embeddings).pow(3).sum()
        elif model_class is MoSEForPreTraining:
            out = model(**tiny_batch, labels=tiny_batch["input_ids"], context_labels=torch.tensor([0, 1, 0]))
            loss = out.loss
        else:
            loss = model(**tiny_batch, labels=torch.tensor([0, 1, 0])).loss
        loss.backward()
        assert len(runs) == 1 + checkpointing  # computed again on the way back
        return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    plain = gradients(False)
    assert any("layers.2." in name for name in plain)
    torch.testing.assert_close(gradients(True), plain)


@pytest.mark.slow
@pytest.mark.parametrize("call", [{"exit_layer": 1}, {"output_all_exits": True}])
def test_the_model_compiles_without_a_graph_break(tiny_model, tiny_batch, call):
    torch.compiler.reset()
    compiled = torch.compile(tiny_model, fullgraph=True, backend="eager")
    with torch.no_grad():
        torch.testing.assert_close(
            compiled(**tiny_batch, **call).to_tuple(), tiny_model(**tiny_batch, **call).to_tuple()
        )
