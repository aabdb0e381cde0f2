"""Writing an index: one lock, one commit, and embeddings that survive a killed build."""

import datetime
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from mose.search.digests import row_digests, total_digest
from mose.search.lexical import TermCounter, flatten_counts
from mose.search.neighbours import LEAST_UNITS
from mose.search.records import Entry, FileRecord, Meta, record_key
from mose.search.snapshot import Snapshot, table_schema
from mose.search.store import (
    ABOUT,
    FILE_ROW,
    LOCK,
    META_ROW,
    OLD_GENERATIONS,
    OLD_POINTER,
    PENDING,
    TABLE,
    Location,
    SearchIndexError,
    import_lance,
    reading,
)
from mose.utils.files import PARTIAL_SUFFIX, atomic_write_text

#: Readers may go on with the version that they opened for so long after it was replaced.
KEEP_VERSIONS = datetime.timedelta(minutes=10)
#: More fragments than this are merged: each costs a little when the index is opened.
MAX_FRAGMENTS = 32
_OLD_NAMES = (OLD_POINTER, f"{OLD_POINTER}.partial", "journal")
_ROWS_AT_ONCE = 2048


class NewRows(NamedTuple):
    """Rows to add to an index.

    Attributes:
        trees: id of the tree of each unit.
        units: the units.
        vectors: (units, dim) float32, rows of unit norm.
        records: what is known of each file, by the id of its tree and its path.
    """

    trees: Sequence[int]
    units: Sequence[Entry]
    vectors: np.ndarray
    records: dict[tuple[int, str], FileRecord]


@contextmanager
def index_writer(location: Location, wait: float = 0.0) -> Iterator["IndexWriter"]:
    """Lock an index, which is created if missing, and yield its writer.

    An object store has no lock: of two writers there, the later one fails when it commits.

    Args:
        location: of the index.
        wait: seconds to wait for another writer.

    Raises:
        ValueError: there is something else than an index.
        SearchIndexError: another build holds the lock.
        OSError: the folder cannot be written.
    """
    folder = location.folder
    if folder is None:
        yield IndexWriter(location)
        return

    if folder.exists() and not folder.is_dir():
        raise ValueError(f"index path {folder} is a file. Name a folder.")
    for file in sorted(folder.iterdir()) if folder.exists() else ():
        if file.name not in {
            TABLE,
            PENDING,
            LOCK,
            ABOUT,
            f"{ABOUT}{PARTIAL_SUFFIX}",
            *_OLD_NAMES,
        } and not file.match(f"{OLD_GENERATIONS}"):
            raise ValueError(
                f"index path {folder} is no index: it contains {file.name}. Name an empty or new folder."
            )

    import filelock  # takes longer to import than a query has

    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        try:
            stack.enter_context(filelock.FileLock(folder / LOCK).acquire(timeout=wait))
        except filelock.Timeout:
            raise SearchIndexError(
                f"{folder}: another build is writing this index. Wait until it ends."
            ) from None
        yield IndexWriter(location)


