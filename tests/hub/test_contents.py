"""Damage, links, pickles and hostile texts in a folder that is published, sliced or exported: each is named."""

import gzip
import json
import pickle
import zipfile

import pytest
import torch
from parsing import parsing_meanwhile
from safetensors.torch import load_file, save_file

from mose.hub.card import folder_card
from mose.hub.contents import check_contents
from mose.hub.export import check_parameters, export
from mose.hub.files import forbidden_pattern
from mose.hub.publish import publish
from mose.hub.slice import slice_repository
from mose.modeling_mose import MoSEModel


def spoil(folder, value):
    tensors = {name: tensor.clone() for name, tensor in load_file(folder / "model.safetensors").items()}
    tensors["exits.1.norm.weight"][3] = value
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def write(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def cut(name):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-30])


def remove(name):
    return lambda folder: (folder / name).unlink()


def link(folder):
    private = folder.parent / "id_rsa"
    private.write_text("private")
    (folder / "LICENSE").unlink(missing_ok=True)
    (folder / "LICENSE").symlink_to(private)


def more_tokens(folder):
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"]["vocab"]["beyond"] = 5000
    (folder / "tokenizer.json").write_text(json.dumps(content))


def prompts(value):
    return write("config_sentence_transformers.json", json.dumps({"prompts": value}).encode())


