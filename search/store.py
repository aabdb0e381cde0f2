"""An index on disk: one Lance table, whose commits are atomic versions.

    PATH/
      units.lance/     the table; readers keep the version that they opened, whatever writers do
      pending.lance/   embeddings of a long build that has not finished
      about.json       the description once more, for an index that is damaged
      lock             held by the one process that may write

PATH is a folder, or a URI of an object store such as `s3://bucket/index`. Rows are of three kinds: units; one
record for each file, with its digest and what to compare before reading it again; and one row that describes the
index. So all of them change in one commit, or none does. Every version states the digest of its rows, which is
checked when it is opened. Lance is the format and engine of LanceDB, which opens the same table, but takes a
second to import.
"""

import dataclasses
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mose.search.records import FORMAT, Meta, record_key

if TYPE_CHECKING:
    import lance
    import pyarrow

TABLE, PENDING, LOCK, ABOUT = "units.lance", "pending.lance", "lock", "about.json"
#: Kinds of rows that are no units. No kind of unit has such a name.
FILE_ROW, META_ROW = "@file", "@index"
FORMAT_KEY = "mose.search.format"
#: Files by which an index of one of the formats before Lance is known.
OLD_POINTER, OLD_GENERATIONS = "CURRENT", "generation-*"
#: How the client of an object store reports a store that it cannot use, rather than what is in it.
_STORE_TROUBLE = re.compile(r"Generic \w+ error[^\n]*|The operation lacked[^\n]*|[Nn]o \w*credentials[^\n]*")


class SearchIndexError(RuntimeError):
    """An index is missing, damaged or locked, or another model or exit created it."""


class DamagedIndexError(SearchIndexError):
    """The files of an index are not as they were written."""


class MissingIndexError(SearchIndexError):
    """There is no finished index."""


class OtherFormatError(SearchIndexError):
    """Another version of MoSE wrote the index, in a format of its own."""


@dataclasses.dataclass(frozen=True)
class Location:
    """The place of an index: a folder, or a URI of an object store.

    Args:
        name: as the user wrote it.
    """

    name: str

    @property
    def folder(self) -> Path | None:
        """The folder; None for an object store."""
        return None if "://" in self.name else Path(self.name)

    def table(self, name: str = TABLE) -> str:
        """Return the URI of a table of the index."""
        return f"{self.name.rstrip('/')}/{name}" if self.folder is None else str(self.folder.resolve() / name)

    def version_stamp(self, version: int) -> tuple[int, int] | None:
        """Return what tells a version from another one of the same number, after a rebuild; None if unknown."""
        if self.folder is None:
            return None
        for name in (
            f"{2**64 - 1 - version:020}",
            str(version),
        ):  # Lance's two ways to name the file of a version
            with suppress(OSError):
                state = (self.folder / TABLE / "_versions" / f"{name}.manifest").stat()
                return state.st_ino, state.st_mtime_ns
        return None

    def exists(self) -> bool:
        """Return whether anything of an index is there. Object stores are not asked."""
        return self.folder is not None and any((self.folder / name).exists() for name in (TABLE, OLD_POINTER))

    def check(self) -> None:
        """Check that there is an index. Object stores are not asked.

        Raises:
            SearchIndexError: there is none, or one of a format before Lance.
        """
        folder = self.folder
        if folder is None or (folder / TABLE).is_dir():
            return
        if (folder / OLD_POINTER).exists() or (folder.is_dir() and any(folder.glob(OLD_GENERATIONS))):
            reason = f"an older version of MoSE wrote this index (format {FORMAT} is read)"
            raise OtherFormatError(f"{self.name}: {reason}; to rebuild it, run: {self.remedy}")
        raise _missing(self)

    def old_root(self) -> str:
        """Return the tree of an index of a format before Lance; "" if there is none, or it cannot be told."""
        try:
            files = sorted(self.folder.glob(f"{OLD_GENERATIONS}/meta.json")) if self.folder else []
            return str(json.loads(files[-1].read_text(encoding="utf-8"))["root"]) if files else ""
        except (OSError, ValueError, KeyError, TypeError):
            return ""

    @property
    def remedy(self) -> str:
        """The command that rebuilds the index."""
        return f"python -m mose.search index DIR --index {self.name}"

    def damaged(self, reason: object) -> DamagedIndexError:
        """Return the error of a damaged index."""
        lines = str(reason).strip().splitlines()
        text = (lines[0] if lines else type(reason).__name__)[:300]
        return DamagedIndexError(f"{self.name}: the index is damaged ({text}); to rebuild it, run: {self.remedy}")


@contextmanager
def reading(location: Location) -> Iterator[None]:
    """Turn whatever Lance raises about files that it cannot read into a `DamagedIndexError`."""
    try:
        yield
    except (SearchIndexError, PermissionError, KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError):
        raise
    except BaseException as error:  # a panic of Lance is no Exception
        if location.folder is None and (trouble := _STORE_TROUBLE.search(str(error))):
            # What cannot be reached is not damaged, and must not be rebuilt.
            message = f"{location.name}: the store cannot be used ({trouble[0][:200]})"
            raise SearchIndexError(f"{message}. Check its address and credentials, or try again.") from error
        raise location.damaged(error) from error


def import_lance() -> Any:
    """Return the module `lance`, which logs errors alone."""
    os.environ.setdefault("LANCE_LOG", "error")
    import lance

    return lance


def open_table(location: Location, version: int | None = None) -> "lance.LanceDataset":
    """Return the table of an index at its newest version, or at another.

    Raises:
        SearchIndexError: there is none, or one of another format.
        DamagedIndexError: it cannot be opened.
    """
    location.check()
    with reading(location):
        try:
            table = import_lance().dataset(location.table(), version=version)
        except ValueError as error:
            if location.folder is None and "not found" in str(error).lower():
                raise _missing(location) from None
            raise
        stated = (table.schema.metadata or {}).get(FORMAT_KEY.encode(), b"").decode(errors="replace")
    if stated != str(FORMAT):
        if stated.isdecimal() and int(stated) > FORMAT:
            advice = f"a newer version of MoSE wrote it, format {stated}. Update MoSE, or run: {location.remedy}"
            raise OtherFormatError(f"{location.name}: format must be {FORMAT}, but {advice}")
        raise location.damaged(f"its table has the format {stated!r}, not {FORMAT}")
    return table


def _missing(location: Location) -> MissingIndexError:
    return MissingIndexError(f"{location.name}: there is no finished index here; run: {location.remedy}")


def read_meta(location: Location) -> Meta:
    """Return the description of the newest version of an index, without reading its units.

    Raises:
        SearchIndexError: there is none, or it cannot be read.
    """
    return table_meta(location, open_table(location))


def table_meta(location: Location, table: "lance.LanceDataset") -> Meta:
    """Return the description of an open version of an index."""
    with reading(location):
        return described_by(location, table.to_table(columns=["record", "key"], filter=f"kind = '{META_ROW}'"))


def described_by(location: Location, rows: "pyarrow.Table") -> Meta:
    """Return the description of an index from the rows that hold it, of which there must be one.

    Raises:
        DamagedIndexError: there are more or none, or it is not what was written.
    """
    if len(rows) != 1:
        raise location.damaged(f"{len(rows)} rows describe it, instead of one")
    text = rows.column("record")[0].as_py()
    if record_key(text) != rows.column("key")[0].as_py():
        raise location.damaged("its description does not have the digest that it states")
    return Meta.from_json(text)
