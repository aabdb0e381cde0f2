"""A search index on disk: complete generations behind one pointer, and a journal of finished embeddings.

    PATH/
      CURRENT              name of the generation that readers open, replaced in one step
      generation-000002/   units/ (a `datasets` dataset), vectors.faiss, bm25/, meta.json
      journal/             embeddings of a build that has not finished
      lock                 held by the one build that may write

A build writes a new generation beside the old one, flushes it to disk, and only then moves the pointer. Readers
see the old index or the new one, never a mixture, even if the build is killed. Embeddings of a killed build stay
in the journal, and the next build reuses them. Heavy libraries are imported inside the functions that need them,
so that a missing index is reported at once.
"""

import dataclasses
import hashlib
import io
import json
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mose.utils.files import PARTIAL_SUFFIX, atomic_folder, atomic_write_text
from mose.utils.journal import Journal, JournalLockedError

if TYPE_CHECKING:
    import datasets

    from mose.inference.bm25 import BM25

FORMAT = 3
#: Default of `Meta.max_length`.
MAX_LENGTH = 512
_POINTER = "CURRENT"
_GENERATION = re.compile(r"generation-\d+")
_OWN_NAMES = re.compile(rf"(?:{_POINTER}|generation-\d+)(?:{re.escape(PARTIAL_SUFFIX)})?|journal|lock")


class SearchIndexError(RuntimeError):
    """An index is missing, damaged or locked, or another model or exit created it."""


class Entry(NamedTuple):
    """One indexed unit. The fields are columns of the dataset, which has `embedding` besides."""

    path: str  # relative to the indexed tree, with forward slashes
    kind: str  # one of `mose.data.source.units.KINDS`
    name: str
    qualified_name: str
    language: str
    start_line: int  # 1-based; the last line is part of the unit
    end_line: int
    source: str

    @property
    def text(self) -> str:
        """Text for the model and BM25: a line of path and qualified name, and the source."""
        return f"{self.path} {self.qualified_name}\n{self.source}"

    @property
    def key(self) -> str:
        """Hash of what the embedding depends on, within one embedding space."""
        return hashlib.sha256(f"{self.language}\0{self.text}".encode()).hexdigest()


@dataclasses.dataclass(frozen=True)
class Meta:
    """The description of an index, stored as `meta.json`."""

    format: int
    model: str  # folder or Hub id, for messages only; `fingerprint` identifies the weights
    fingerprint: str
    exit_layer: int
    max_length: int  # tokens of a unit that the model reads, prompt included
    units: int
    dim: int
    root: str
    files: dict[str, str]  # path -> SHA-256 of its content
    skipped: list[str]  # files that could not be parsed

    @property
    def space(self) -> str:
        """Name of the index's embedding space. Within one space, equal units have equal embeddings."""
        parts = (FORMAT, self.fingerprint, self.exit_layer, self.max_length)
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


@dataclasses.dataclass(frozen=True)
class Generation:
    """An index read from disk. Row i of every part belongs to unit i."""

    meta: Meta
    units: "datasets.Dataset"  # memory-mapped, with a FAISS index attached to the column `embedding`
    bm25: "BM25"

    @property
    def vectors(self) -> Any:
        """The `faiss.IndexFlatIP` over the embeddings."""
        return self.units.get_index("embedding").faiss_index

    def entries(self) -> list[Entry]:
        """Return all units."""
        columns = self.units.select_columns(list(Entry._fields))[:]
        return [Entry(*row) for row in zip(*(columns[name] for name in Entry._fields), strict=True)]

    def embeddings(self) -> dict[str, np.ndarray]:
        """Return key -> embedding (dim,) of every unit."""
        vectors = self.vectors.reconstruct_n(0, len(self.units))
        return {entry.key: vector for entry, vector in zip(self.entries(), vectors, strict=True)}


def read_meta(path: Path) -> tuple[Path, Meta]:
    """Return the folder and the description of the current generation, without heavy imports.

    Raises:
        SearchIndexError: there is no finished index, or it cannot be read.
    """
    folder = _current_folder(path)
    return folder, _parse_meta(path, folder)


def read_generation(path: Path) -> Generation:
    """Return the current generation of the index at `path`.

    Raises:
        SearchIndexError: there is none, or its parts are missing, truncated or inconsistent.
    """
    folder = _current_folder(path)
    try:
        return _read_parts(path, folder)
    except SearchIndexError:
        if _current_folder(path) == folder:
            raise
        return read_generation(path)  # a build that has just finished replaced this generation


def _read_parts(path: Path, folder: Path) -> Generation:
    import datasets
    import pyarrow

    from mose.inference.bm25 import BM25

    meta = _parse_meta(path, folder)
    try:
        units = datasets.load_from_disk(str(folder / "units"))
        units.load_faiss_index("embedding", str(folder / "vectors.faiss"))
        generation = Generation(meta, units, BM25.load(folder / "bm25"))
        rows, dim = generation.vectors.ntotal, generation.vectors.d
    except (OSError, EOFError, ValueError, KeyError, RuntimeError, pyarrow.ArrowException) as error:
        raise _damaged(path, str(error)) from error

    if not meta.units == len(units) == len(generation.bm25) == rows or meta.dim != dim:
        raise _damaged(path, f"{meta.units} units, {len(units)} rows, {rows} × {dim} vectors")
    return generation


