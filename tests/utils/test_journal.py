import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import mose
from mose.utils.journal import Journal, JournalLockedError


def put(journal: Journal, key: str, content: bytes) -> None:
    with journal.write(key) as stream:
        stream.write(content)


def test_chunks_are_read_back_by_their_key(tmp_path):
    journal = Journal(tmp_path / "new" / "folder", "model and texts")
    contents = {"b": b"two", "a": b"", "000010": bytes(range(256)) * 9000}
    for key, content in contents.items():
        put(journal, key, content)
    put(journal, "b", b"two again")
    assert journal.keys() == ["000010", "a", "b"]
    contents["b"] = b"two again"
    assert all(journal.read(key) == content for key, content in contents.items())
    with pytest.raises(KeyError, match="missing"):
        journal.read("missing")
    # A second process sees the same.
    assert Journal(str(tmp_path / "new" / "folder"), "model and texts").keys() == journal.keys()


def test_another_fingerprint_has_other_chunks(tmp_path):
    put(Journal(tmp_path, "a"), "key", b"of a")
    other = Journal(tmp_path, "b")
    assert other.keys() == []
    put(other, "key", b"of b")
    assert Journal(tmp_path, "a").read("key") == b"of a"
    other.clear()
    assert Journal(tmp_path, "a").keys() == other.keys() == [] and not list(tmp_path.iterdir())


@pytest.mark.parametrize("damage", [lambda raw: raw[:-1], lambda raw: raw[:5], lambda raw: b"",
                                    lambda raw: b"X" + raw[1:], lambda raw: raw + b"more"])  # fmt: skip
def test_damaged_chunks_are_skipped_and_dropped(tmp_path, damage):
    journal = Journal(tmp_path)
    put(journal, "good", b"content")
    put(journal, "bad", b"content")
    path = journal.path("bad")
    path.write_bytes(damage(path.read_bytes()))
    assert journal.keys() == ["good"]
    with pytest.raises(KeyError, match="bad"):
        journal.read("bad")
    assert journal.drop_damaged() == ["bad"] and not path.exists()
    assert journal.drop_damaged() == [] and journal.read("good") == b"content"


def test_a_block_that_raises_leaves_the_old_chunk(tmp_path):
    journal = Journal(tmp_path)
    put(journal, "key", b"old")
    with pytest.raises(RuntimeError, match="half"), journal.write("key") as stream:
        stream.write(b"new")
        raise RuntimeError("half")
    assert journal.read("key") == b"old" and len(list(tmp_path.iterdir())) == 1


def test_arrays_can_be_memory_mapped_and_archives_read(tmp_path):
    journal, array = Journal(tmp_path), np.arange(12, dtype=np.float32).reshape(3, 4)
    with journal.write("npy") as stream:
        np.save(stream, array)
    with journal.write("npz") as stream:
        np.savez(stream, rows=array)
    assert (np.load(journal.path("npy"), mmap_mode="r") == array).all()
    assert (np.load(io.BytesIO(journal.read("npz")))["rows"] == array).all()


@pytest.mark.parametrize("key", ["", "../up", "a/b", ".hidden", "a b"])
def test_keys_cannot_leave_the_folder(tmp_path, key):
    with pytest.raises(ValueError, match="key must consist of"), Journal(tmp_path).write(key):
        pass


def test_one_process_writes_at_a_time_and_a_killed_one_leaves_whole_chunks(tmp_path):
    script = (
        "import sys; from mose.utils.journal import Journal; journal = Journal(sys.argv[1]);\n"
        "with journal.lock():\n"
        "    with journal.write('done') as stream: stream.write(b'whole')\n"
        "    with journal.write('begun') as stream:\n"
        "        stream.write(b'part'); stream.flush(); print('ready', flush=True); sys.stdin.read()\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(mose.__file__).parents[1])}
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, env=environment)  # fmt: skip
    assert process.stdout.readline() == b"ready\n"
    journal = Journal(tmp_path)
    with pytest.raises(JournalLockedError, match="another process"), journal.lock():
        pass
    process.send_signal(signal.SIGKILL)
    process.communicate()
    with journal.lock():
        assert journal.keys() == ["done"] and journal.read("done") == b"whole"
    journal.clear()
    assert [path.name for path in tmp_path.iterdir() if path.name != "lock"] == []