#: How a folder is damaged -> the error.
DAMAGE = {
    "NaN": (lambda folder: spoil(folder, float("nan")), "exits.1.norm.weight has NaN or infinite values"),
    "infinite": (lambda folder: spoil(folder, float("-inf")), "exits.1.norm.weight has NaN or infinite values"),
    "cut tokenizer": (cut("tokenizer.json"), "tokenizer.json is damaged"),
    "empty tokenizer": (write("tokenizer.json", b""), "tokenizer.json is empty"),
    "no tokenizer": (remove("tokenizer.json"), "tokenizer.json is missing"),
    "no real tokenizer": (write("tokenizer.json", b"{}"), "tokenizer.json does not load"),
    "another tokenizer": (more_tokens, "must have at most vocab_size=320 tokens"),
    "cut settings": (cut("tokenizer_config.json"), "tokenizer_config.json is damaged"),
    "no prompts": (prompts({}), "prompts must have query, document"),
    "no texts": (prompts({"query": 1}), "prompts must be an object of texts"),
    "no settings": (remove("config_sentence_transformers.json"), "config_sentence_transformers.json is missing"),
    "no pooling": (remove("1_Pooling/config.json"), "1_Pooling/config.json is missing"),
    "cut code": (write("modeling_mose.py", b"def forward("), "modeling_mose.py is damaged"),
    "binary card": (write("CITATION.cff", b"\xff\xfe\x00"), "CITATION.cff is damaged"),
    "a link": (link, "LICENSE is a symbolic link"),
    "a pickle": (write("vocab.json", pickle.dumps({"a": 1})), "vocab.json is a pickle"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_named_and_nothing_is_made(model_folder, tmp_path, name):
    damage, message = DAMAGE[name]
    damage(model_folder)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        publish(model_folder, "a/b", dry_run=True)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        slice_repository(model_folder, 1, tmp_path / "slice")
    assert not (tmp_path / "slice").exists()


@pytest.mark.parametrize(
    "name", ["cut tokenizer", "empty tokenizer", "no tokenizer", "no prompts", "cut settings"]
)
def test_an_export_checks_what_it_copies(model_folder, shared_tiny_model, tmp_path, name):
    damage, message = DAMAGE[name]
    damage(model_folder)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        export(shared_tiny_model, model_folder, tmp_path / "out", [0])
    assert not (tmp_path / "out").exists()


def test_an_export_of_nan_is_refused(model_folder, tmp_path):
    spoil(model_folder, float("nan"))
    model = MoSEModel.from_pretrained(model_folder)
    for check in (
        lambda: check_parameters(model, "m"),
        lambda: export(model, model_folder, tmp_path / "out", [1]),
    ):
        with pytest.raises(ValueError, match="exits.1.norm.weight has NaN"):
            check()


def test_a_copy_that_differs_is_refused(model_folder, tmp_path, monkeypatch):
    from mose.hub import slice as slicing

    def write_others(folder, sources, exits):
        weights = {name: source.read() * 2 for name, source in sources.items()}
        save_file(weights, folder / "model.safetensors", {"format": "pt"})

    monkeypatch.setattr(slicing, "write_shards", write_others)
    with pytest.raises(RuntimeError, match="differs from its source by .* at exit 0"):
        slice_repository(model_folder, 1, tmp_path / "slice")
    assert not (tmp_path / "slice").exists()


def test_links_are_refused_whatever_leads_to_them(model_folder, tmp_path):
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "notes.txt").write_text("private")
    (model_folder / "dirlink").symlink_to(tmp_path / "private")
    with pytest.raises(ValueError, match="dirlink is a symbolic link"):
        publish(model_folder, "a/b", include=["dirlink/notes.txt"], dry_run=True)

    weights = model_folder / "model.safetensors"
    weights.rename(tmp_path / "weights")
    weights.symlink_to(tmp_path / "weights")
    with pytest.raises(ValueError, match="model.safetensors is a symbolic link"):
        publish(model_folder, "a/b", dry_run=True)


@pytest.mark.parametrize(
    "name",
    ["X.PKL", "model.BIN", "a.Pt", "weights.CKPT", "x.pkl.gz", "OPTIMIZER.pt", "a.pickle.zip", "x.pkl. ", ".ENV"],
)
def test_pickles_are_refused_in_any_spelling(model_folder, name):
    (model_folder / name).write_bytes(b"x")
    assert forbidden_pattern(f"sub/{name}")
    with pytest.raises(ValueError, match="is never published"):
        publish(model_folder, "a/b", include=[name], dry_run=True)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_are_known_by_their_content(model_folder, protocol):
    (model_folder / "figures.txt").write_bytes(pickle.dumps({"a": [1, 2.5]}, protocol))
    with pytest.raises(ValueError, match="figures.txt is a pickle"):
        publish(model_folder, "a/b", include=["figures.txt"], dry_run=True)


def test_archives_of_torch_are_pickles_and_prose_is_none(model_folder):
    torch.save({"a": torch.ones(2)}, model_folder / "weights.dat")
    with pytest.raises(ValueError, match="weights.dat is a pickle"):
        publish(model_folder, "a/b", include=["weights.dat"], dry_run=True)

    harmless = {"a.txt": b"It is a sentence.", "b.txt": b".", "c.csv.gz": gzip.compress(b"1,2"), "d.txt": b"N."}
    for name, content in harmless.items():
        (model_folder / name).write_bytes(content)
    with zipfile.ZipFile(model_folder / "e.zip", "w") as archive:
        archive.writestr("rows.csv", "1,2")
    done = publish(model_folder, "a/b", include=["a.txt", "b.txt", "c.csv.gz", "e.zip"], dry_run=True)
    assert {"a.txt", "b.txt", "c.csv.gz", "e.zip"} <= done.files.keys()


def test_a_hostile_summary_stays_text(model_folder):
    hostile = "x\n# Heading\n<script>alert(1)</script> | [a](http://b) `c` \x1b[31m" + "y" * 500
    summary = {
        "task": hostile,
        "base_model": hostile,
        "datasets": hostile,
        "arguments": {hostile: hostile, "steps": 4},
        "losses": {hostile: 1.5},
    }
    (model_folder / "training_summary.json").write_text(json.dumps(summary))
    card = folder_card(model_folder)
    assert "<script" not in card and "\n# Heading" not in card and "](http" not in card and "\x1b" not in card
    assert "| steps | 4 |" in card and card.count("y" * 201) == 0

    for content in ("[]", "3", '{"arguments": [1], "losses": 4, "datasets": 5, "task": null}', "{"):
        (model_folder / "training_summary.json").write_text(content)
        assert "# tiny-mose" in folder_card(model_folder)


def test_code_is_read_whatever_is_parsed_meanwhile(model_folder):
    with parsing_meanwhile():
        check_contents({"modeling_mose.py": model_folder / "modeling_mose.py"})