def _parse_meta(path: Path, folder: Path) -> Meta:
    try:
        fields = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        if fields["format"] != FORMAT:
            raise SearchIndexError(
                f"{path}: format must be {FORMAT}, got {fields['format']}; run: {_remedy(path)}"
            )
        return Meta(**fields)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise _damaged(path, f"meta.json: {error}") from error


def _current_folder(path: Path) -> Path:
    try:
        name = (path / _POINTER).read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        raise SearchIndexError(f"{path}: there is no finished index here; run: {_remedy(path)}") from None
    except (OSError, ValueError) as error:
        raise _damaged(path, f"{_POINTER}: {error}") from error

    # Never follow a pointer out of the index.
    if not _GENERATION.fullmatch(name):
        raise _damaged(path, f"{_POINTER} names {name!r}")
    return path / name


def _damaged(path: Path, reason: str) -> SearchIndexError:
    return SearchIndexError(f"{path}: the index is damaged ({reason}); to rebuild it, run: {_remedy(path)}")


def _remedy(path: Path) -> str:
    return f"python -m mose.search index DIR --index {path}"


@contextmanager
def index_writer(path: Path) -> Iterator["IndexWriter"]:
    """Lock the index at `path`, which is created if missing, and yield its writer.

    Raises:
        ValueError: `path` exists and is not an index.
        SearchIndexError: another build holds the lock.
    """
    if path.exists() and not path.is_dir():
        raise ValueError(f"index path {path} is a file. Name a folder.")
    for name in sorted(file.name for file in path.iterdir()) if path.exists() else ():
        if not _OWN_NAMES.fullmatch(name):
            raise ValueError(f"index path {path} is no index: it contains {name}. Name an empty or new folder.")

    with ExitStack() as stack:
        try:
            stack.enter_context(Journal(path).lock())
        except JournalLockedError:
            raise SearchIndexError(f"{path}: another build is writing this index. Wait until it ends.") from None
        yield IndexWriter(path)


class IndexWriter:
    """A writer of generations and of the journal, from `index_writer`, which holds the lock."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def journalled(self, space: str) -> dict[str, np.ndarray]:
        """Return key -> embedding (dim,) of the units that killed builds have embedded in a space."""
        journal = Journal(self._path / "journal", space)
        embeddings: dict[str, np.ndarray] = {}
        chunks = journal.keys()  # a damaged chunk is missing, so it is computed again

        for chunk in chunks:
            with np.load(io.BytesIO(journal.read(chunk)), allow_pickle=False) as arrays:
                embeddings.update(zip(arrays["keys"].astype(str).tolist(), arrays["embeddings"], strict=True))
        return embeddings

    def journal(self, space: str, keys: Sequence[str], embeddings: np.ndarray) -> None:
        """Keep one chunk of finished embeddings, (keys, dim) float32: completely or not at all."""
        chunk = hashlib.sha256("".join(keys).encode()).hexdigest()[:16]
        with Journal(self._path / "journal", space).write(chunk) as stream:
            np.savez(stream, keys=np.array(keys, dtype="S"), embeddings=embeddings)

    def commit(self, meta: Meta, entries: Sequence[Entry], embeddings: np.ndarray) -> None:
        """Write a new generation, make it the current one, and delete the generation it replaces.

        Args:
            meta: `meta.units` and `meta.dim` are the shape of `embeddings`.
            entries: the units, in the order of the rows.
            embeddings: (units, dim) float32, rows of unit norm.
        """
        import datasets
        import faiss
        import pyarrow

        from mose.inference.bm25 import BM25

        columns = dict(zip(Entry._fields, map(list, zip(*entries, strict=True)), strict=True))
        vectors = pyarrow.FixedSizeListArray.from_arrays(embeddings.reshape(-1), embeddings.shape[1])
        units = datasets.Dataset(pyarrow.table({**columns, "embedding": vectors}))

        # A killed build may have left a later generation than the current one.
        numbers = [int(old.name.rpartition("-")[2]) for old in self._generations()]
        target = self._path / f"generation-{max(numbers, default=0) + 1:06d}"
        with atomic_folder(target) as folder:
            units.save_to_disk(str(folder / "units"))
            units.add_faiss_index("embedding", custom_index=faiss.IndexFlatIP(embeddings.shape[1]))
            units.save_faiss_index("embedding", str(folder / "vectors.faiss"))
            BM25([entry.text for entry in entries]).save(folder / "bm25")
            (folder / "meta.json").write_text(json.dumps(dataclasses.asdict(meta), indent=1), encoding="utf-8")

        # Readers see the new generation from here on.
        atomic_write_text(self._path / _POINTER, target.name)
        self.tidy()

    def tidy(self) -> None:
        """Delete everything that finished and killed builds leave behind: other generations and the journal."""
        current, _ = read_meta(self._path)
        old = [generation for generation in self._generations() if generation != current]
        for folder in [*old, *self._path.glob(f"generation-*{PARTIAL_SUFFIX}"), self._path / "journal"]:
            shutil.rmtree(folder, ignore_errors=True)

    def _generations(self) -> list[Path]:
        return [folder for folder in self._path.iterdir() if _GENERATION.fullmatch(folder.name)]
