"""A version of an index in memory, read from disk and checked."""

import dataclasses
import json
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import pyarrow as pa

from mose.search.digests import row_digests, total_digest
from mose.search.lexical import TermTable
from mose.search.neighbours import Neighbours, open_neighbours
from mose.search.ranking.catalogue import Catalogue
from mose.search.records import FORMAT, Entry, FileRecord, Meta, record_key
from mose.search.store import (
    ABOUT,
    FILE_ROW,
    FORMAT_KEY,
    META_ROW,
    Location,
    SearchIndexError,
    described_by,
    open_table,
    read_meta,
    reading,
)

if TYPE_CHECKING:
    import lance

#: An index of more units leaves their sources on disk.
_MOST_IN_MEMORY = 100_000


class Units(Sequence[Entry]):
    """The units of a version. Names and places are in memory; sources are read when needed.

    Args:
        location: of the index.
        table: the open version.
        columns: the columns but the source, one row a unit.
        places: (units,) the rows of the table.
        roots: id of each tree -> its root.
    """

    def __init__(
        self,
        location: Location,
        table: "lance.LanceDataset",
        columns: pa.Table,
        places: np.ndarray,
        roots: dict[int, str],
    ):
        self._location, self._table, self._columns, self._places = location, table, columns, places
        self._roots = roots
        self._lists: dict[str, list[Any]] = {}
        self._sources: pa.StringArray | None = None
        self._reads = 0

    def __len__(self) -> int:
        return len(self._places)

    def column(self, name: str) -> list[Any]:
        """Return a field of all units; the root of each for "root"."""
        if name not in self._lists:
            if name == "source":
                return self.sources(range(len(self)))
            if name == "root":
                values = [self._roots[tree] for tree in self.column("tree")]
            else:
                values = _shared_values(self._columns.column(name))
            self._lists[name] = values
        return self._lists[name]

    def sources(self, rows: Sequence[int]) -> list[str]:
        """Return the source code of units, and check it.

        Raises:
            DamagedIndexError: it is not what was written.
        """
        return [unit.source for unit in self.take(rows)]

    def _read_sources(self, rows: list[int]) -> list[str]:
        """Return the sources of units as they are on disk, or in memory from the second time on."""
        self._reads += 1
        if self._reads > 1 and self._sources is None and len(self) <= _MOST_IN_MEMORY:
            self._sources = self._table.to_table(columns=["source"]).column("source").combine_chunks()
        if self._sources is not None:
            return [self._sources[place].as_py() for place in self._places[rows].tolist()]
        taken = self._table.take(self._places[rows].tolist(), columns=["source"])
        return taken.column("source").to_pylist()

    def take(self, rows: Sequence[int]) -> list[Entry]:
        """Return units, with their sources read and checked at once.

        Raises:
            DamagedIndexError: a source is not what was written.
        """
        if not len(rows):
            return []
        with reading(self._location):
            sources = self._read_sources(list(rows))
        units = [self._entry(row, source) for row, source in zip(rows, sources, strict=True)]
        keys = self.column("key")
        for row, unit in zip(rows, units, strict=True):
            if unit.key != keys[row]:
                raise self._location.damaged(f"the source of unit {row} does not have its digest")
        return units

    @overload
    def __getitem__(self, row: int) -> Entry: ...
    @overload
    def __getitem__(self, row: slice) -> list[Entry]: ...
    def __getitem__(self, row: int | slice) -> Entry | list[Entry]:
        if isinstance(row, slice):
            return self.take(range(len(self))[row])
        return self.take([range(len(self))[row]])[0]

    def _entry(self, row: int, source: str) -> Entry:
        fields = {name: self.column(name)[row] for name in Entry._fields if name != "source"}
        path: str = fields["path"]
        if path.startswith("/") or ".." in path.split("/"):
            raise SearchIndexError(f"the index is damaged: unit {row} is outside its tree, in {path}")
        return Entry(**fields, source=source)


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """A version of an index, read and checked. It never changes.

    Attributes:
        location: of the index.
        table: the version in Lance.
        meta: its description.
        units: the units.
        vectors: (units, dim) float32, rows of unit norm.
        terms: the terms of the units.
        records: what is known of each file, by the id of its tree and its path.
        addresses: (rows,) the place of each row in the table: all units first, then files by `records`.
        digests: (rows,) the digest of each row, in the same order.
        meta_address: the place of the description.
        neighbours: the graph of a large index; None if it has none.
        stamp: what tells the version from another one of the same number.
    """

    location: Location
    table: "lance.LanceDataset"
    meta: Meta
    units: Units
    vectors: np.ndarray
    terms: TermTable
    records: dict[tuple[int, str], FileRecord]
    addresses: np.ndarray
    digests: np.ndarray
    meta_address: int
    neighbours: Neighbours | None
    stamp: tuple[int, int] | None

    def __len__(self) -> int:
        return len(self.units)

    @property
    def version(self) -> int:
        """Number of the version."""
        return self.table.version

    def newer(self) -> "Snapshot | None":
        """Return the newest version if another has been written since this one, else None."""
        with reading(self.location):
            newest = self.table.latest_version
        # A rebuilt index counts its versions anew.
        is_same = newest == self.version and self.location.version_stamp(newest) == self.stamp
        return None if is_same else read_snapshot(self.location)

    @cached_property
    def catalogue(self) -> Catalogue:
        """Paths and names of the units, as ranking needs them. Row i is unit i."""
        names = ("name", "qualified_name", "kind", "start_line")
        return Catalogue(self.unique_paths, *(self.units.column(name) for name in names))

    @cached_property
    def unique_paths(self) -> list[str]:
        """The path of each unit; below the label of its tree if there are several trees."""
        paths: list[str] = self.units.column("path")
        if len(self.meta.trees) < 2:
            return paths
        labels = {tree.id: tree.label for tree in self.meta.trees}
        return [f"{labels[tree]}/{path}" for tree, path in zip(self.units.column("tree"), paths, strict=True)]

    @cached_property
    def rows_by_key(self) -> dict[bytes, int]:
        """Key -> a unit that has it. Units of one key have one embedding."""
        return {key: row for row, key in enumerate(self.units.column("key"))}


