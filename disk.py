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


def flush(path: Path) -> None:
    """Waits until a file, or the names in a folder, have reached the disk."""
    if os.name == "nt":
        return  # Windows flushes no folder, and no file that is open for reading only
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
