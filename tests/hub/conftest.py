"""A model's folder to publish, and the Hub's client in this process."""

import shutil
from pathlib import Path

import pytest

from mose.hub.files import write_sentence_transformers_files


@pytest.fixture(scope="session")
def shared_model_folder(shared_tiny_model, tiny_tokenizer, tmp_path_factory) -> Path:
    """Exits 0, 1 and 3 as `Trainer` leaves them, with what a run leaves beside them; for reading only."""
    folder = tmp_path_factory.mktemp("runs") / "tiny-mose"
    shared_tiny_model.save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    write_sentence_transformers_files(folder)
    for name in ("training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth", "pytorch_model.bin"):
        (folder / name).write_bytes(b"\x80\x04N.")  # a pickle of None
    (folder / "checkpoint-2").mkdir()
    (folder / "checkpoint-2" / "config.json").write_text("{}")
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "modeling_mose.cpython-311.pyc").write_bytes(b"\0")
    (folder / "notes.txt").write_text("private")
    return folder


@pytest.fixture
def model_folder(shared_model_folder, tmp_path) -> Path:
    """That folder, to change."""
    return Path(shutil.copytree(shared_model_folder, tmp_path / "tiny-mose"))
