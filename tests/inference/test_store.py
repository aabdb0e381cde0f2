"""Stored embeddings are whole and match their spec, or are refused."""

import multiprocessing
from dataclasses import replace

import numpy as np
import pytest

from mose.inference import store as module
from mose.inference.fingerprints import fingerprint_texts
from mose.inference.store import Store, StoreError, StoreSpec, Vectors, open_for_writing, open_store
from mose.utils.files import PARTIAL_SUFFIX

SPEC = StoreSpec("weights", "texts", {"dtype": "None"}, ("0", "3"), rows=10, shard_rows=4)
EMBEDDINGS = np.random.default_rng(0).random((2, 10, 3), dtype=np.float32)


def fill(folder, shards=(0, 1, 2), spec=SPEC):
    with open_for_writing(folder, spec) as (store, _):
        for shard in shards:
            store.write(shard, EMBEDDINGS[:, spec.span(shard)])
    return folder


def test_what_was_written_is_read(tmp_path):
    store = open_store(fill(tmp_path / "new"))
    for index, key in enumerate(SPEC.keys):
        vectors = store[key]
        assert isinstance(vectors, Vectors) and len(vectors) == 10
        assert [len(block) for block in vectors.blocks()] == [4, 4, 2]
        assert all(
            isinstance(block.base, np.memmap) or isinstance(block, np.memmap) for block in vectors.blocks()
        )
        np.testing.assert_array_equal(np.asarray(vectors), EMBEDDINGS[index])
    with pytest.raises(KeyError, match="no embeddings '1'. Use one of 0, 3"):
        store["1"]


def cut_short(file):
    file.write_bytes(file.read_bytes()[:-1])


def flip_a_bit(file):
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("harm", [cut_short, flip_a_bit])
def test_a_damaged_shard_is_refused_by_readers_and_deleted_by_writers(tmp_path, harm):
    folder = fill(tmp_path)
    harm(Store.read(folder).file(1))
    with pytest.raises(StoreError, match=r"1 damaged shards \(shard-000001\)"):
        open_store(folder)
    with open_for_writing(folder, SPEC) as (store, damaged):
        assert (damaged, store.unfinished) == (1, [1])


def test_a_missing_shard_is_refused_by_readers_and_written_again(tmp_path):
    Store.read(fill(tmp_path)).file(1).unlink()
    with pytest.raises(StoreError, match="1 of 3 shards are missing"):
        open_store(tmp_path)
    with open_for_writing(tmp_path, SPEC) as (store, damaged):
        assert (damaged, store.unfinished) == (0, [1])


def test_unfinished_embeddings_are_refused_by_readers_and_continued_by_writers(tmp_path):
    fill(tmp_path, shards=[0])
    with pytest.raises(StoreError, match="2 of 3 shards are missing"):
        open_store(tmp_path)
    with open_for_writing(tmp_path, SPEC) as (store, damaged):
        assert (store.unfinished, damaged) == ([1, 2], 0)


def test_a_shard_counts_once_its_file_is_renamed(tmp_path):
    fill(tmp_path, shards=[0, 1])
    file = Store.read(tmp_path).file(1)
    file.rename(file.with_name(file.name + PARTIAL_SUFFIX))  # and there the run was killed
    with open_for_writing(tmp_path, SPEC) as (store, _):
        assert store.unfinished == [1, 2]


@pytest.mark.parametrize("overwrite", [True, False])
def test_embeddings_of_an_older_format_are_replaced_or_refused(tmp_path, overwrite):
    (tmp_path / "manifest.json").write_text('{"format": 1, "source": {}, "shards": {}}')
    for name in ("shard-000000.npy", "shard-000001.npy.draft"):
        (tmp_path / name).write_bytes(b"old")
    if not overwrite:
        with (
            pytest.raises(StoreError, match="format must be 2, got 1.*--overwrite"),
            open_for_writing(tmp_path, SPEC, False),
        ):
            pass
        return
    fill(tmp_path)
    assert len(open_store(tmp_path)["0"]) == 10
    assert not list(tmp_path.glob("*.npy*"))


@pytest.mark.parametrize(
    "changed",
    [{"model": "x"}, {"corpus": "x"}, {"settings": {}}, {"keys": ("0",)}, {"rows": 11}, {"shard_rows": 5}],
)
def test_embeddings_of_something_else_are_replaced_or_refused(tmp_path, changed):
    fill(tmp_path)
    other = replace(SPEC, **changed)
    with (
        pytest.raises(StoreError, match=f"another {next(iter(changed))}"),
        open_for_writing(tmp_path, other, False),
    ):
        pass
    assert open_store(tmp_path).spec == SPEC  # nothing was touched
    with open_for_writing(tmp_path, other) as (store, _):
        assert store.unfinished == list(other.shards)
    assert not list(tmp_path.glob("*shard-*"))


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").touch()
    (tmp_path / "a.chunk").touch()
    with pytest.raises(StoreError, match="holds a.chunk"), open_for_writing(tmp_path, SPEC):
        pass
    (tmp_path / "a.chunk").unlink()
    with (
        pytest.raises(StoreError, match="holds thesis.txt, which is no embeddings"),
        open_for_writing(tmp_path, SPEC),
    ):
        pass
    with pytest.raises(StoreError, match="is a file"), open_for_writing(tmp_path / "thesis.txt", SPEC):
        pass
    with pytest.raises(StoreError, match="there are no embeddings here"):
        open_store(tmp_path / "nowhere")


def test_another_programs_manifest_is_no_damaged_store(tmp_path):
    (tmp_path / "manifest.json").write_text('{"model.safetensors": {"bytes": 7}}')
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    with (
        pytest.raises(StoreError, match="holds model.safetensors, which is no embeddings"),
        open_for_writing(tmp_path, SPEC),
    ):
        pass
    assert (tmp_path / "manifest.json").read_text().startswith('{"model')


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 99, "source": {}, "shards": {}}'])
def test_a_damaged_manifest(tmp_path, content):
    fill(tmp_path)
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(StoreError, match=r"manifest\.json"):
        open_store(tmp_path)
    with pytest.raises(StoreError, match=r"manifest\.json"), open_for_writing(tmp_path, SPEC, overwrite=False):
        pass
    with open_for_writing(tmp_path, SPEC) as (store, _):
        assert store.unfinished == [0, 1, 2]


def _held(folder, answers):
    try:
        with open_for_writing(folder, SPEC):
            answers.put("entered")
    except StoreError as error:
        answers.put(str(error))


def test_one_run_writes_at_a_time(tmp_path):
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    with open_for_writing(tmp_path, SPEC):
        other = context.Process(target=_held, args=(tmp_path, answers))
        other.start()
        assert "another run is writing" in answers.get(timeout=60)
        other.join()


def test_a_failed_write_leaves_the_folder_unchanged(tmp_path, monkeypatch):
    fill(tmp_path, shards=[0])
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def full(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(module.np, "save", full)
    with pytest.raises(OSError, match="disk full"):
        fill(tmp_path, shards=[1])
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    assert Store.read(tmp_path).unfinished == [1, 2]


def test_the_fingerprint_of_texts_depends_on_borders_order_and_languages():
    texts = [["ab", "c"], ["a", "bc"], ["c", "ab"], ["ab", "c", ""], ["\udc80"]]
    fingerprints = {fingerprint_texts(part) for part in texts} | {fingerprint_texts(["ab", "c"], ["python", ""])}
    assert len(fingerprints) == 6
    assert fingerprint_texts(["ab", "c"], ["", ""]) == fingerprint_texts(("ab", "c"))
