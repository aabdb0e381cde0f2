"""Shards cut at the exits, against safetensors' own reader and transformers' own loading."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from mose.hub.shards import DTYPES, TensorSource, first_exit_with, write_safetensors, write_shards
from mose.modeling_mose import MoSEForPreTraining, MoSEForSequenceClassification, MoSEModel


def sources_of(tensors: dict[str, torch.Tensor]) -> dict[str, TensorSource]:
    return {
        name: TensorSource(tuple(tensor.shape), tensor.dtype, lambda tensor=tensor: tensor)
        for name, tensor in tensors.items()
    }


@settings(max_examples=30, deadline=None)
@given(
    shapes=st.lists(st.lists(st.integers(0, 4), max_size=3), min_size=1, max_size=5),
    dtype=st.sampled_from(list(DTYPES)),
    transposed=st.booleans(),
)
def test_safetensors_reads_what_was_written(tmp_path_factory, shapes, dtype, transposed):
    path = tmp_path_factory.mktemp("written") / "file.safetensors"
    tensors = {f"t{i}": (torch.randn(shape) * 9).to(dtype) for i, shape in enumerate(shapes)}
    if transposed:
        tensors = {name: tensor.mT if tensor.dim() > 1 else tensor for name, tensor in tensors.items()}
    write_safetensors(path, sources_of(tensors))
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "pt"}
        assert set(file.keys()) == set(tensors)
        for name, tensor in tensors.items():
            assert torch.equal(file.get_tensor(name), tensor)


@pytest.mark.parametrize("model_class", [MoSEModel, MoSEForPreTraining, MoSEForSequenceClassification])
@pytest.mark.parametrize("exits", [(0, 1, 3), (2, 3)])
def test_each_exits_index_lists_what_a_model_of_that_depth_has_and_no_more(
    build_model, tiny_config, tmp_path, model_class, exits
):
    model = build_model(model_class, tiny_config(exit_layers=exits))
    weights = {n: t for n, t in model.state_dict().items() if n != "predictions.decoder.weight"}  # tied
    write_shards(tmp_path, sources_of(weights), exits)
    whole = (tmp_path / "model.safetensors.index.json").read_text()
    assert whole == (tmp_path / f"model.safetensors.index.exit{exits[-1]}.json").read_text()
    for e in exits:
        names = json.loads((tmp_path / f"model.safetensors.index.exit{e}.json").read_text())["weight_map"]
        shallow = model_class(model.config, exit_layer=e)
        assert set(names) == set(shallow.state_dict()) - {"predictions.decoder.weight"}
        assert len(set(names.values())) == exits.index(e) + 1


def test_transformers_loads_them_at_every_exit(shared_tiny_model, tiny_batch, tmp_path):
    shared_tiny_model.config.save_pretrained(tmp_path)
    write_shards(tmp_path, sources_of(shared_tiny_model.state_dict()), (0, 1, 3))
    for file in tmp_path.glob("model-*"):
        number = int(file.name[6:11])
        if number > 2:  # what exit 1 does not need need not be there
            file.rename(file.with_suffix(".away"))
    loaded = MoSEModel.from_pretrained(tmp_path, exit_layer=1, variant="exit1").eval()
    with torch.no_grad():
        expected = shared_tiny_model(**tiny_batch, exit_layer=1).pooler_output
        assert torch.equal(loaded(**tiny_batch).pooler_output, expected)


def test_where_a_tensor_belongs():
    exits = (4, 9, 18)
    places = {
        "embed_tokens.weight": 4,
        "model.layers.0.mlp.c_fc.weight": 4,
        "layers.3.mlp.c_fc.weight": 4,
        "layers.4.mlp.c_fc.weight": 9,
        "model.exits.9.projection.0.weight": 9,
        "classifiers.18.dense.weight": 18,
        "predictions.transform.dense.weight": 4,
    }
    assert {name: first_exit_with(name, exits) for name in places} == places


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (TensorSource((2,), torch.float32, lambda: torch.zeros(3)), r"b: .* got torch.float32 of shape \(3,\)"),
        (TensorSource((2,), torch.float32, lambda: torch.zeros(2).half()), "b: .* got torch.float16 of shape"),
        (
            TensorSource((2,), torch.complex64, lambda: torch.zeros(2)),
            "b: dtype must be one of .* got torch.complex64",
        ),
    ],
)
def test_what_breaks_a_promise_leaves_nothing_behind(tmp_path, source, message):
    path = tmp_path / "file.safetensors"
    path.write_bytes(b"old")
    with pytest.raises(ValueError, match=message):
        write_safetensors(path, {**sources_of({"a": torch.zeros(2)}), "b": source})
    assert path.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1
