"""What lies on the disk is whole, is what it says, or is refused."""

import json
import multiprocessing
from dataclasses import replace

import numpy as np
import pytest

from mose.inference import store as module
from mose.inference.store import Source, StoreError, Vectors, fingerprint_texts, open_store, write_shard, writing

SOURCE = Source("weights", "texts", {"dtype": "None"}, ("0", "3"), rows=10, shard_rows=4)
EMBEDDINGS = np.random.default_rng(0).random((2, 10, 3), dtype=np.float32)


def fill(folder, shards=(0, 1, 2), source=SOURCE):
    with writing(folder, source) as (store, _):
        for shard in shards:
            store.add(shard, write_shard(store.file(shard), EMBEDDINGS[:, source.span(shard)]))
    return folder


def test_what_was_written_is_read(tmp_path):
    store = open_store(fill(tmp_path / "new"))
    for at, key in enumerate(SOURCE.keys):
        vectors = store[key]
        assert isinstance(vectors, Vectors) and len(vectors) == 10
        assert [len(block) for block in vectors.blocks()] == [4, 4, 2]
        assert all(
            isinstance(block.base, np.memmap) or isinstance(block, np.memmap) for block in vectors.blocks()
        )
        np.testing.assert_array_equal(np.asarray(vectors), EMBEDDINGS[at])
    with pytest.raises(KeyError, match="no embeddings '1'; there are 0, 3"):
        store["1"]


def cut_short(file):
    file.write_bytes(file.read_bytes()[:-1])


def flip_a_bit(file):
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("harm", [cut_short, flip_a_bit, lambda file: file.unlink()])
def test_a_damaged_shard_is_refused_by_readers_and_made_again_by_writers(tmp_path, harm):
    folder = fill(tmp_path)
    harm(folder / "shard-000001.npy")
    with pytest.raises(StoreError, match=r"1 damaged shards \(shard-000001.npy\)"):
        open_store(folder)
    with writing(folder, SOURCE) as (store, damaged):
        assert damaged == store.unfinished == [1]


def test_unfinished_embeddings_are_refused_by_readers_and_continued_by_writers(tmp_path):
    fill(tmp_path, shards=[0])
    with pytest.raises(StoreError, match="2 of 3 shards are missing"):
        open_store(tmp_path)
    with writing(tmp_path, SOURCE) as (store, damaged):
        assert (store.unfinished, damaged) == ([1, 2], [])


def test_a_shard_counts_once_the_manifest_names_it(tmp_path):
    fill(tmp_path, shards=[0])
    write_shard(tmp_path / "shard-000001.npy", EMBEDDINGS[:, 4:8])  # and there the run was killed
    with writing(tmp_path, SOURCE) as (store, _):
        assert store.unfinished == [1, 2]


@pytest.mark.parametrize(
    "changed",
    [{"model": "x"}, {"corpus": "x"}, {"settings": {}}, {"keys": ("0",)}, {"rows": 11}, {"shard_rows": 5}],
)
def test_embeddings_of_something_else_are_replaced_or_refused(tmp_path, changed):
    fill(tmp_path)
    other = replace(SOURCE, **changed)
    with pytest.raises(StoreError, match=f"another {next(iter(changed))}"), writing(tmp_path, other, False):
        pass
    assert open_store(tmp_path).source == SOURCE  # nothing was touched
    with writing(tmp_path, other) as (store, _):
        assert store.unfinished == list(other.shards)
    assert not list(tmp_path.glob("shard-*"))


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(StoreError, match="holds thesis.txt, no embeddings"), writing(tmp_path, SOURCE):
        pass
    with pytest.raises(StoreError, match="is a file"), writing(tmp_path / "thesis.txt", SOURCE):
        pass
    with pytest.raises(StoreError, match="there are no embeddings here"):
        open_store(tmp_path / "nowhere")


def test_another_programs_manifest_is_no_damaged_store(tmp_path):
    (tmp_path / "manifest.json").write_text('{"model.safetensors": {"bytes": 7}}')
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    with pytest.raises(StoreError, match="holds model.safetensors, no embeddings"), writing(tmp_path, SOURCE):
        pass
    assert (tmp_path / "manifest.json").read_text().startswith('{"model')


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 99, "source": {}, "shards": {}}'])
def test_a_spoilt_manifest(tmp_path, content):
    fill(tmp_path)
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(StoreError, match=r"manifest\.json"):
        open_store(tmp_path)
    with pytest.raises(StoreError, match=r"manifest\.json"), writing(tmp_path, SOURCE, overwrite=False):
        pass
    with writing(tmp_path, SOURCE) as (store, _):
        assert store.unfinished == [0, 1, 2]


def _held(folder, answers):
    try:
        with writing(folder, SOURCE):
            answers.put("entered")
    except StoreError as error:
        answers.put(str(error))


def test_one_run_writes_at_a_time(tmp_path):
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    with writing(tmp_path, SOURCE):
        other = context.Process(target=_held, args=(tmp_path, answers))
        other.start()
        assert "another run is writing" in answers.get(timeout=60)
        other.join()


def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    fill(tmp_path, shards=[0])
    before = (tmp_path / "manifest.json").read_bytes()

    def full(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(module.np, "save", full)
    with pytest.raises(OSError, match="disk full"):
        fill(tmp_path, shards=[1])
    assert (tmp_path / "manifest.json").read_bytes() == before
    assert not list(tmp_path.glob("*.draft"))
    assert json.loads(before)["shards"]["0"]["bytes"] == (tmp_path / "shard-000000.npy").stat().st_size


def test_the_fingerprint_of_texts_knows_their_borders_order_and_languages():
    texts = [["ab", "c"], ["a", "bc"], ["c", "ab"], ["ab", "c", ""], ["\udc80"]]
    found = {fingerprint_texts(of) for of in texts} | {fingerprint_texts(["ab", "c"], ["python", ""])}
    assert len(found) == 6
    assert fingerprint_texts(["ab", "c"], ["", ""]) == fingerprint_texts(("ab", "c"))
