"""Cutting a corpus into parts, and reading a part.

A part is a range of row groups of a parquet file, of bytes of a JSON-lines file, or of rows of a Lance fragment.
Any process that reaches the corpus can read it. Its key changes with the file.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from mose.utils.locations import is_hub_id

PARQUET, LINES, LANCE = "parquet", "lines", "lance"
#: Ending of a file -> how it is read. What follows `.jsonl` is a compression that fsspec knows.
ENDINGS = {
    ".parquet": PARQUET,
    **{
        f"{name}{packed}": LINES
        for name in (".jsonl", ".ndjson")
        for packed in ("", ".gz", ".zst", ".bz2", ".xz")
    },
}
#: Rows of a part, and bytes of a part of JSON lines.
PART_ROWS, PART_BYTES = 16_384, 32 * 2**20
PLANNING_THREADS = 16
MAX_PROBLEMS = 5


@dataclass(frozen=True)
class Part:
    """A piece of a corpus.

    Attributes:
        source: address of the file, or of the Lance dataset.
        kind: how it is read.
        start: first row group, byte, or row of the fragment.
        stop: one past the last; None means the end.
        stamp: size and time of the file, or version of the dataset.
        fragment: of a Lance dataset.
    """

    source: str
    kind: str
    start: int = 0
    stop: int | None = None
    stamp: str = ""
    fragment: int = 0

    @property
    def key(self) -> str:
        """Name of the part in file names."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:20]

    def to_json(self) -> str:
        """Return the part as JSON."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "Part":
        """Return the part of `to_json`."""
        return cls(**json.loads(text))


@dataclass(frozen=True)
class Columns:
    """The columns of a corpus that are read.

    Attributes:
        text: texts.
        language: languages, which select prompts; None if there are none.
        keep: columns that are copied to the result.
    """

    text: str = "text"
    language: str | None = None
    keep: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        """All columns, each once."""
        return list(dict.fromkeys([self.text, *([self.language] if self.language else []), *self.keep]))


@dataclass
class PartRows:
    """The rows of a part that can be used.

    Attributes:
        rows: number in the file: of the row, or of the line's first byte.
        texts: texts.
        languages: languages, empty where there is none.
        copied: the columns that are copied to the result, as a table with the same rows.
        left_out: number of rows without a usable text.
        problems: the first of them, with their reasons.
    """

    rows: list[int] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    languages: list[str] = field(default_factory=list)
    copied: pa.Table | None = None
    left_out: int = 0
    problems: list[str] = field(default_factory=list)

    def leave_out(self, problem: str) -> None:
        """Count a row that cannot be used."""
        self.left_out += 1
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(problem)


# --- Cutting a corpus -------------------------------------------------------------------------------------


def plan_parts(
    corpus: str, part_rows: int = PART_ROWS, part_bytes: int = PART_BYTES
) -> tuple[list[Part], dict[str, str]]:
    """Cut a corpus into parts, in a fixed order.

    Args:
        corpus: a file, a folder, an address that fsspec knows (`s3://…`), or the id of a Hub dataset.
        part_rows: about the rows of a part of a parquet file or a Lance dataset.
        part_bytes: about the bytes of a part of a JSON-lines file.

    Returns:
        The parts, and file -> reason of those that cannot be opened.

    Raises:
        FileNotFoundError: there is no corpus, or nothing in it that can be read.
    """
    if corpus.rstrip("/").endswith(".lance"):
        return _lance_parts(corpus, part_rows), {}

    files = _list_files(corpus)
    parts: list[Part] = []
    failures: dict[str, str] = {}

    def plan(file: str) -> list[Part] | str:
        try:
            return list(_file_parts(file, part_rows, part_bytes))
        # Libraries raise many types for damaged files.
        except Exception as error:
            return f"{type(error).__name__}: {str(error)[:200]}"

    # Each file's footer is read, which waits for the network.
    with ThreadPoolExecutor(PLANNING_THREADS) as pool:
        for file, planned in zip(files, pool.map(plan, files), strict=True):
            if isinstance(planned, str):
                failures[file] = planned
            else:
                parts += planned
    return parts, failures


def _list_files(corpus: str) -> list[str]:
    """Return the addresses of a corpus' files, sorted."""
    if "://" not in corpus and not Path(corpus).exists():
        if not is_hub_id(corpus):
            raise FileNotFoundError(f"{corpus}: no such file or folder, and not a Hub dataset (owner/name).")
        corpus = f"hf://datasets/{corpus}"

    filesystem, path = fsspec.core.url_to_fs(corpus)
    names = [path] if filesystem.isfile(path) else sorted(filesystem.find(path))
    known = [name for name in names if _kind(name)]
    if not known:
        endings = ", ".join(ENDINGS)
        raise FileNotFoundError(f"{corpus} has no file that ends in {endings}, and is no .lance dataset.")
    return [filesystem.unstrip_protocol(name) for name in known]


def _kind(name: str) -> str | None:
    return next((kind for ending, kind in ENDINGS.items() if name.endswith(ending)), None)


