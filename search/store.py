"""How a search index lies on disk: whole generations behind one pointer, and a journal of finished work.

    PATH/
      CURRENT              the name of the generation that readers open, replaced in one step
      generation-000002/   functions/ (a `datasets` dataset), vectors.faiss, bm25/, meta.json
      journal/             embeddings of a build that has not ended yet
      lock                 held by the one build that may write

A build writes a new generation beside the old one, flushes it to the disk and only then moves the pointer: a
reader sees the old index or the new one, never a mixture, whatever kills the build. What the killed build had
embedded stays in the journal, and the next build takes it from there. This module knows nothing of how a
query is answered; heavy libraries are imported where they are used, so that a missing index is reported at once.
"""

import dataclasses
import hashlib
import json
import re
import shutil
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mose.utils.files import PARTIAL_SUFFIX, atomic_write, fsync

if TYPE_CHECKING:
    import datasets

    from mose.inference.bm25 import BM25

FORMAT = 1
_GENERATION = re.compile(r"generation-\d+")
_OURS = {"CURRENT", f"CURRENT{PARTIAL_SUFFIX}", "journal", "lock"}


class SearchIndexError(RuntimeError):
    """The index is missing, damaged, locked, or made by another model or exit than the one at hand."""


class Entry(NamedTuple):
    """One indexed function; the fields are the dataset's columns, beside `embedding`."""

    path: str  # relative to the indexed tree, with forward slashes
    name: str
    language: str
    start_line: int  # 1-based; both ends are part of the function
    end_line: int
    source: str

    @property
    def key(self) -> str:
        """What the embedding depends on, within one space."""
        return hashlib.sha256(f"{self.language}\0{self.source}".encode()).hexdigest()


@dataclasses.dataclass(frozen=True)
class Meta:
    """What an index was made from, as `meta.json` keeps it."""

    format: int
    model: str  # folder or Hub id, as information only: `fingerprint` is what decides
    fingerprint: str
    exit_layer: int
    max_length: int
    functions: int
    dim: int
    root: str
    files: dict[str, str]  # path -> SHA-256 of its content
    skipped: list[str]  # files that could not be parsed

    @property
    def space(self) -> str:
        return space_of(self.fingerprint, self.exit_layer, self.max_length)


def space_of(model_fingerprint: str, exit_layer: int, max_length: int) -> str:
    """Names a space of embeddings: within it, equal functions have equal embeddings."""
    parts = (FORMAT, model_fingerprint, exit_layer, max_length)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


@dataclasses.dataclass(frozen=True)
class Generation:
    """An index read from the disk. Row i of everything is function i."""

    meta: Meta
    functions: "datasets.Dataset"  # memory-mapped; its FAISS index is attached to the column `embedding`
    bm25: "BM25"

    @property
    def vectors(self) -> Any:
        """The `faiss.IndexFlatIP` over the embeddings."""
        return self.functions.get_index("embedding").faiss_index

    def entries(self) -> list[Entry]:
        columns = self.functions.select_columns(list(Entry._fields))[:]
        return [Entry(*row) for row in zip(*(columns[name] for name in Entry._fields), strict=True)]

    def embeddings(self) -> dict[str, np.ndarray]:
        """Key -> embedding (dim,) of every function."""
        vectors = self.vectors.reconstruct_n(0, len(self.functions))
        return {entry.key: vector for entry, vector in zip(self.entries(), vectors, strict=True)}


def read_meta(path: Path) -> tuple[Path, Meta]:
    """The folder of the current generation and its meta data, without importing anything heavy.

    Raises `SearchIndexError` where there is no finished index, or none that can be read.
    """
    folder = _current(path)
    return folder, _meta(path, folder)


def _meta(path: Path, folder: Path) -> Meta:
    try:
        fields = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        if fields["format"] != FORMAT:
            found = f"the index has format {fields['format']}, this version reads {FORMAT}"
            raise SearchIndexError(f"{path}: {found}; run: {_remedy(path)}")
        return Meta(**fields)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise _damaged(path, f"meta.json: {error}") from error


def read(path: Path) -> Generation:
    """Opens the current generation of the index at `path`.

    Raises `SearchIndexError` where there is none, or where its parts are missing, cut off or do not agree.
    """
    import datasets
    import pyarrow

    from mose.inference.bm25 import BM25

    folder = _current(path)
    try:
        meta = _meta(path, folder)
        try:
            functions = datasets.load_from_disk(str(folder / "functions"))
            functions.load_faiss_index("embedding", str(folder / "vectors.faiss"))
            generation = Generation(meta, functions, BM25.load(folder / "bm25"))
            rows, dim = generation.vectors.ntotal, generation.vectors.d
        except (OSError, ValueError, KeyError, RuntimeError, pyarrow.ArrowException) as error:
            raise _damaged(path, str(error)) from error
        if not meta.functions == len(functions) == len(generation.bm25) == rows or meta.dim != dim:
            raise _damaged(path, f"{meta.functions} functions, {len(functions)} rows, {rows} × {dim} vectors")
        return generation
    except SearchIndexError:
        if _current(path) != folder:  # a build that ended meanwhile has taken it away and left a newer one
            return read(path)
        raise


