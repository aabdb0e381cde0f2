"""Files that are on the disk as a whole or not at all, whatever kills the process that writes them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replacing(file: Path) -> Iterator[Any]:
    """A binary file that takes the place of `file` in one step once it is written and on the disk.

    Where the block raises, `file` stays as it was.
    """
    draft = file.with_name(f"{file.name}.draft")
    try:
        with draft.open("wb") as stream:
            yield stream
        flush(draft)
        draft.replace(file)
    finally:
        draft.unlink(missing_ok=True)
    flush(file.parent)


def check_free(folder: Path) -> None:
    """That a folder can be made here, or take the place of an empty one.

    Raises:
        FileExistsError: It holds something, is a file, or is the current folder, which whoever stands in it
            would no longer see after it was replaced.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder}: exists and is not an empty folder: choose another")
    if folder.resolve() == Path.cwd():
        raise FileExistsError(f"{folder}: is the current folder: name one that is not there yet")


def flush(path: Path) -> None:
    """Waits until a file, or the names in a folder, have reached the disk."""
    if os.name == "nt":
        return  # Windows flushes no folder, and no file that is open for reading only
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