def read_snapshot(location: Location) -> Snapshot:
    """Return the newest version of an index, after checking that it is what was written.

    Raises:
        SearchIndexError: there is none, or one of another format.
        DamagedIndexError: it is damaged.
    """
    table = open_table(location)
    with reading(location):
        return _checked_snapshot(location, table)


def _checked_snapshot(location: Location, table: "lance.LanceDataset") -> Snapshot:
    stamp = location.version_stamp(table.version)
    rows, vectors = _read_rows(table)
    kinds = np.array(rows.column("kind").to_pylist(), object)
    is_meta, is_file = kinds == META_ROW, kinds == FILE_ROW
    meta = described_by(location, rows.filter(is_meta))
    if not table.schema.equals(table_schema(meta.dim)):
        raise location.damaged("its columns are not those of an index")

    unit_places, file_places = np.flatnonzero(~is_meta & ~is_file), np.flatnonzero(is_file)
    if vectors.shape != (len(unit_places), meta.dim):
        raise location.damaged(f"{len(vectors)} vectors for {len(unit_places)} units")

    order = np.concatenate([unit_places, file_places])
    columns = rows.drop_columns(["_rowaddr"])
    digests = row_digests(columns, vectors, unit_places)[order]
    if (meta.rows, meta.digest) != (len(order), total_digest(digests)):
        raise location.damaged("its rows do not have the digest that it states")

    units, files = _rows_at(columns, unit_places), _rows_at(columns, file_places)
    records = zip(*(files.column(name).to_pylist() for name in ("tree", "path", "record")), strict=True)
    addresses = rows.column("_rowaddr").to_numpy()
    neighbours = open_neighbours(location, table, addresses[unit_places])
    return Snapshot(
        location=location,
        table=table,
        meta=meta,
        units=Units(location, table, units, unit_places, {tree.id: tree.root for tree in meta.trees}),
        vectors=vectors,
        terms=_term_table(units),
        records={(tree, path): FileRecord(**json.loads(record)) for tree, path, record in records},
        addresses=addresses[order],
        digests=digests,
        meta_address=int(addresses[is_meta][0]),
        neighbours=neighbours,
        stamp=stamp,
    )


