"""The trunk: blocks, attention, how deep a forward pass goes, and what it takes and gives."""

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
def test_the_trunk_is_starcoder2_both_ways(
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


def test_the_trunk_is_starcoder2_over_the_papers_whole_context(build_model, tiny_config):
    rope = MoSEConfig().rope_parameters
    model = build_model(MoSEModel, tiny_config(num_hidden_layers=1, exit_layers=(1,), rope_parameters=rope))
    assert_same_states(model, torch.randint(0, 320, (1, 2048)), None)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_agrees(tiny_model, tiny_batch):
    with torch.no_grad():
        expected = tiny_model(**tiny_batch, output_all_exits=True).exit_embeddings
        tiny_model.set_attn_implementation("flex_attention")
        # Compiled, as users run it, it computes the same and takes half a minute to start.
        with torch.compiler.set_stance("force_eager"):
            found = tiny_model(**tiny_batch, output_all_exits=True).exit_embeddings
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("model_class", CLASSES)
def test_an_exit_runs_so_many_blocks_and_no_deeper_module(build_model, tiny_config, tiny_batch, model_class):
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
def test_a_model_built_at_an_exit_is_the_whole_ones_beginning(shared_tiny_model, tiny_batch, exit_layer):
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
            found = cut(**tiny_batch, exit_layer=shallower)
            assert torch.equal(found.pooler_output, expected.pooler_output)
            assert torch.equal(found.last_hidden_state, expected.last_hidden_state)
        assert torch.equal(cut(**tiny_batch).pooler_output, expected.pooler_output)


@pytest.mark.parametrize(
    ("exit_layer", "millions"), [(4, 160), (9, 300), (18, 550), (27, 800), (36, 1050), (None, 1050)]
)
def test_the_papers_model_has_the_papers_size_at_every_exit(exit_layer, millions):
    with torch.device("meta"):
        model = MoSEModel(MoSEConfig.from_preset("mose-1b"), exit_layer=exit_layer)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(millions * 1e6, rel=0.03)


@pytest.mark.parametrize("exit_layer", [0, 1, 3])
def test_hidden_states_are_the_residual_stream_and_the_normed_end(tiny_model, tiny_batch, exit_layer):
    stream: list[torch.Tensor] = []
    tiny_model.embed_tokens.register_forward_hook(lambda _, args, out: stream.append(out))
    for block in tiny_model.layers:
        block.register_forward_hook(lambda _, args, out: stream.append(out))
    out = tiny_model(**tiny_batch, exit_layer=exit_layer, output_hidden_states=True)
    assert len(out.hidden_states) == exit_layer + 1
    for found, expected in zip(out.hidden_states[:-1], stream[:-1], strict=True):
        assert torch.equal(found, expected)
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


def test_a_tuple_is_given_where_asked_for(tiny_model, tiny_batch):
    whole = tiny_model(**tiny_batch, output_all_exits=True)
    parts = tiny_model(**tiny_batch, output_all_exits=True, return_dict=False)
    assert isinstance(parts, tuple)
    torch.testing.assert_close(parts, whole.to_tuple())


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


def test_embeddings_may_be_given_instead_of_ids(tiny_model, tiny_batch):
    ids, mask = tiny_batch["input_ids"], tiny_batch["attention_mask"]
    states = tiny_model.embed_tokens(ids)
    found = tiny_model(inputs_embeds=states, attention_mask=mask).pooler_output
    assert torch.equal(found, tiny_model(ids, mask).pooler_output)
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
def test_each_dropout_acts_in_training_alone(build_model, tiny_config, tiny_batch, dropout, attention):
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
def test_bad_input_is_named(tiny_config, model_class, arguments, message):
    with pytest.raises(ValueError, match=message):
        model_class(tiny_config())(**arguments)


@pytest.mark.parametrize("model_class", CLASSES)
def test_an_exit_deeper_than_what_was_built_is_named(tiny_config, tiny_batch, model_class):
    model = model_class(tiny_config(), exit_layer=1)
    with pytest.raises(ValueError, match="exit_layer must be one of .*loaded up to exit 1, got 3"):
        model(**tiny_batch, exit_layer=3)
    with pytest.raises(ValueError, match="exit_layer must be one of 0, 1, 3, got 2"):
        model_class(tiny_config(), exit_layer=2)


def test_a_model_without_any_block_embeds(build_model, tiny_config, tiny_batch):
    model = build_model(MoSEModel, tiny_config(num_hidden_layers=0, exit_layers=(0,)))
    assert len(model.layers) == 0
    assert model(**tiny_batch).pooler_output.shape == (3, 32)
