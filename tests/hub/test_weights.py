"""Reading weights and checking checkpoints: what is there, what is broken, what leads elsewhere."""

import json
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from mose.hub.__main__ import main
from mose.hub.checkpoints import read_checkpoint, read_config
from mose.hub.files import FORBIDDEN, WEIGHT_FILE, forbidden_pattern
from mose.hub.shards import first_exit_with
from mose.hub.weights import order_by_exit, read_index, read_weights
from mose.modeling_mose import MoSEForPreTraining, MoSEModel


def test_one_file_and_shards_hold_the_same(shared_tiny_model, tmp_path):
    shared_tiny_model.save_pretrained(tmp_path / "one")
    shared_tiny_model.save_pretrained(tmp_path / "many", max_shard_size="20KB")
    for folder in ("one", "many"):
        stored = read_weights(tmp_path / folder)
        assert set(stored) == set(shared_tiny_model.state_dict())
        for name, tensor in shared_tiny_model.state_dict().items():
            assert (stored[name].shape, stored[name].dtype) == (tuple(tensor.shape), tensor.dtype)
            assert torch.equal(stored[name].read(), tensor)


@settings(max_examples=50)
@given(st.text(max_size=30) | st.text("./\\ab", max_size=6))
def test_an_index_names_plain_files_or_is_refused(tmp_path_factory, name):
    """Whatever the name: what `read_index` lets through lies in the folder itself."""
    folder = tmp_path_factory.getbasetemp()
    index = folder / "index.json"
    index.write_text(json.dumps({"weight_map": {"a": name + ".safetensors"}}))
    try:
        (shard,) = read_index(index).values()
    except ValueError as error:
        assert repr(name + ".safetensors") in str(error)
        assert any(character in name for character in "/\\:") or not name.isprintable()
    else:
        assert (folder / shard).resolve().parent == folder.resolve()


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": null}}'])
def test_what_is_no_index_is_said_to_be_none(tmp_path, content):
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(ValueError, match="model.safetensors.index.json: (not an index|shards must .* got None)"):
        read_weights(tmp_path)


def test_shards_that_are_missing_or_lack_a_tensor_are_named(shared_tiny_model, tmp_path):
    shared_tiny_model.save_pretrained(tmp_path, max_shard_size="20KB")
    shard = sorted(tmp_path.glob("model-*.safetensors"))[1]
    save_file({"other": torch.zeros(1)}, shard)
    with pytest.raises(
        ValueError, match=rf"{shard.name}: .* is missing, but model.safetensors.index.json lists it"
    ):
        read_weights(tmp_path)
    shard.unlink()
    with pytest.raises(FileNotFoundError, match=rf"{shard.name} is missing"):
        read_weights(tmp_path)


