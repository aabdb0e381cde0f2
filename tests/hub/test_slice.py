"""Slicing: at every exit, of every head, from a folder and from the Hub; the vectors stay."""

import json

import pytest
import torch
from sentence_transformers import SentenceTransformer

from mose.configuration_mose import MoSEConfig
from mose.hub.__main__ import main
from mose.hub.card import validate_card
from mose.hub.publish import publish
from mose.hub.slice import slice_repository, sliced_config
from mose.modeling_mose import MoSEForPreTraining, MoSEForSequenceClassification, MoSEModel

CLASSES = {
    MoSEModel: "pooler_output",
    MoSEForPreTraining: "prediction_logits",
    MoSEForSequenceClassification: "logits",
}


@pytest.mark.slow
@pytest.mark.parametrize("exit_norm", ["every", "final"])
@pytest.mark.parametrize("exit_layer", [0, 1, 3])
@pytest.mark.parametrize("model_class", CLASSES)
def test_a_slice_gives_the_same_at_every_exit_that_it_has(
    build_model, tiny_config, tiny_tokenizer, tiny_batch, tmp_path, model_class, exit_layer, exit_norm
):
    model = build_model(model_class, tiny_config(exit_norm=exit_norm, num_labels=3))
    model.save_pretrained(tmp_path / "whole")
    tiny_tokenizer.save_pretrained(tmp_path / "whole")
    loaded = model_class.from_pretrained(slice_repository(tmp_path / "whole", exit_layer, tmp_path / "slice"))
    assert loaded.config.exit_layers == tuple(e for e in (0, 1, 3) if e <= exit_layer)
    assert loaded.config.exit_layer is None and len(loaded.base_model.layers) == exit_layer
    with torch.no_grad():
        for e in loaded.config.exit_layers:
            expected, outputs = model(**tiny_batch, exit_layer=e), loaded(**tiny_batch, exit_layer=e)
            assert torch.equal(outputs[CLASSES[model_class]], expected[CLASSES[model_class]])
            if model_class is MoSEForPreTraining:
                assert torch.equal(outputs.context_logits, expected.context_logits)
    # Nothing deeper is left, and it trains: the exits' weights are those of a model of this depth.
    whole = {name: tensor.numel() for name, tensor in model.state_dict().items()}
    assert sum(p.numel() for p in loaded.parameters()) < sum(whole.values()) or exit_layer == 3
    assert {p.name for p in (tmp_path / "slice").glob("*.bin")} == set()


def test_the_configuration_of_a_slice():
    whole = MoSEConfig(aligned_exits=True)
    cut = sliced_config(whole, 9)
    assert (cut.num_hidden_layers, cut.exit_layers, cut.exit_layer) == (9, (4, 9), None)
    assert cut.exit_weights == {4: 4 / 9, 9: 1.0}  # in proportion as before
    changed = {"num_hidden_layers", "exit_layers", "exit_layer"}
    assert {k for k, v in cut.to_dict().items() if whole.to_dict().get(k) != v} <= changed
    final = sliced_config(MoSEConfig(exit_norm="final"), 9)
    assert (final.num_hidden_layers, final.built_exit_layers) == (36, (4, 9))  # exit 9 gains no norm
    with pytest.raises(ValueError, match="exit_layer must be one of 4, 9, 18, 27, 36, got 5"):
        sliced_config(whole, 5)
    with pytest.raises(ValueError, match="model loaded up to exit 4"):
        sliced_config(MoSEConfig(exit_layer=4), 9)


def test_a_slice_of_a_slice_and_of_a_model_saved_at_an_exit(
    shared_tiny_model, tiny_tokenizer, tiny_batch, tmp_path
):
    shared_tiny_model.save_pretrained(tmp_path / "whole")
    tiny_tokenizer.save_pretrained(tmp_path / "whole")
    slice_repository(tmp_path / "whole", 1, tmp_path / "one")
    MoSEModel.from_pretrained(tmp_path / "whole", exit_layer=1).save_pretrained(tmp_path / "saved")
    tiny_tokenizer.save_pretrained(tmp_path / "saved")
    for source in ("one", "saved"):
        slice_repository(tmp_path / source, 0, tmp_path / f"{source}-zero")
        embeddings = MoSEModel.from_pretrained(tmp_path / f"{source}-zero")(**tiny_batch).pooler_output
        assert torch.equal(embeddings, shared_tiny_model(**tiny_batch, exit_layer=0).pooler_output)


