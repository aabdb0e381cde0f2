"""Damaged files: every entrance says which file is at fault, or reads what it read before."""

import random
import shutil

import pytest

from mose.hub.__main__ import main as hub
from mose.inference.loading import load_model
from mose.training.checkpoints import find_fault, write_manifest

FILES = (
    "model.safetensors",
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "1_Pooling/config.json",
)


def flip(data, draw):
    at = draw.randrange(len(data))
    return data[:at] + bytes([data[at] ^ (1 << draw.randrange(8))]) + data[at + 1 :]


DAMAGE = {
    "one bit flipped": flip,
    "64 zeros": lambda data, draw: (lambda at: data[:at] + bytes(64) + data[at + 64 :])(
        draw.randrange(len(data))
    ),
    "cut": lambda data, draw: data[: draw.randrange(1, len(data))],
    "emptied": lambda data, draw: b"",
    "random bytes": lambda data, draw: draw.randbytes(len(data)),
    "doubled": lambda data, draw: data + data,
    "[]": lambda data, draw: b"[]",
}


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("name", FILES)
def test_slice(whole, tmp_path, tries, capsys, name, kind, seed):
    folder = tmp_path / "model"
    shutil.copytree(whole, folder)
    draw = random.Random(f"{name} {kind} {seed}")
    (folder / name).write_bytes(DAMAGE[kind]((folder / name).read_bytes(), draw))

    status = hub(["slice", str(folder), "--exit-layer", "1", "--output-dir", str(tmp_path / "slice")])
    error = capsys.readouterr().err
    if status == 0:
        # What is left is a whole model, so the damage was in what JSON and weights may hold.
        assert len(load_model(str(tmp_path / "slice"), device="cpu")[2]) == 2
    else:
        assert not (tmp_path / "slice").exists() and "Traceback" not in error and "Error:" not in error, error
    tries.record(f"{kind}: {name}", "sliced, loads" if status == 0 else "refused", area="damaged model, slice")


@pytest.mark.parametrize("kind", DAMAGE)
def test_checkpoint(whole, tmp_path, tries, kind):
    folder = tmp_path / "checkpoint-1"
    shutil.copytree(whole, folder)
    write_manifest(folder)
    assert find_fault(folder) is None
    for name in ("model.safetensors", "config.json", "manifest.json"):
        original = (folder / name).read_bytes()
        (folder / name).write_bytes(DAMAGE[kind](original, random.Random(kind)))
        assert find_fault(folder) is not None or (folder / name).read_bytes() == original
        (folder / name).write_bytes(original)
        tries.record(f"{kind}: {name}", "found", area="damaged checkpoint")