def _file_parts(file: str, part_rows: int, part_bytes: int) -> Iterator[Part]:
    filesystem, path = fsspec.core.url_to_fs(file)
    info = filesystem.info(path)
    # Stores name the state of a file differently.
    version = next((info[key] for key in ("ETag", "blob_id", "mtime", "last_modified") if info.get(key)), "")
    stamp = f"{info['size']} {version}"

    if _kind(file) == LINES:
        is_packed = not file.endswith((".jsonl", ".ndjson"))
        starts = [0] if is_packed else range(0, max(info["size"], 1), part_bytes)
        for start in starts:
            yield Part(file, LINES, start, None if is_packed else start + part_bytes, stamp)
        return

    with filesystem.open(path) as stream:
        metadata = pq.ParquetFile(stream).metadata
    first = rows = 0
    for group in range(metadata.num_row_groups):
        rows += metadata.row_group(group).num_rows
        if rows >= part_rows or group + 1 == metadata.num_row_groups:
            yield Part(file, PARQUET, first, group + 1, stamp)
            first, rows = group + 1, 0


def _lance_parts(uri: str, part_rows: int) -> list[Part]:
    import lance  # of the extra [ray]

    try:
        dataset = lance.dataset(uri)
    except ValueError as error:
        raise FileNotFoundError(f"{uri}: {error}") from None

    parts = []
    for fragment in dataset.get_fragments():
        rows = fragment.count_rows()
        for start in range(0, rows, part_rows):
            stop = min(start + part_rows, rows)
            parts.append(Part(uri, LANCE, start, stop, str(dataset.version), fragment.fragment_id))
    return parts


# --- Reading a part ---------------------------------------------------------------------------------------


def read_part(part: Part, columns: Columns) -> PartRows:
    """Return the rows of a part.

    Raises:
        KeyError: the file lacks a column.
        OSError, ValueError: the file cannot be read; libraries raise further types.
    """
    if part.kind == LINES:
        return _read_json_lines(part, columns)
    table, first = _read_parquet(part, columns) if part.kind == PARQUET else _read_lance(part, columns)

    result = PartRows()
    texts = table[columns.text].to_pylist()
    languages = table[columns.language].to_pylist() if columns.language else [""] * len(texts)
    usable = []
    for row, (text, language) in enumerate(zip(texts, languages, strict=True)):
        if isinstance(text, str):
            usable.append(row)
            _add_text(result, first + row, text, language)
        else:
            result.leave_out(f"{part.source}, row {first + row}: {columns.text} is {type(text).__name__}")
    result.copied = table.select(list(columns.keep)).take(usable) if columns.keep else None
    return result


def _add_text(result: PartRows, row: int, text: str, language: Any) -> None:
    result.rows.append(row)
    # Halves of surrogate pairs, which JSON can hold, are no text for a tokenizer.
    result.texts.append(text.encode("utf-8", "replace").decode())
    result.languages.append(language if isinstance(language, str) else "")


def _check_columns(names: Sequence[str], columns: Columns, source: str) -> None:
    if missing := [name for name in columns.names if name not in names]:
        raise KeyError(f"{source} has no column {missing[0]}, only {', '.join(names)}")


def _read_parquet(part: Part, columns: Columns) -> tuple[pa.Table, int]:
    with fsspec.open(part.source) as stream:
        file = pq.ParquetFile(stream)
        _check_columns(file.schema_arrow.names, columns, part.source)
        first = sum(file.metadata.row_group(group).num_rows for group in range(part.start))
        groups = list(range(part.start, part.stop or file.metadata.num_row_groups))
        return file.read_row_groups(groups, columns=columns.names), first


def _read_lance(part: Part, columns: Columns) -> tuple[pa.Table, int]:
    import lance  # of the extra [ray]

    dataset = lance.dataset(part.source, version=int(part.stamp))
    _check_columns(dataset.schema.names, columns, part.source)
    fragment: Any = dataset.get_fragment(part.fragment)
    count = (part.stop or fragment.count_rows()) - part.start
    return fragment.to_table(columns=columns.names, offset=part.start, limit=count), part.start


def _read_json_lines(part: Part, columns: Columns) -> PartRows:
    """Return the lines that begin in a part's range of bytes."""
    result, copied = PartRows(), []
    for start, line in _lines(part):
        if not line.strip():
            continue
        place = f"{part.source}, byte {start}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            result.leave_out(f"{place}: {str(error)[:100]}")
            continue

        text = row.get(columns.text) if isinstance(row, dict) else None
        if not isinstance(text, str):
            result.leave_out(f"{place}: {columns.text} is missing or no text")
            continue
        _add_text(result, start, text, row.get(columns.language) if columns.language else "")
        # Types may differ between lines; JSON's texts can hold all of them.
        copied.append([_as_text(row.get(name)) for name in columns.keep])

    if columns.keep:
        values = zip(*copied, strict=True) if copied else [[]] * len(columns.keep)
        arrays = [pa.array(list(column), pa.string()) for column in values]
        result.copied = pa.table(arrays, names=list(columns.keep))
    return result


def _as_text(value: Any) -> str | None:
    return value if isinstance(value, str | None) else json.dumps(value)


def _lines(part: Part) -> Iterator[tuple[int, bytes]]:
    """Yield the first byte and the content of each line that begins in the range."""
    with fsspec.open(part.source, compression="infer") as stream:
        place = part.start
        if place:
            # A line that begins before the range belongs to the part before, up to its end.
            stream.seek(place - 1)
            place += len(stream.readline()) - 1
        while part.stop is None or place < part.stop:
            line = stream.readline()
            if not line:
                return
            yield place, line
            place += len(line)