def test_it_stands_alone_with_tokenizer_sentence_transformers_and_card(model_folder, tmp_path):
    (model_folder / "README.md").write_text("---\nlicense: mit\n---\nof the whole")
    output = slice_repository(model_folder, 1, tmp_path / "out" / "slice")
    names = {path.name for path in output.iterdir()} - {"handler.py"}
    assert names == {
        "LICENSE",
        "README.md",
        "config.json",
        "config_sentence_transformers.json",
        "configuration_mose.py",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.exit0.json",
        "model.safetensors.index.exit1.json",
        "model.safetensors.index.json",
        "modeling_mose.py",
        "1_Pooling",
        "modules.json",
        "sentence_bert_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    card = (output / "README.md").read_text()
    validate_card(card)
    assert "It is `tiny-mose` cut at exit 1" in card and "license: mit" in card and "exit 3" not in card
    encoder, whole = (
        SentenceTransformer(str(f), trust_remote_code=True, device="cpu") for f in (output, model_folder)
    )
    texts = ["Add two numbers.", "x"]
    assert (encoder.encode_query(texts) == whole.encode_query(texts, exit_layer=1)).all()


@pytest.mark.slow
def test_from_the_hub_only_what_the_exit_needs_is_downloaded(online, model_folder, tmp_path, capsys):
    publish(model_folder, "tester/whole", tag="v1")
    arguments = (
        "slice",
        "tester/whole",
        "--exit-layer",
        "1",
        "--revision",
        "v1",
        "--output-dir",
        str(tmp_path / "out"),
    )
    assert main(list(arguments)) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'out'}\n"
    shards = {name for name in online.served["tester/whole"] if name.endswith(".safetensors")}
    assert shards == {"model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors"}
    card = (tmp_path / "out" / "README.md").read_text()
    assert "base_model: tester/whole" in card
    # And back again: what was sliced is published as it is.
    publish(tmp_path / "out", "tester/slice")
    files, local = online.repository("tester/slice").files(), tmp_path / "out"
    assert {n: c for n, c in files.items() if n != ".gitattributes"} == {
        path.relative_to(local).as_posix(): path.read_bytes() for path in local.rglob("*") if path.is_file()
    }


def test_what_cannot_be_sliced_is_refused_and_leaves_nothing(model_folder, tmp_path, capsys):
    output = tmp_path / "slice"
    command = ["slice", str(model_folder), "--output-dir", str(output), "--exit-layer"]
    assert main([*command, "2"]) == 2
    assert "exit_layer must be one of 0, 1, 3, got 2" in capsys.readouterr().err
    (model_folder / "model.safetensors").rename(tmp_path / "model.safetensors")
    assert main([*command, "1"]) == 2
    assert "may be pickles, which are never loaded" in capsys.readouterr().err
    index = {"metadata": {}, "weight_map": {"embed_tokens.weight": "../model.safetensors"}}
    (model_folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert main([*command, "1"]) == 2
    assert "'../model.safetensors'" in capsys.readouterr().err
    assert not output.exists()
    output.mkdir()
    (output / "mine").touch()
    assert main([*command, "1"]) == 2
    assert "is not an empty folder" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.safetensors", "slice", "tiny-mose"]


def test_a_repository_on_the_hub_that_leads_elsewhere_is_refused(online, model_folder, tmp_path, capsys):
    """Its index, then its list of files; nothing is written outside of the cache."""
    index = {"metadata": {}, "weight_map": {"embed_tokens.weight": "../../model.safetensors"}}
    (model_folder / "model.safetensors").unlink()
    (model_folder / "model.safetensors.index.json").write_text(json.dumps(index))
    repository = online.add("tester/evil", model_folder)
    arguments = ("slice", "tester/evil", "--exit-layer", "1", "--output-dir", str(tmp_path / "out"))
    assert main(list(arguments)) == 2
    assert "'../../model.safetensors'" in capsys.readouterr().err
    files = repository.resolve("main").files
    files["../../../../../tokenizer.json"] = files["tokenizer.json"]
    assert main(list(arguments)) == 2
    assert "'../../../../../tokenizer.json' leads out of the repository" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
