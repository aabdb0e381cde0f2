"""Embeddings of a corpus on disk, in shards: each written whole, checked when it is read again.

    DIR/
      manifest.json       what the embeddings were made from; rows, bytes and SHA-256 of every finished shard
      shard-000000.npy    (keys, rows, dim) float32: rows 0 … shard_rows - 1 under every key (an exit, a model)
      lock                held by the one run that may write

A shard counts once the manifest names it, and the manifest is replaced in one step. Readers map one shard into
memory at a time, so that reading takes as much memory as one shard, however many there are.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np

from mose.utils.files import PARTIAL_SUFFIX, atomic_write

FORMAT = 1
MANIFEST = "manifest.json"


class StoreError(RuntimeError):
    """Embeddings on disk that are missing, unfinished, damaged, locked, or made from something else."""


@dataclasses.dataclass(frozen=True)
class Source:
    """What embeddings depend on. Runs whose sources are equal give equal embeddings.

    Attributes:
        model: fingerprint of weights and tokenizer.
        corpus: fingerprint of the texts, in order, with what the prompts depend on.
        settings: everything else, such as the token limit and the compute type; ready for JSON.
        keys: under which names each text has an embedding: exits, or one model.
        rows: number of texts.
        shard_rows: texts per shard; the last one may hold fewer.
    """

    model: str
    corpus: str
    settings: dict[str, Any]
    keys: tuple[str, ...]
    rows: int
    shard_rows: int

    @property
    def shards(self) -> range:
        return range(-(-self.rows // self.shard_rows))

    def span(self, shard: int) -> slice:
        """The rows of a shard."""
        return slice(shard * self.shard_rows, min((shard + 1) * self.shard_rows, self.rows))


class Store:
    """The shards of one corpus. Obtained from `writing`, or from `open_store` for reading."""

    def __init__(self, folder: Path, source: Source, shards: dict[int, dict[str, Any]]):
        self.folder = folder
        self.source = source
        self._shards = shards

    @classmethod
    def read(cls, folder: Path) -> Self:
        """What the manifest says, shards unchecked.

        Raises:
            FileNotFoundError: there is no manifest.
            StoreError: it cannot be read.
        """
        file = folder / MANIFEST
        try:
            manifest = json.loads(file.read_text(encoding="utf-8"))
            if manifest["format"] != FORMAT:
                raise StoreError(f"{file}: format {manifest['format']}; this version reads {FORMAT}")
            source = Source(**{**manifest["source"], "keys": tuple(manifest["source"]["keys"])})
            return cls(folder, source, {int(shard): facts for shard, facts in manifest["shards"].items()})
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise StoreError(f"{file}: damaged: {error}") from error

    @property
    def unfinished(self) -> list[int]:
        """The shards that are still to be made."""
        return [shard for shard in self.source.shards if shard not in self._shards]

    def file(self, shard: int) -> Path:
        return self.folder / f"shard-{shard:06d}.npy"

    def drop_damaged(self) -> list[int]:
        """Forgets the shards whose file is missing, cut short or not what was written; returns them."""
        damaged = [shard for shard, facts in self._shards.items() if not _intact(self.file(shard), facts)]
        for shard in damaged:
            del self._shards[shard]
        return damaged

    def add(self, shard: int, facts: dict[str, Any]) -> None:
        """Counts a shard as finished; `facts` are what `write_shard` returned for it."""
        self._shards[shard] = facts
        self._write_manifest()

    def clear(self) -> None:
        """Forgets every shard and removes their files."""
        self._shards = {}
        self._write_manifest()
        for file in [*self.folder.glob("shard-*.npy"), *self.folder.glob(f"*{PARTIAL_SUFFIX}")]:
            file.unlink()

    def __getitem__(self, key: str) -> "Vectors":
        """The embeddings under a key.

        Raises:
            KeyError: there is no such key.
            StoreError: not all shards are finished.
        """
        if key not in self.source.keys:
            raise KeyError(f"{self.folder}: no embeddings {key!r}; there are {', '.join(self.source.keys)}")
        if self.unfinished:
            left = f"{len(self.unfinished)} of {len(self.source.shards)} shards"
            raise StoreError(f"{self.folder}: unfinished: {left} are missing; run the same command again")
        return Vectors(tuple(map(self.file, self.source.shards)), self.source.keys.index(key), self.source.rows)

    def _write_manifest(self) -> None:
        manifest = {
            "format": FORMAT,
            "source": dataclasses.asdict(self.source),
            "shards": {str(shard): self._shards[shard] for shard in sorted(self._shards)},
        }
        with atomic_write(self.folder / MANIFEST) as file:
            file.write((json.dumps(manifest, indent=1) + "\n").encode())


@dataclasses.dataclass(frozen=True)
class Vectors:
    """(rows, dim) float32 spread over shards, of which one is mapped into memory at a time."""

    files: tuple[Path, ...]
    index: int  # which key of every shard
    rows: int

    def __len__(self) -> int:
        return self.rows

    def blocks(self) -> Iterator[np.ndarray]:
        """The rows of one shard after the other."""
        for file in self.files:
            yield np.load(file, mmap_mode="r")[self.index]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """All rows in memory."""
        return np.concatenate(list(self.blocks())).astype(dtype or np.float32, copy=False)


def write_shard(file: Path, embeddings: np.ndarray) -> dict[str, Any]:
    """Writes a shard whole or not at all, and returns the facts by which it can be checked.

    Args:
        embeddings: (keys, rows, dim) float32.
    """
    with atomic_write(file) as stream:
        np.save(stream, np.ascontiguousarray(embeddings, dtype=np.float32), allow_pickle=False)
    return {"rows": embeddings.shape[1], "bytes": file.stat().st_size, "sha256": _digest(file)}


def open_store(folder: str | Path) -> Store:
    """Finished embeddings for reading, every shard checked.

    Raises:
        StoreError: there are none, they are not finished, or a shard is damaged.
    """
    folder = Path(folder)
    try:
        store = Store.read(folder)
    except FileNotFoundError:
        raise StoreError(f"{folder}: there are no embeddings here") from None
    damaged = store.drop_damaged()
    if damaged:
        named = ", ".join(store.file(shard).name for shard in damaged[:3])
        raise StoreError(f"{folder}: {len(damaged)} damaged shards ({named}); encode again to redo them")
    if store.unfinished:
        store[store.source.keys[0]]  # says so
    return store


@contextmanager
def writing(folder: Path, source: Source, overwrite: bool = True) -> Iterator[tuple[Store, list[int]]]:
    """The right to fill `folder` with the embeddings of `source`, for one process at a time.

    Finished shards of the same source stay, if they are intact; those of another source are removed.

    Args:
        overwrite: without it, embeddings of another source are refused instead of removed.

    Yields:
        the store and the shards that were damaged.

    Raises:
        StoreError: another run is writing there, or holds something that would have to be overwritten.
    """
    import filelock

    if folder.exists() and not folder.is_dir():
        raise StoreError(f"{folder}: is a file; name a folder for the embeddings")
    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder / "lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise StoreError(f"{folder}: another run is writing these embeddings; wait until it has ended") from None
    try:
        store, old, damaged = Store(folder, source, {}), _old_store(folder, overwrite), []
        if old is not None and old.source == source:
            store, damaged = old, old.drop_damaged()
        elif old is not None and not overwrite:
            raise StoreError(f"{folder}: holds embeddings of another {_difference(old.source, source)}")
        else:
            store.clear()
        yield store, damaged
    finally:
        lock.release()


def _old_store(folder: Path, overwrite: bool) -> Store | None:
    """What lies in a folder that is to be written; None: nothing, or a store that nobody can read.

    Another program's files are never taken for a store, whatever they are called.
    """
    try:
        return Store.read(folder)
    except (FileNotFoundError, StoreError) as error:
        for file in sorted(folder.iterdir()):
            if file.name != "lock" and not file.name.startswith(("shard-", MANIFEST)):
                raise StoreError(f"{folder}: holds {file.name}, no embeddings; name an empty folder") from None
        if isinstance(error, StoreError) and not overwrite:
            raise
    return None


def fingerprint_texts(texts: Sequence[str], languages: Sequence[str] | None = None) -> str:
    """SHA-256 of texts in their order, with their languages. Takes slices: the texts may lie on a disk."""
    digest = hashlib.sha256()
    for start in range(0, len(texts), 4096):
        part = texts[start : start + 4096]
        of = languages[start : start + 4096] if languages is not None else [""] * len(part)
        for text, language in zip(part, of, strict=True):
            raw = text.encode("utf-8", "surrogatepass")
            digest.update(f"{len(raw)} {language}\0".encode())
            digest.update(raw)
    return digest.hexdigest()


def _intact(file: Path, facts: dict[str, Any]) -> bool:
    try:
        return file.stat().st_size == facts["bytes"] and _digest(file) == facts["sha256"]
    except OSError:
        return False


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _difference(old: Source, new: Source) -> str:
    fields = [field.name for field in dataclasses.fields(Source)]
    changed = [name for name in fields if getattr(old, name) != getattr(new, name)]
    named = changed[0]
    if named in ("model", "corpus"):
        return named
    return f"{named} ({getattr(old, named)!r}, now {getattr(new, named)!r})"
