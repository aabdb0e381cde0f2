"""Atomic writes: files and folders that appear on disk complete or not at all, even after `kill -9`."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

#: Suffix of a file or folder that is still being written; a killed process may leave one behind.
PARTIAL_SUFFIX = ".partial"


@contextmanager
def atomic_write(path: str | Path) -> Iterator[IO[bytes]]:
    """Open a binary file that replaces `path` in one step when the block ends.

    If the block raises, `path` keeps its old content. The data is flushed to disk before the replacement.
    """
    path = Path(path)
    partial = path.with_name(path.name + PARTIAL_SUFFIX)

    try:
        with partial.open("wb") as stream:
            yield stream

        # Without the flush, a power cut after the rename could leave an empty file.
        fsync(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)

    fsync(path.parent)


def atomic_write_text(path: str | Path, text: str) -> None:
    """Replace the content of `path` with `text` in UTF-8, in one step. Newlines are written as they are."""
    with atomic_write(path) as stream:
        stream.write(text.encode())


def atomic_write_json(path: str | Path, value: Any, **options: Any) -> None:
    """Replace the content of `path` with `value` as JSON, in one step; `options` go to `json.dumps`."""
    atomic_write_text(path, json.dumps(value, **{"indent": 2, **options}) + "\n")


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yield an empty folder beside `path` that is renamed to `path` when the block ends.

    If the block raises, nothing appears at `path`.

    Raises:
        FileExistsError: `path` cannot be created, see `check_new_folder`.
    """
    path = Path(path)
    check_new_folder(path)
    partial = path.with_name(path.name + PARTIAL_SUFFIX)
    # A killed process may have left its unfinished folder.
    shutil.rmtree(partial, ignore_errors=True)

    try:
        partial.mkdir(parents=True)
        yield partial
        for part in [*partial.rglob("*"), partial]:
            fsync(part)

        # An empty folder is in the way of a rename on Windows.
        if path.exists():
            path.rmdir()
        partial.replace(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)

    fsync(path.parent)


def check_new_folder(path: str | Path) -> None:
    """Check that `path` does not exist or is an empty folder.

    Raises:
        FileExistsError: `path` is a file, a folder with content, or the current folder. Replacing the current
            folder would leave the calling shell in a deleted one.
    """
    path = Path(path)

    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise FileExistsError(f"{path} exists and is not an empty folder. Choose another.")
    if path.resolve() == Path.cwd():
        raise FileExistsError(f"{path} is the current folder. Name one that does not exist yet.")


def fsync(path: str | Path) -> None:
    """Flush a file, or a folder's entries, to disk. Does nothing on Windows, which supports neither here."""
    if os.name == "nt":
        return

    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
