import json

import pytest

from mose.training.checkpoints import MANIFEST, find_fault, last_whole_checkpoint, write_manifest


def write(folder, name):
    checkpoint = folder / name
    (checkpoint / "parts").mkdir(parents=True)
    (checkpoint / "model.safetensors").write_bytes(bytes(range(100)))
    (checkpoint / "parts" / "optimizer.pt").write_bytes(b"state")
    (checkpoint / "trainer_state.json").write_text("{}")
    write_manifest(checkpoint)
    return checkpoint


def test_the_newest_is_the_one_of_most_steps(tmp_path):
    for step in (10, 9, 100, 20):
        write(tmp_path, f"checkpoint-{step}")
    write(tmp_path, "checkpoint-best")
    (tmp_path / "checkpoint-900").write_text("a file")
    assert last_whole_checkpoint(tmp_path) == tmp_path / "checkpoint-100"


def test_none_where_there_is_none(tmp_path):
    assert last_whole_checkpoint(tmp_path) is None
    assert last_whole_checkpoint(tmp_path / "no such folder") is None


def flip(path):
    content = bytearray(path.read_bytes())
    content[50] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda c: (c / MANIFEST).unlink(), "it is incomplete"),
        (lambda c: (c / MANIFEST).write_text('{"model.saf'), f"{MANIFEST}: "),
        (lambda c: (c / MANIFEST).write_text("[1, 2]"), f"{MANIFEST}: "),
        (lambda c: (c / "model.safetensors").write_bytes(b"12"), "model.safetensors has 2 bytes, not 100"),
        (lambda c: flip(c / "model.safetensors"), "model.safetensors has changed since it was written"),
        (lambda c: (c / "parts" / "optimizer.pt").unlink(), "optimizer.pt is missing"),
    ],
)
def test_a_damaged_one_is_refused_by_name_and_the_one_before_is_used(tmp_path, caplog, damage, words):
    whole = write(tmp_path, "checkpoint-5")
    damaged = write(tmp_path, "checkpoint-10")
    assert find_fault(damaged) is None
    damage(damaged)
    assert last_whole_checkpoint(tmp_path) == whole
    assert f"{damaged} is skipped: " in caplog.text and words in caplog.text


def test_the_manifest_lists_every_file(tmp_path):
    content = json.loads((write(tmp_path, "checkpoint-1") / MANIFEST).read_text())
    assert set(content) == {"model.safetensors", "parts/optimizer.pt", "trainer_state.json"}


@pytest.mark.parametrize("left", [MANIFEST, f"{MANIFEST}.partial"])
def test_one_that_is_written_again_after_a_kill_is_whole(tmp_path, left):
    checkpoint = write(tmp_path, "checkpoint-1")
    (checkpoint / left).write_text('{"model.saf')
    write_manifest(checkpoint)
    assert find_fault(checkpoint) is None
    assert left not in json.loads((checkpoint / MANIFEST).read_text())
