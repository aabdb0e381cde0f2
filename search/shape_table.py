"""Which units have which sequences of tokens, so that code is found again even if its names have changed."""

import hashlib
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Self
from weakref import WeakKeyDictionary

import numpy as np

from mose.data.source.shapes import SHAPE_TOKENS, shape_of
from mose.search.progress import BuildProgress, progress_bar
from mose.utils.files import atomic_write
from mose.utils.locations import cache_folder

if TYPE_CHECKING:
    from mose.search.snapshot import Units

#: Tables kept in the user's cache folder. The oldest are deleted.
_KEPT_FILES = 16
#: Units whose sources are read at a time.
_CHUNK = 1024


class ShapeTable:
    """The shapes of units (`mose.data.source.shapes`) as an inverted index.

    Args:
        hashes: uint32, ascending: the sequences of all units.
        rows: int32, the unit of each.
        units: number of units.
    """

    def __init__(self, hashes: np.ndarray, rows: np.ndarray, units: int):
        self.hashes, self.rows, self._units = hashes, rows, units

    def __len__(self) -> int:
        """Return the number of units."""
        return self._units

    @classmethod
    def of_shapes(cls, shapes: Sequence[np.ndarray]) -> Self:
        """Return the table of units with these shapes, in their order."""
        lengths = [len(shape) for shape in shapes]
        hashes = np.concatenate([np.zeros(0), *shapes]).astype(np.uint32)
        rows = np.repeat(np.arange(len(shapes), dtype=np.int32), lengths)
        order = np.argsort(hashes, kind="stable")
        return cls(hashes[order], rows[order], len(shapes))

    def shares(self, shape: np.ndarray) -> np.ndarray:
        """Return which share of a shape's sequences each unit has, (units,) float32 in [0, 1]."""
        wanted = shape.astype(np.uint32)
        starts, ends = (np.searchsorted(self.hashes, wanted, side) for side in ("left", "right"))

        counts = np.zeros(len(self), np.float32)
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
            counts[self.rows[start:end]] += 1  # a unit has a sequence once
        return counts / max(len(wanted), 1)


#: The tables of the versions in use.
_TABLES: "WeakKeyDictionary[Units, ShapeTable]" = WeakKeyDictionary()


def shape_table(units: "Units", progress: BuildProgress = False) -> ShapeTable:
    """Return the table of an index's units: from memory, from the user's cache folder, or made anew.

    The file in the cache is named by what the units are, so it never has to be brought up to date.

    Args:
        units: of an index.
        progress: show a bar on stderr, or report to a function, if the table is made.
    """
    if units not in _TABLES:
        digest = hashlib.blake2b(b"".join(units.column("key")), digest_size=16)
        digest.update(f"{SHAPE_TOKENS} {len(units)}".encode())
        path = cache_folder() / "shapes" / f"{digest.hexdigest()}.npz"
        table = _cached_table(path, len(units))
        if table is None:
            table = _make_table(units, progress)
            # Without a cache, the next process makes the table again.
            with suppress(OSError):
                _keep_table(path, table)
        _TABLES[units] = table
    return _TABLES[units]


def _make_table(units: "Units", progress: BuildProgress) -> ShapeTable:
    languages = units.column("language")
    shapes: list[np.ndarray] = []
    with progress_bar(progress, total=len(units), desc="Structure", unit=" units") as bar:
        for start in range(0, len(units), _CHUNK):
            rows = range(start, min(start + _CHUNK, len(units)))
            sources = units.sources(rows)
            shapes += [shape_of(source, languages[row]) for row, source in zip(rows, sources, strict=True)]
            bar.update(len(rows))
    return ShapeTable.of_shapes(shapes)


def _cached_table(path: Path, units: int) -> ShapeTable | None:
    """Return a stored table; None if there is none, or it is damaged."""
    try:
        with np.load(path) as arrays:
            hashes, rows = arrays["hashes"], arrays["rows"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    fits = hashes.dtype == np.uint32 and rows.dtype == np.int32 and hashes.shape == rows.shape
    fits = fits and (not len(rows) or 0 <= rows.min() <= rows.max() < units)
    return ShapeTable(hashes, rows, units) if fits else None


def _keep_table(path: Path, table: ShapeTable) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as stream:
        np.savez(stream, hashes=table.hashes, rows=table.rows)

    stored = sorted(path.parent.glob("*.npz"), key=lambda file: file.stat().st_mtime)
    for old in stored[:-_KEPT_FILES]:
        old.unlink(missing_ok=True)
