import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mose
from mose.utils.files import (
    PARTIAL_SUFFIX,
    atomic_folder,
    atomic_write,
    atomic_write_json,
    atomic_write_text,
    check_new_folder,
    fsync,
)


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


@given(st.binary(), st.binary())
def test_a_write_replaces_the_content(old, new):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "file")
        path.write_bytes(old)
        with atomic_write(path) as stream:
            stream.write(new)
            stream.flush()
            assert path.read_bytes() == old
        assert path.read_bytes() == new and names_in(Path(folder)) == ["file"]


def test_an_error_leaves_the_old_content(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError, match="midway"), atomic_write(path) as stream:
        stream.write(b"new")
        raise RuntimeError("midway")
    assert path.read_bytes() == b"old" and names_in(tmp_path) == ["file"]


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_text_is_written_as_it_is(text):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "file")
        atomic_write_text(str(path), text)
        assert path.read_bytes() == text.encode()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda values: st.lists(values) | st.dictionaries(st.text(), values),
)


@given(json_values)
@settings(max_examples=30)
def test_json_is_read_back(value):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "file.json")
        atomic_write_json(path, value)
        text = path.read_text(encoding="utf-8")
        assert json.loads(text) == value and text.endswith("\n")


def test_options_of_json_are_passed_on(tmp_path):
    atomic_write_json(tmp_path / "file", {"b": 1, "a": "é"}, indent=None, sort_keys=True, ensure_ascii=False)
    assert (tmp_path / "file").read_text(encoding="utf-8") == '{"a": "é", "b": 1}\n'


def killed_while(tmp_path: Path, statement: str) -> None:
    """Kill a process that has entered the block of `statement` and written there."""
    script = (
        "import sys\nfrom pathlib import Path\nfrom mose.utils.files import atomic_folder, atomic_write\n"
        f"{statement}\n    print('ready', flush=True); sys.stdin.read()\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(mose.__file__).parents[1])}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "env": environment}
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], **pipes)
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()


def test_a_kill_in_the_middle_of_a_write_leaves_the_old_content(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    statement = (
        "with atomic_write(Path(sys.argv[1], 'file')) as stream:\n    stream.write(b'new'); stream.flush()"
    )
    killed_while(tmp_path, statement)
    assert path.read_bytes() == b"old"

    # The next write is not disturbed by what the killed process left behind.
    assert (tmp_path / f"file{PARTIAL_SUFFIX}").exists()
    atomic_write_text(path, "newer")
    assert path.read_bytes() == b"newer" and names_in(tmp_path) == ["file"]


def test_a_kill_in_the_middle_of_a_folder_leaves_nothing_at_its_path(tmp_path):
    statement = "with atomic_folder(Path(sys.argv[1], 'out')) as folder:\n    (folder / 'file').write_text('new')"
    killed_while(tmp_path, statement)
    assert not (tmp_path / "out").exists()

    with atomic_folder(tmp_path / "out") as folder:
        assert not list(folder.iterdir())
        (folder / "other").write_text("x")
    assert names_in(tmp_path) == ["out"] and names_in(tmp_path / "out") == ["other"]


@pytest.mark.parametrize("exists", [False, True])
def test_a_folder_appears_complete(tmp_path, exists):
    path = tmp_path / "parent" / "out"
    if exists:
        path.mkdir(parents=True)
    with atomic_folder(path) as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "file").write_text("content")
        assert not path.exists() or not list(path.iterdir())
    assert (path / "sub" / "file").read_text() == "content" and names_in(path.parent) == ["out"]


def test_a_folder_whose_block_raises_does_not_appear(tmp_path):
    with pytest.raises(RuntimeError, match="midway"), atomic_folder(tmp_path / "out") as folder:
        (folder / "file").write_text("content")
        raise RuntimeError("midway")
    assert not list(tmp_path.iterdir())


def test_a_folder_with_content_is_not_replaced(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path, tmp_path / "file"):
        with pytest.raises(FileExistsError, match="exists and is not an empty folder. Choose another"):
            check_new_folder(path)
        with pytest.raises(FileExistsError), atomic_folder(path):
            raise AssertionError("unreachable")
    assert (tmp_path / "file").read_text() == "mine"

    (tmp_path / "empty").mkdir()
    check_new_folder(tmp_path / "empty")
    check_new_folder(tmp_path / "none")
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(FileExistsError, match="is the current folder"):
        check_new_folder(".")


def test_files_and_folders_are_flushed(tmp_path):
    (tmp_path / "file").write_text("x")
    fsync(tmp_path / "file")
    fsync(tmp_path)
