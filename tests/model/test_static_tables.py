"""The tables of exit 0: equal to the plain path, and never those of other weights."""

import copy
import gc
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, inject_adapter_in_model
from torch import nn

from mose import modeling_mose
from mose.modeling_mose import _STATIC_TABLES, MoSEForPreTraining, MoSEModel, StaticTables


def plain(model, **batch):
    """Return exit 0 without tables, which autograd rules out."""
    with torch.enable_grad():
        return model(**batch, exit_layer=0)


def looked_up(model, **batch):
    with torch.inference_mode():
        output = model(**batch, exit_layer=0)
    assert model in _STATIC_TABLES
    return output


def assert_equal(actual, expected, atol=1e-5):
    for name in ("pooler_output", "last_hidden_state"):
        torch.testing.assert_close(actual[name].float(), expected[name].detach().float(), atol=atol, rtol=0)


@settings(max_examples=25, deadline=None)
@given(
    mask=st.lists(st.lists(st.booleans(), min_size=6, max_size=6), min_size=1, max_size=4),
    kernel_size=st.integers(1, 5),
    exit_norm=st.sampled_from(["every", "final"]),
    dim=st.sampled_from([None, 5]),
    use_bias=st.booleans(),
    seed=st.integers(0, 100),
)
def test_tables_change_no_embedding(tiny_config, build_model, mask, kernel_size, exit_norm, dim, use_bias, seed):
    config = tiny_config(gate_kernel_size=kernel_size, exit_norm=exit_norm, use_bias=use_bias)
    model = build_model(MoSEModel, config, seed)
    # Any mask, with gaps as well.
    batch = {"attention_mask": torch.tensor(mask), "truncate_dim": dim}
    batch["input_ids"] = torch.randint(0, 320, batch["attention_mask"].shape)
    assert_equal(looked_up(model, **batch), plain(model, **batch))


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    kernel_size=st.integers(1, 5),
    seed=st.integers(0, 100),
)
def test_texts_one_after_the_other_are_embedded_as_in_a_padded_batch(
    tiny_config, build_model, lengths, kernel_size, seed
):
    model = build_model(MoSEModel, tiny_config(gate_kernel_size=kernel_size, truncate_dim=20), seed)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    ids = torch.randint(0, 320, mask.shape)

    expected = plain(model, input_ids=ids, attention_mask=mask).pooler_output
    with torch.inference_mode():
        actual = model.look_up(ids[mask], torch.tensor(lengths))
    torch.testing.assert_close(actual, expected.detach(), atol=1e-5, rtol=0)


def test_packed_texts_are_not_looked_up_where_the_tables_would_be_wrong(tiny_model, tiny_config, build_model):
    packed = (torch.randint(0, 320, (7,)), torch.tensor([3, 4]))
    assert tiny_model.look_up(*packed) is None  # autograd is on
    with torch.inference_mode():
        assert tiny_model.look_up(*packed) is not None
        for module in (tiny_model, tiny_model.exits["0"], tiny_model.embed_tokens):
            hook = module.register_forward_hook(lambda *_: None)
            assert tiny_model.look_up(*packed) is None
            hook.remove()
        assert build_model(MoSEModel, tiny_config(projection_layers=2)).look_up(*packed) is None
        assert build_model(MoSEModel, tiny_config(pooling="mean")).look_up(*packed) is None
        assert tiny_model.train().look_up(*packed) is None


def test_all_exits_hidden_states_and_long_inputs_are_as_without_tables(tiny_model, tiny_batch):
    expected = tiny_model(**tiny_batch, output_all_exits=True).exit_embeddings
    with torch.no_grad():
        actual = tiny_model(**tiny_batch, output_all_exits=True).exit_embeddings
        assert tiny_model in _STATIC_TABLES
        states = tiny_model(**tiny_batch, exit_layer=0, output_hidden_states=True).hidden_states
        assert len(states) == 1 and len(tiny_model(**tiny_batch, output_hidden_states=True).hidden_states) == 4
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)

    # Longer than `max_position_embeddings` was when the tables were made.
    tiny_model.config.max_position_embeddings = 150
    batch = {"input_ids": torch.randint(4, 320, (1, 150))}
    assert_equal(looked_up(tiny_model, **batch), plain(tiny_model, **batch))


def in_place(model):
    with torch.no_grad():
        model.embed_tokens.weight[5:].mul_(-1)


def in_inference_mode(model):
    with torch.inference_mode():
        model.exits["0"].gate.taps.bias.add_(1)


def through_data(model):
    model.embed_tokens.weight.data[5:] = torch.randn(315, 32)


def taps_through_data(model):
    model.exits["0"].gate.taps.weight.data *= 1.5


def norm_through_data(model):
    model.exits["0"].norm.bias.data += 0.5


def places_through_data(model):
    model.exits["0"].gate.place.weight.data += 0.5


def other_norm(model):
    model.exits["0"].norm = nn.Identity()


def other_parameter(model):
    model.exits["0"].norm.weight = nn.Parameter(torch.randn(32))


def state_dict(model):
    model.load_state_dict({name: value.flip(0) for name, value in model.state_dict().items()})