def test_a_type_that_no_model_has_is_refused(tmp_path):
    save_file({"a": torch.zeros(2, dtype=torch.complex64)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="dtype of a must be one of F64, F32, .* got C64"):
        read_weights(tmp_path)


def test_a_checkpoint_is_checked_against_its_class(build_model, tiny_config, tmp_path):
    model = build_model(MoSEForPreTraining, tiny_config())
    model.save_pretrained(tmp_path)
    config = read_config(tmp_path)
    tensors = read_checkpoint(tmp_path, config)
    assert set(tensors) == set(model.state_dict()) - {"predictions.decoder.weight"}  # tied to the embeddings
    config.exit_layer = 1  # what lies deeper is left out
    assert set(read_checkpoint(tmp_path, config)) == set(MoSEForPreTraining(config).state_dict()) - {
        "predictions.decoder.weight"
    }
    config.architectures = ["BertModel"]
    with pytest.raises(ValueError, match=r"architectures must name one of .*MoSEModel.* got \['BertModel'\]"):
        read_checkpoint(tmp_path, config)


def test_a_folder_of_another_model_is_refused(tiny_teacher, tmp_path):
    with pytest.raises(ValueError, match="model_type must be 'mose', got 'bert'"):
        read_config(type(tmp_path)(tiny_teacher))
    with pytest.raises(FileNotFoundError, match="no config.json"):
        read_config(tmp_path)


def test_files_of_weights_are_known_by_name(shared_tiny_model, tmp_path):
    shared_tiny_model.save_pretrained(tmp_path / "one")
    shared_tiny_model.save_pretrained(tmp_path / "many", max_shard_size="20KB")
    names = {path.name for path in tmp_path.rglob("*") if path.suffix != ".py"} - {"one", "many", "config.json"}
    assert names and all(WEIGHT_FILE.fullmatch(name) for name in names)
    assert not any(
        map(WEIGHT_FILE.fullmatch, ("adapter_model.safetensors", "config.json", "x/model.safetensors"))
    )


@pytest.mark.parametrize(
    "path",
    ["pytorch_model.bin", "a/optimizer.pt", "checkpoint-7/config.json", ".git/x", "__pycache__/a.pyc", "x.pkl"],
)
def test_what_is_never_published_is_told_in_any_folder(path):
    assert forbidden_pattern(path) in FORBIDDEN
    assert forbidden_pattern("model.safetensors") is forbidden_pattern("onnx/model.onnx") is None


def test_every_command_explains_itself(capsys):
    assert main_exit(["--help"]) == 0
    listed = capsys.readouterr().out
    for name in ("publish", "slice", "card"):
        assert name in listed
        assert main_exit([name, "--help"]) == 0
        assert "usage: mose hub " + name in capsys.readouterr().out
    assert main_exit(["nothing"]) == main_exit(["slice", "."]) == 2


def main_exit(arguments: list[str]) -> int:
    try:
        return main(arguments)
    except SystemExit as error:  # argparse's way out
        return int(error.code or 0)


def test_a_model_of_ours_is_whole(shared_tiny_model, tmp_path):
    """The class `MoSEModel` itself, and nothing of it tied."""
    shared_tiny_model.save_pretrained(tmp_path)
    assert set(read_checkpoint(tmp_path, read_config(tmp_path))) == set(
        MoSEModel(shared_tiny_model.config).state_dict()
    )


@pytest.mark.parametrize("model_class", [MoSEModel, MoSEForPreTraining])
def test_tensors_of_one_file_come_in_the_order_of_the_exits(
    build_model, tiny_config, tiny_batch, tmp_path, model_class
):
    model = build_model(model_class, tiny_config(num_hidden_layers=12, exit_layers=(0, 2, 12)))
    model.save_pretrained(tmp_path)
    before = load_file(tmp_path / "model.safetensors")
    order_by_exit(tmp_path, model.config.exit_layers)

    # safetensors' own reader accepts the file, and finds the same in it.
    after = load_file(tmp_path / "model.safetensors")
    assert before.keys() == after.keys() and all(torch.equal(after[name], before[name]) for name in before)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}

    content = (tmp_path / "model.safetensors").read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header.pop("__metadata__")
    names = sorted(header, key=lambda name: header[name]["data_offsets"])
    depths = [first_exit_with(name, (0, 2, 12)) for name in names]
    assert depths == sorted(depths)
    blocks = [int(re.search(r"layers\.(\d+)\.", name)[1]) for name in names if "layers." in name]
    assert blocks == sorted(blocks)

    shallow = model_class.from_pretrained(tmp_path, exit_layer=2).eval()
    with torch.no_grad():
        expected, actual = model(**tiny_batch, exit_layer=2), shallow(**tiny_batch)
    assert torch.equal(actual[0], expected[0])


def test_files_that_cannot_be_ordered_stay_as_they_are(tmp_path):
    order_by_exit(tmp_path, (0, 1))  # nothing there
    assert not list(tmp_path.iterdir())
    save_file(
        {"b": torch.ones(1, dtype=torch.uint8), "layers.0.a": torch.ones(2)}, tmp_path / "model.safetensors"
    )
    content = (tmp_path / "model.safetensors").read_bytes()
    order_by_exit(tmp_path, (0, 1))
    assert (tmp_path / "model.safetensors").read_bytes() == content
