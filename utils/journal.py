"""A resumable store of finished work: one checksummed file for each chunk, written completely or not at all.

    journal = Journal(folder, fingerprint)   # fingerprint: everything the chunks depend on, as text
    for key in sorted(work.keys() - set(journal.keys())):
        with journal.write(key) as stream:
            np.save(stream, compute(work[key]))

A chunk is its content followed by the 32 bytes of its SHA-256. Formats that ignore trailing bytes, such as .npy,
can therefore be memory-mapped from `journal.path(key)`.
"""

import hashlib
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from mose.utils.files import atomic_write

SUFFIX = ".chunk"
_KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_DIGEST_SIZE = hashlib.sha256().digest_size


class JournalLockedError(RuntimeError):
    """Another process is writing to the journal."""


class Journal:
    """The chunks of one computation in a folder.

    Args:
        folder: created by the first write. Journals with different fingerprints can share it.
        fingerprint: everything that the chunks depend on. A journal sees only chunks with its own fingerprint.
    """

    def __init__(self, folder: str | Path, fingerprint: str = ""):
        self.folder = Path(folder)
        self._prefix = hashlib.sha256(fingerprint.encode()).hexdigest()[:16] + "-"

    def path(self, key: str) -> Path:
        """Return the file of a chunk, written or not.

        Raises:
            ValueError: `key` is not usable in a file name.
        """
        if not _KEY.fullmatch(key):
            raise ValueError(f"key must consist of letters, digits, '_', '-' and '.', got {key!r}.")
        return self.folder / f"{self._prefix}{key}{SUFFIX}"

    @contextmanager
    def write(self, key: str) -> Iterator[IO[bytes]]:
        """Open a chunk for writing; it appears when the block ends, and not at all if the block raises."""
        self.folder.mkdir(parents=True, exist_ok=True)

        with atomic_write(self.path(key)) as stream:
            yield stream
            # Read the content back: formats such as .npz seek, so it cannot be hashed while it is written.
            stream.flush()
            with Path(stream.name).open("rb") as written:
                digest = hashlib.file_digest(written, "sha256").digest()
            stream.seek(0, io.SEEK_END)
            stream.write(digest)

    def read(self, key: str) -> bytes:
        """Return the content of a chunk.

        Raises:
            KeyError: the chunk is missing or damaged.
        """
        if not self._is_intact(key):
            raise KeyError(key)
        return self.path(key).read_bytes()[:-_DIGEST_SIZE]

    def keys(self) -> list[str]:
        """Return the keys of all intact chunks, sorted. Reads every chunk once, in constant memory."""
        return [key for key in self._stored_keys() if self._is_intact(key)]

    def drop_damaged(self) -> list[str]:
        """Delete the damaged chunks and return their keys."""
        damaged = sorted(set(self._stored_keys()).difference(self.keys()))
        for key in damaged:
            self.path(key).unlink()
        return damaged

    def clear(self) -> None:
        """Delete every chunk of the folder, those with other fingerprints and unfinished ones included."""
        for path in self.folder.glob(f"*{SUFFIX}*"):
            path.unlink()

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder's lock, so that one process writes at a time.

        Raises:
            JournalLockedError: another process holds it.
        """
        import filelock  # saves start-up time

        self.folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(self.folder / "lock")
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            message = f"{self.folder} is being written by another process. Wait until it has ended."
            raise JournalLockedError(message) from None

        try:
            yield
        finally:
            lock.release()

    def _stored_keys(self) -> list[str]:
        names = sorted(path.name for path in self.folder.glob(f"{self._prefix}*{SUFFIX}"))
        return [name.removeprefix(self._prefix).removesuffix(SUFFIX) for name in names]

    def _is_intact(self, key: str) -> bool:
        digest, path = hashlib.sha256(), self.path(key)
        if not path.is_file() or (left := path.stat().st_size - _DIGEST_SIZE) < 0:
            return False

        with path.open("rb") as stream:
            while block := stream.read(min(left, 1 << 20)):
                digest.update(block)
                left -= len(block)
            return stream.read() == digest.digest()