def _current(path: Path) -> Path:
    try:
        name = (path / "CURRENT").read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        raise SearchIndexError(f"{path}: there is no finished index here; run: {_remedy(path)}") from None
    except (OSError, ValueError) as error:
        raise _damaged(path, f"CURRENT: {error}") from error
    if not _GENERATION.fullmatch(name):
        raise _damaged(path, f"CURRENT names {name!r}")
    return path / name


def _damaged(path: Path, why: str) -> SearchIndexError:
    return SearchIndexError(f"{path}: the index is damaged ({why}); to build it again, run: {_remedy(path)}")


def _remedy(path: Path) -> str:
    return f"python -m mose.search index DIR --index {path}"


@contextmanager
def writing(path: Path) -> Iterator["Writer"]:
    """The right to replace the index at `path`, for one process at a time; it ends with the process.

    Raises ValueError where `path` is something else than an index, `SearchIndexError` where a build is running.
    """
    import filelock

    if path.exists() and not path.is_dir():
        raise ValueError(f"index path {path}: is a file; give a folder")
    for name in sorted(file.name for file in path.iterdir()) if path.exists() else ():
        if name not in _OURS and not _GENERATION.fullmatch(name):
            raise ValueError(f"index path {path}: is no index, it holds {name}; give an empty or a new folder")
    path.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(path / "lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise SearchIndexError(f"{path}: another build is writing this index; wait until it has ended") from None
    try:
        yield Writer(path)
    finally:
        lock.release()


class Writer:
    """Writes generations and the journal; obtained from `writing`, which holds the lock."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._journal = path / "journal"

    def journalled(self, space: str) -> dict[str, np.ndarray]:
        """Text key -> embedding (dim,), as far as a build that was killed had come in this space."""
        found: dict[str, np.ndarray] = {}
        for file in sorted(self._journal.glob(f"{space}-*.npz")):
            try:
                with np.load(file, allow_pickle=False) as chunk:
                    found.update(zip(chunk["keys"].astype(str).tolist(), chunk["embeddings"], strict=True))
            except (OSError, ValueError, KeyError, zipfile.BadZipFile):
                file.unlink()  # the disk lost it; it is computed again
        return found

    def journal(self, space: str, keys: Sequence[str], embeddings: np.ndarray) -> None:
        """Keeps one chunk of finished work: on the disk as a whole, or not at all."""
        self._journal.mkdir(exist_ok=True)
        name = hashlib.sha256("".join(keys).encode()).hexdigest()[:16]
        with atomic_write(self._journal / f"{space}-{name}.npz") as file:
            np.savez(file, keys=np.array(keys, dtype="S"), embeddings=embeddings)

    def commit(self, meta: Meta, entries: Sequence[Entry], embeddings: np.ndarray) -> None:
        """Writes a new generation, makes it the current one, and clears away what it replaces.

        Args:
            meta: `meta.functions` and `meta.dim` are the shape of `embeddings`.
            entries: the functions, in the order of the rows.
            embeddings: (functions, dim) float32, unit norm.
        """
        import datasets
        import faiss
        import pyarrow

        from mose.inference.bm25 import BM25

        numbers = [int(old.name.rpartition("-")[2]) for old in self._generations()]
        folder = self._path / f"generation-{max(numbers, default=0) + 1:06d}"
        folder.mkdir()
        columns = dict(zip(Entry._fields, map(list, zip(*entries, strict=True)), strict=True))
        vectors = pyarrow.FixedSizeListArray.from_arrays(embeddings.reshape(-1), embeddings.shape[1])
        functions = datasets.Dataset(pyarrow.table({**columns, "embedding": vectors}))
        functions.save_to_disk(str(folder / "functions"))
        functions.add_faiss_index("embedding", custom_index=faiss.IndexFlatIP(embeddings.shape[1]))
        functions.save_faiss_index("embedding", str(folder / "vectors.faiss"))
        BM25([entry.source for entry in entries]).save(folder / "bm25")
        (folder / "meta.json").write_text(json.dumps(dataclasses.asdict(meta), indent=1), encoding="utf-8")
        for part in [*folder.rglob("*"), folder, self._path]:
            fsync(part)
        with atomic_write(self._path / "CURRENT") as file:
            file.write(folder.name.encode())
        self.tidy()

    def tidy(self) -> None:
        """Clears away what finished and killed builds leave behind: other generations and the journal."""
        current, _ = read_meta(self._path)
        for old in self._generations():
            if old != current:
                shutil.rmtree(old, ignore_errors=True)
        shutil.rmtree(self._journal, ignore_errors=True)

    def _generations(self) -> list[Path]:
        return [folder for folder in self._path.iterdir() if _GENERATION.fullmatch(folder.name)]