def _read_rows(table: "lance.LanceDataset") -> tuple[pa.Table, np.ndarray]:
    """Return the rows without sources and embeddings, and the embeddings, (units, dim) float32, read-only."""
    names = [name for name in table.schema.names if name != "source"]
    vectors = np.empty((table.count_rows(), table.schema.field("vector").type.list_size), np.float32)
    units, batches = 0, []
    for batch in table.to_batches(columns=names, with_row_address=True):
        # Embeddings of files and of the description are null, so the flat ones are those of units.
        flat = batch.column("vector").flatten().to_numpy(zero_copy_only=False).reshape(-1, vectors.shape[1])
        vectors[units : units + len(flat)] = flat
        units += len(flat)
        batches.append(batch.drop_columns(["vector"]))
    vectors.flags.writeable = False
    return pa.Table.from_batches(batches), vectors[:units]


def table_schema(dim: int) -> pa.Schema:
    """Return the columns of the table of an index with embeddings of a width."""
    return pa.schema(
        [
            ("tree", pa.int16()),
            ("path", pa.string()),
            ("kind", pa.string()),
            ("name", pa.string()),
            ("qualified_name", pa.string()),
            ("language", pa.string()),
            ("start_line", pa.int32()),
            ("end_line", pa.int32()),
            ("source", pa.string()),
            ("key", pa.binary(16)),
            ("record", pa.string()),
            ("terms", pa.list_(pa.uint32())),
            ("counts", pa.list_(pa.uint16())),
            ("vector", pa.list_(pa.float32(), dim)),
        ],
        metadata={FORMAT_KEY: str(FORMAT)},
    )


def _shared_values(column: pa.ChunkedArray) -> list[Any]:
    """Return a column as a list. Equal strings, of which there are many, are one object."""
    if not pa.types.is_string(column.type):
        return column.to_pylist()
    coded = column.combine_chunks().dictionary_encode()
    coded = coded.combine_chunks() if isinstance(coded, pa.ChunkedArray) else coded
    values = coded.dictionary.to_pylist()
    return [values[code] for code in coded.indices.to_pylist()]


def _rows_at(table: pa.Table, places: np.ndarray) -> pa.Table:
    """Return rows of a table, without a copy if they are one after the other."""
    if len(places) and places[-1] - places[0] == len(places) - 1:
        return table.slice(int(places[0]), len(places))
    return table.take(places)


def _term_table(units: pa.Table) -> TermTable:
    terms, counts = (units.column(name).combine_chunks() for name in ("terms", "counts"))
    offsets = terms.offsets.to_numpy()
    used = slice(int(offsets[0]), int(offsets[-1]))
    return TermTable(terms.values.to_numpy()[used], counts.values.to_numpy()[used], offsets - offsets[0])


def salvaged_meta(location: Location) -> Meta | None:
    """Return the description of a damaged index, from its table or from the copy beside that."""
    with suppress(SearchIndexError):
        return read_meta(location)
    if location.folder is None:
        return None
    try:
        fields = json.loads((location.folder / ABOUT).read_text(encoding="utf-8"))
        is_intact = record_key(fields["about"]).hex() == fields["key"]
        return Meta.from_json(fields["about"]) if is_intact else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