class IndexWriter:
    """A writer, from `index_writer`, which holds the lock."""

    def __init__(self, location: Location):
        self._location = location

    def staged(self, space: str) -> dict[bytes, np.ndarray]:
        """Return key -> embedding (dim,) of the units that killed builds have embedded in a space."""
        staged: dict[bytes, np.ndarray] = {}
        with suppress(SearchIndexError), reading(self._location):  # what is damaged is computed again
            for batch in import_lance().dataset(self._location.table(PENDING)).to_batches():
                vectors = batch.column("vector").flatten().to_numpy().reshape(len(batch), -1)
                intact = row_digests(pa.table({"key": batch.column("key")}), vectors)
                rows = zip(*(batch.column(name).to_pylist() for name in ("space", "key", "digest")), strict=True)
                for (name, key, digest), vector, expected in zip(rows, vectors, intact.tolist(), strict=True):
                    if name == space and digest == expected:
                        staged[key] = vector
        return staged

    def stage(self, space: str, keys: Sequence[bytes], vectors: np.ndarray) -> None:
        """Keep finished embeddings, (keys, dim) float32: all of them or none."""
        key_column = pa.array(keys, pa.binary(len(keys[0])))
        digests = row_digests(pa.table({"key": key_column}), vectors)
        table = pa.table(
            {
                "space": pa.array([space] * len(keys)),
                "key": key_column,
                "digest": pa.array(digests),
                "vector": _vector_array(vectors, len(keys)),
            }
        )
        try:
            import_lance().write_dataset(table, self._location.table(PENDING), mode="append")
        except Exception:  # embeddings of another width or damage: nothing of it is of use
            import_lance().write_dataset(table, self._location.table(PENDING), mode="overwrite")

    def replace(self, meta: Meta, rows: NewRows, previous: Snapshot | None = None, damaged: bool = False) -> None:
        """Make `rows` the whole index, whatever it held.

        Args:
            meta: the description of the index.
            rows: all rows.
            previous: the newest version; None if there is none that can be read.
            damaged: delete the old files first, for a commit on top of them may be impossible.

        Raises:
            SearchIndexError: another process has written the index since.
        """
        lance, table = import_lance(), self._location.table()
        if damaged:
            self._delete(TABLE)

        batches = _Batches(meta, rows, table_schema(meta.dim))
        reader = pa.RecordBatchReader.from_batches(batches.schema, iter(batches))
        with self._writing():
            if previous is None:
                written = lance.write_dataset(reader, table, mode="create")
            else:
                fragments = lance.fragment.write_fragments(reader, table, mode="overwrite")
                operation = lance.LanceOperation.Overwrite(batches.schema, fragments)
                written = self._commit(previous, operation)
        self._tidy(written, meta)

    def update(self, previous: Snapshot, meta: Meta, removed: np.ndarray, rows: NewRows) -> None:
        """Remove rows of a version and add others, in one commit.

        Args:
            previous: the newest version.
            meta: its new description.
            removed: rows to remove, as positions in `previous.addresses`.
            rows: rows to add.

        Raises:
            SearchIndexError: another process has changed the index since.
        """
        lance = import_lance()
        digest = total_digest(np.delete(previous.digests, removed))
        batches = _Batches(meta, rows, table_schema(meta.dim), len(previous.digests) - len(removed), digest)
        reader = pa.RecordBatchReader.from_batches(batches.schema, iter(batches))
        with self._writing():
            added = lance.fragment.write_fragments(reader, previous.table)

        updated, gone = [], []
        addresses = np.append(previous.addresses[removed], np.uint64(previous.meta_address))
        for number in np.unique(addresses >> np.uint64(32)).tolist():
            fragment: Any = previous.table.get_fragment(number)
            places = addresses[addresses >> np.uint64(32) == number].tolist()
            with self._writing():
                left = fragment.delete(f"_rowaddr IN ({', '.join(map(str, places))})")
            if left is None:
                gone.append(number)
            else:
                updated.append(left)

        operation = lance.LanceOperation.Update(
            removed_fragment_ids=gone, updated_fragments=updated, new_fragments=added
        )
        self._tidy(self._commit(previous, operation), meta)

    def _commit(self, previous: Snapshot, operation: Any) -> Any:
        """Return the table after an operation, which fails if `previous` is not the newest version any more."""
        try:
            return import_lance().LanceDataset.commit(
                previous.table, operation, read_version=previous.version, max_retries=0
            )
        except Exception as error:
            message = f"{self._location.name}: another process has written this index meanwhile ({error})"
            raise SearchIndexError(f"{message}. Try again.") from error

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Report what an object store refuses as an error of search."""
        try:
            yield
        except (OSError, ValueError, RuntimeError) as error:
            if self._location.folder is not None or isinstance(error, SearchIndexError):
                raise
            reason = str(error).strip().partition("\n")[0][:300]
            raise SearchIndexError(f"{self._location.name}: cannot be written ({reason}). Try again.") from error

    def _delete(self, name: str) -> None:
        """Delete a table, if it is there."""
        folder = self._location.folder
        if folder is not None:
            shutil.rmtree(folder / name, ignore_errors=True)
            return
        with suppress(OSError, ValueError):
            import_lance().LanceDataset.drop(self._location.table(name), ignore_not_found=True)

    def _tidy(self, table: Any, meta: Meta) -> None:
        """Merge fragments if there are many, and delete what no reader needs any more."""
        with suppress(Exception):  # the commit is done: what fails here can be done by the next one
            if len(table.get_fragments()) > MAX_FRAGMENTS:
                # Large ones stay, for a graph of neighbours knows their rows by their places.
                table.optimize.compact_files(
                    target_rows_per_fragment=LEAST_UNITS // 2, materialize_deletions_threshold=0.5
                )
            # Files of another writer, who has not committed yet, are no leftovers. The lock keeps others out.
            is_locked = self._location.folder is not None
            table.cleanup_old_versions(older_than=KEEP_VERSIONS, delete_unverified=is_locked)

        self._delete(PENDING)
        folder = self._location.folder
        if folder is not None:
            text = meta.to_json()
            atomic_write_text(folder / ABOUT, json.dumps({"about": text, "key": record_key(text).hex()}))
            for old in [*folder.glob(OLD_GENERATIONS), folder / "journal"]:
                shutil.rmtree(old, ignore_errors=True)
            for name in _OLD_NAMES[:2]:
                (folder / name).unlink(missing_ok=True)


class _Batches:
    """The batches of new rows. The description comes last, with the digest of all rows before it.

    Args:
        meta: the description but for its digest.
        rows: the rows.
        schema: of the table.
        kept_rows: number of rows that stay.
        kept_digest: sum of their digests.
    """

    def __init__(self, meta: Meta, rows: NewRows, schema: pa.Schema, kept_rows: int = 0, kept_digest: int = 0):
        self.meta, self.rows, self.schema = meta, rows, schema
        self.kept_rows, self.digest = kept_rows, kept_digest
        self._counter = TermCounter()

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        digest = self.digest
        for start in range(0, len(self.rows.units), _ROWS_AT_ONCE):
            table, vectors = self._units(slice(start, start + _ROWS_AT_ONCE))
            digest += total_digest(row_digests(table.drop_columns(["source", "vector"]), vectors))
            yield from table.to_batches()

        if self.rows.records:
            table = self._files()
            digest += total_digest(
                row_digests(table.drop_columns(["source", "vector"]), np.zeros((0, 0), np.float32))
            )
            yield from table.to_batches()

        rows = self.kept_rows + len(self.rows.units) + len(self.rows.records)
        text = self.meta.with_digest(rows, digest % 2**64).to_json()
        yield from self._table(tree=[-1], kind=[META_ROW], record=[text], key=[record_key(text)]).to_batches()

    def _units(self, part: slice) -> tuple[pa.Table, np.ndarray]:
        units, vectors = self.rows.units[part], np.ascontiguousarray(self.rows.vectors[part], np.float32)
        terms, counts, offsets = flatten_counts([self._counter.count(unit.text) for unit in units])
        fields = ("path", "kind", "name", "qualified_name", "language", "start_line", "end_line", "source", "key")
        columns: dict[str, Any] = {name: [getattr(unit, name) for unit in units] for name in fields}
        columns["terms"] = pa.ListArray.from_arrays(offsets, pa.array(terms))
        columns["counts"] = pa.ListArray.from_arrays(offsets, pa.array(counts))
        columns["vector"] = _vector_array(vectors, len(units))
        return self._table(tree=self.rows.trees[part], **columns), vectors

    def _files(self) -> pa.Table:
        places, records = self.rows.records.keys(), self.rows.records.values()
        return self._table(
            tree=[tree for tree, _ in places],
            kind=[FILE_ROW] * len(places),
            path=[path for _, path in places],
            record=[record.to_json() for record in records],
        )

    def _table(self, **columns: Any) -> pa.Table:
        """Return rows of the schema; columns that are not given are empty."""
        rows = len(columns["tree"])
        empty: dict[str, Any] = {
            "tree": 0,
            "start_line": 0,
            "end_line": 0,
            "key": bytes(16),
            "terms": [],
            "counts": [],
            "vector": None,
        }

        arrays = [columns.get(field.name, [empty.get(field.name, "")] * rows) for field in self.schema]
        return pa.table(
            [
                array if isinstance(array, pa.Array) else pa.array(array, field.type)
                for array, field in zip(arrays, self.schema, strict=True)
            ],
            schema=self.schema,
        )


def _vector_array(vectors: np.ndarray, rows: int) -> pa.Array:
    flat = pa.array(np.ascontiguousarray(vectors, np.float32).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1] if rows else 1)
