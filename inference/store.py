"""Embeddings of a corpus on disk, in checksummed shards that an interrupted run can resume.

    DIR/
      manifest.json                 the `StoreSpec`: model, texts and settings that the embeddings depend on
      HASH-shard-000000.chunk       a .npy file with a checksum behind it: (keys, rows, dim) float32
      lock                          held by the one run that may write

The shards are chunks of a `mose.utils.journal.Journal`, whose fingerprint is the spec. Readers map one shard into
memory at a time, so reading takes the memory of one shard, however many there are.
"""

import dataclasses
import io
import json
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np

from mose.utils.files import atomic_write_json
from mose.utils.journal import SUFFIX, Journal, JournalLockedError

FORMAT = 2
MANIFEST = "manifest.json"
_REMEDY = "Encode again, and allow overwriting (--overwrite)."
#: Files of a store, those of format 1 and unfinished ones included.
_OWN_NAMES = re.compile(rf"lock|{re.escape(MANIFEST)}.*|shard-.*|[0-9a-f]+-shard-\d+{re.escape(SUFFIX)}.*")


class StoreError(RuntimeError):
    """Embeddings on disk are missing, unfinished, damaged, locked, or made from something else."""


@dataclasses.dataclass(frozen=True)
class StoreSpec:
    """Everything that stored embeddings depend on. Equal specs give equal embeddings."""

    model: str  # fingerprint of weights and tokenizer
    corpus: str  # fingerprint of the texts in order, languages included
    settings: dict[str, Any]  # everything else, such as token limit and compute type; JSON-serializable
    keys: tuple[str, ...]  # names of the embeddings of each text: exits, or one model
    rows: int  # number of texts
    shard_rows: int  # texts per shard; the last shard may have fewer

    @property
    def shards(self) -> range:
        """Numbers of all shards."""
        return range(-(-self.rows // self.shard_rows))

    def span(self, shard: int) -> slice:
        """Return the rows of a shard."""
        return slice(shard * self.shard_rows, min((shard + 1) * self.shard_rows, self.rows))


class Store:
    """The shards of one corpus, from `open_store` for reading or `open_for_writing`. Can be pickled."""

    def __init__(self, folder: Path, spec: StoreSpec):
        self.folder, self.spec = folder, spec
        self.journal = Journal(folder, json.dumps(dataclasses.asdict(spec), sort_keys=True))

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Return the store that the manifest of `folder` describes, without checking its shards.

        Raises:
            FileNotFoundError: there is no manifest.
            StoreError: the manifest cannot be read.
        """
        file = folder / MANIFEST
        try:
            manifest = json.loads(file.read_text(encoding="utf-8"))
            if manifest["format"] != FORMAT:
                raise StoreError(f"{file}: format must be {FORMAT}, got {manifest['format']}. {_REMEDY}")
            return cls(folder, StoreSpec(**{**manifest["source"], "keys": tuple(manifest["source"]["keys"])}))
        except (ValueError, TypeError, KeyError) as error:
            raise StoreError(f"{file} is damaged: {error}. {_REMEDY}") from error

    @property
    def unfinished(self) -> list[int]:
        """Shards that have not been written."""
        return [shard for shard in self.spec.shards if not self.file(shard).exists()]

    def file(self, shard: int) -> Path:
        """Return the path of a shard."""
        return self.journal.path(_shard_key(shard))

    def write(self, shard: int, embeddings: np.ndarray) -> None:
        """Write the embeddings of a shard, (keys, rows, dim) float32, completely or not at all."""
        with self.journal.write(_shard_key(shard)) as stream:
            # On a full disk, numpy's own way into a file fails with a count of bytes alone.
            content = io.BytesIO()
            np.save(content, np.ascontiguousarray(embeddings, dtype=np.float32), allow_pickle=False)
            stream.write(content.getbuffer())

    def damaged(self) -> list[int]:
        """Return the shards whose content does not match their checksum. Reads every shard."""
        # A file that the journal does not list as intact is damaged.
        intact = set(self.journal.keys())
        written = set(self.spec.shards) - set(self.unfinished)
        return sorted(shard for shard in written if _shard_key(shard) not in intact)

    def restart(self) -> None:
        """Delete every shard of the folder, and make it a store of this spec."""
        self.journal.clear()
        for file in self.folder.glob("shard-*.npy*"):  # written by format 1
            file.unlink()
        # Written last: until then the folder is a store of the old spec without shards.
        manifest = {"format": FORMAT, "source": dataclasses.asdict(self.spec)}
        atomic_write_json(self.folder / MANIFEST, manifest)

    def __getitem__(self, key: str) -> "Vectors":
        """Return the embeddings under a key.

        Raises:
            KeyError: there is no such key.
            StoreError: not all shards are finished.
        """
        if key not in self.spec.keys:
            raise KeyError(f"{self.folder} has no embeddings {key!r}. Use one of {', '.join(self.spec.keys)}.")
        if unfinished := self.unfinished:
            missing = f"{len(unfinished)} of {len(self.spec.shards)} shards are missing"
            raise StoreError(f"{self.folder}: {missing}. Run the same command again to resume.")
        return Vectors(tuple(map(self.file, self.spec.shards)), self.spec.keys.index(key), self.spec.rows)


@dataclasses.dataclass(frozen=True)
class Vectors:
    """Embeddings (rows, dim), float32, in shards that are memory-mapped one at a time."""

    files: tuple[Path, ...]
    index: int  # position of the key in every shard
    rows: int

    def __len__(self) -> int:
        return self.rows

    def blocks(self) -> Iterator[np.ndarray]:
        """Yield the rows of one shard after the other."""
        for file in self.files:
            yield np.load(file, mmap_mode="r")[self.index]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Return all rows in memory."""
        return np.concatenate(list(self.blocks())).astype(dtype or np.float32, copy=False)


def open_store(folder: str | Path) -> Store:
    """Return finished embeddings for reading, after checking every shard.

    Raises:
        StoreError: there are none, they are unfinished, or a shard is damaged.
    """
    folder = Path(folder)
    try:
        store = Store.read(folder)
    except FileNotFoundError:
        raise StoreError(f"{folder}: there are no embeddings here. Run `mose eval encode`.") from None

    if damaged := store.damaged():
        count = f"{len(damaged)} damaged shards ({', '.join(map(_shard_key, damaged[:3]))})"
        raise StoreError(f"{folder}: {count}. Run the same command again to replace them.")

    store[store.spec.keys[0]]  # raises if shards are missing
    return store


@contextmanager
def open_for_writing(folder: Path, spec: StoreSpec, overwrite: bool = True) -> Iterator[tuple[Store, int]]:
    """Lock `folder` and yield its store, with the number of damaged shards that were deleted.

    Intact shards with the same spec are kept; those with another one are deleted.

    Args:
        folder: created if missing.
        spec: what the embeddings will depend on.
        overwrite: if False, refuse to delete embeddings with another spec.

    Raises:
        StoreError: another run is writing to the folder, or it holds something that must not be deleted.
    """
    if folder.exists() and not folder.is_dir():
        raise StoreError(f"{folder} is a file. Name a folder for the embeddings.")

    with ExitStack() as stack:
        try:
            stack.enter_context(Journal(folder).lock())
        except JournalLockedError:
            raise StoreError(f"{folder}: another run is writing here. Wait until it has ended.") from None

        store, damaged = Store(folder, spec), 0
        previous = _previous_store(folder, overwrite)

        if previous is not None and previous.spec == spec:
            damaged = len(store.journal.drop_damaged())
        elif previous is not None and not overwrite:
            message = f"{folder} holds embeddings of another {_first_difference(previous.spec, spec)}"
            raise StoreError(f"{message}. Allow overwriting (--overwrite).")
        else:
            store.restart()
        yield store, damaged


def _shard_key(shard: int) -> str:
    return f"shard-{shard:06d}"


def _previous_store(folder: Path, overwrite: bool) -> Store | None:
    """Return the store in a folder that is about to be written, or None if it has none that can be read."""
    try:
        return Store.read(folder)
    except (FileNotFoundError, StoreError) as error:
        # Never take another program's files for a damaged store, whatever the name of its manifest.
        for name in sorted(file.name for file in folder.iterdir()):
            if not _OWN_NAMES.fullmatch(name):
                message = f"{folder} holds {name}, which is no embeddings file. Name an empty folder."
                raise StoreError(message) from None
        if isinstance(error, StoreError) and not overwrite:
            raise
    return None


def _first_difference(old: StoreSpec, new: StoreSpec) -> str:
    names = (field.name for field in dataclasses.fields(StoreSpec))
    name = next(name for name in names if getattr(old, name) != getattr(new, name))
    if name in ("model", "corpus"):
        return name  # the fingerprints would say nothing to a reader
    return f"{name} ({getattr(old, name)!r}, now {getattr(new, name)!r})"