def optimizer_step(model):
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    model(torch.randint(4, 320, (2, 60)), exit_layer=0).pooler_output.sum().backward()
    optimizer.step()
    model.eval()


def round_trip(model):
    model.half().float()


def resized(model):
    model.resize_token_embeddings(330, mean_resizing=False)


def merged_adapter(model):
    inject_adapter_in_model(LoraConfig(target_modules=["taps"], init_lora_weights=False), model)
    taps = model.exits["0"].gate.taps
    taps.merge()
    model.exits["0"].gate.taps = taps.base_layer


@pytest.mark.parametrize(
    "change",
    [
        in_place,
        in_inference_mode,
        through_data,
        taps_through_data,
        norm_through_data,
        places_through_data,
        other_norm,
        other_parameter,
        state_dict,
        optimizer_step,
        round_trip,
        resized,
        merged_adapter,
    ],
)
def test_tables_of_former_weights_are_not_used(tiny_model, tiny_batch, change):
    packed = (tiny_batch["input_ids"].flatten()[:7], torch.tensor([3, 4]))
    before = looked_up(tiny_model, **tiny_batch)
    change(tiny_model)
    after = looked_up(tiny_model, **tiny_batch)
    assert_equal(after, plain(tiny_model, **tiny_batch))

    change(tiny_model)
    with torch.inference_mode():
        ours = tiny_model.look_up(*packed)[0]
    torch.testing.assert_close(ours, plain(tiny_model, input_ids=packed[0][None, :3]).pooler_output[0].detach())
    if change not in (round_trip, resized):
        assert (after.pooler_output - before.pooler_output).abs().max() > 1e-4


def test_training_frees_the_tables_and_does_not_use_them(tiny_model, tiny_batch):
    looked_up(tiny_model, **tiny_batch)
    tiny_model.train()
    assert tiny_model not in _STATIC_TABLES
    with torch.no_grad():
        tiny_model(**tiny_batch, exit_layer=0)
    assert tiny_model not in _STATIC_TABLES


def test_tables_are_kept_while_nothing_changes(tiny_model, tiny_batch):
    looked_up(tiny_model, **tiny_batch)
    tables = _STATIC_TABLES[tiny_model]
    for length in (1, 7):
        looked_up(tiny_model.eval(), input_ids=torch.randint(0, 320, (2, length)))
    with torch.autocast("cpu", torch.bfloat16):
        looked_up(tiny_model, **tiny_batch)
    assert _STATIC_TABLES[tiny_model] is tables


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_has_tables_of_its_own(tiny_model, tiny_batch, dtype):
    expected = looked_up(tiny_model, **tiny_batch)
    model = copy.deepcopy(tiny_model).to(dtype)
    actual = looked_up(model, **tiny_batch)
    assert _STATIC_TABLES[model].normed.dtype == actual.pooler_output.dtype == dtype
    assert (actual.pooler_output.float() - expected.pooler_output).abs().max() < 0.05


def test_other_layers_and_inputs_are_computed_plainly(tiny_model, tiny_batch):
    """As adapters, quantised embeddings or inputs without ids need it."""

    class OtherEmbedding(nn.Embedding):
        """Stands for a quantised layer."""

    embeds = tiny_model.embed_tokens(tiny_batch["input_ids"])
    hook = tiny_model.embed_tokens.register_forward_hook(lambda module, inputs, output: output * 2 + 1)
    with torch.no_grad():
        tiny_model(**tiny_batch, exit_layer=0)
        hook.remove()
        tiny_model(inputs_embeds=embeds, attention_mask=tiny_batch["attention_mask"], exit_layer=0)
        tiny_model.embed_tokens = OtherEmbedding.from_pretrained(tiny_model.embed_tokens.weight)
        tiny_model(**tiny_batch, exit_layer=0)
        assert tiny_model not in _STATIC_TABLES

    # Weights made in inference mode count no versions.
    with torch.inference_mode():
        model = copy.deepcopy(tiny_model)
        model.embed_tokens = nn.Embedding(320, 32)
        model(**tiny_batch, exit_layer=0)
    assert model not in _STATIC_TABLES


def test_copies_and_pickles_hold_no_tables(build_model, tiny_config, tiny_batch):
    model = build_model(MoSEForPreTraining, tiny_config()).model
    size = len(pickle.dumps(model))
    looked_up(model, **tiny_batch)
    assert len(pickle.dumps(model)) == size
    assert copy.deepcopy(model) not in _STATIC_TABLES

    gc.collect()
    count = len(_STATIC_TABLES)
    del model
    gc.collect()
    assert len(_STATIC_TABLES) == count - 1


def test_a_model_whose_tables_do_not_fit_builds_them_once_for_each_change(tiny_model, tiny_batch, monkeypatch):
    built = []

    class Counted(StaticTables):
        def __init__(self, *arguments):
            built.append(arguments)
            super().__init__(*arguments)

    monkeypatch.setattr(modeling_mose, "StaticTables", Counted)
    for change in (in_place, through_data):
        for _ in range(3):
            looked_up(tiny_model, **tiny_batch)
        change(tiny_model)
    assert len(built) == 2
