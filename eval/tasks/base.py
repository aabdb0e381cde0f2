"""The description of a benchmark task, and the reader of its tables from the Hub or from a local folder."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from mose.data.retrieval.retrieval_set import (
    DEFAULT_MEASURES,
    RetrievalSet,
    RetrievalSetError,
    Row,
    hub_table,
    json_rows,
)


@dataclass(frozen=True)
class HubSource:
    """A Hub dataset.

    Attributes:
        repo: its id.
        revision: commit to read. "main" if no commit is known that has the data as files: current versions of
            `datasets` refuse commits with a loading script.
        split: split to measure.
        columns: field of the task -> the columns that can hold it, because published copies differ. The first
            one that exists is read. Empty for the BEIR layout, whose columns are fixed.
    """

    repo: str
    revision: str
    split: str = "test"
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """One benchmark: its data, its measures, and the published figures.

    Attributes:
        name: name in commands and reports.
        title: one line, such as "web search query → Python function".
        source: the Hub dataset; None if the user has to name a folder.
        layout: the files of a local folder that can replace it.
        load: returns the task's sets in the order of the report.
        size: queries → documents (or pairs) of the published test split.
        measures: measures of a report. The first is the one that publications compare.
        subsets: parts that can be requested separately, such as programming languages.
        paper: measure -> {exit: figure} of the paper (arXiv 2503.03008), in [0, 1]. The exit is "best" if the
            paper reports only the best one.
        note: what a reader must know before comparing figures.
        hub_note: further note for data from the Hub.
    """

    name: str
    title: str
    source: HubSource | None
    layout: str
    load: "Callable[[TaskReader], list[RetrievalSet] | list[PairSet]]"
    size: str
    measures: tuple[str, ...] = DEFAULT_MEASURES
    subsets: tuple[str, ...] = ()
    paper: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    note: str = ""
    hub_note: str = ""

    def notes(self, from_hub: bool) -> str:
        """Return the notes that apply, or ""."""
        return " ".join(note for note in (self.note, self.hub_note if from_hub else "") if note)


@dataclass(frozen=True)
class PairSet:
    """Pairs of functions, labelled as clones or not.

    Attributes:
        name: name of the set in reports.
        functions: every function once.
        pairs: (pairs, 2) int64, positions in `functions`.
        labels: (pairs,) int64, 1 for clones and 0 for others.
    """

    name: str
    functions: tuple[str, ...]
    pairs: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class TaskReader:
    """Reader of a task's tables.

    Attributes:
        name: the task's name.
        source: the Hub dataset.
        folder: local folder to read instead.
        split: split to measure.
        subsets: parts to read; empty means all (for a folder: all that it has).
        columns: field of the task -> the column that holds it, instead of the source's.
    """

    name: str
    source: HubSource | None
    folder: Path | None
    split: str
    subsets: tuple[str, ...] = ()
    columns: Mapping[str, str] = field(default_factory=dict)

    def rows(self, split: str | None = None, config: str = "") -> Iterator[Row]:
        """Yield the rows of one split with their location, for error messages.

        A folder has them in `CONFIG/SPLIT.jsonl`, or as a clone of the Hub in `CONFIG/SPLIT-*.parquet`.

        Raises:
            FileNotFoundError: the folder has no such file.
            RetrievalSetError: a damaged file, or a dataset that cannot be loaded or lacks the split.
        """
        split = split or self.split
        yield from self._hub_rows(split, config) if self.folder is None else self._folder_rows(split, config)

    def cell(self, location: str, row: Mapping[str, Any], name: str) -> Any:
        """Return the value of the task's field `name`.

        Raises:
            RetrievalSetError: there is no such column, or the cell is empty.
        """
        return cell(location, row, *self._columns_for(name))

    def text(self, location: str, row: Mapping[str, Any], name: str) -> str:
        """Return the value of a field as a text; tokens are joined by spaces.

        Raises:
            RetrievalSetError: as in `cell`, or a value that is neither a text nor a list of tokens.
        """
        value = self.cell(location, row, name)
        if isinstance(value, str):
            return value
        if isinstance(value, list | tuple) and all(isinstance(token, str) for token in value):
            return " ".join(value)

        names = " or ".join(map(repr, self._columns_for(name)))
        raise RetrievalSetError(f"{location}: {names} must be a text or a list of tokens, got {value!r:.60}")

    def optional(self, row: Mapping[str, Any], name: str) -> Any:
        """Return the value of a field, or None if there is no such column."""
        return next((row[column] for column in self._columns_for(name) if column in row), None)

    def has_split(self, split: str, config: str = "") -> bool:
        """Return True if a local folder has files of the split. A Hub dataset is not queried."""
        return self.folder is not None and bool(self._split_files(split, config))

    def parts(self, all_parts: Iterable[str]) -> list[str]:
        """Return the requested parts; in a folder, those that have a sub-folder.

        Raises:
            FileNotFoundError: the folder has none of them.
        """
        requested = self.subsets or tuple(all_parts)
        if self.folder is None or self.subsets:
            return list(requested)

        # A clone may have only some of the languages.
        present = [part for part in requested if (self.folder / part).is_dir()]
        if not present:
            raise FileNotFoundError(f"{self.folder}: must have one of the folders {', '.join(requested)}")
        return present

    def _columns_for(self, name: str) -> tuple[str, ...]:
        if name in self.columns:
            return (self.columns[name],)
        return self.source.columns[name] if self.source else (name,)

    def _split_files(self, split: str, config: str) -> list[Path]:
        assert self.folder is not None
        base = self.folder / config
        lines = base / f"{split}.jsonl"
        if lines.is_file():
            return [lines]

        # The names that the Hub gives to the files of a split.
        patterns = (f"{split}-*.parquet", f"{split}.parquet", f"data/{split}-*.parquet")
        return [path for pattern in patterns for path in sorted(base.glob(pattern))]

    def _folder_rows(self, split: str, config: str) -> Iterator[Row]:
        files = self._split_files(split, config)
        if not files:
            raise FileNotFoundError(f"{self.folder}: neither {Path(config) / split}.jsonl nor {split}-*.parquet")
        for path in files:
            yield from json_rows(path) if path.suffix == ".jsonl" else _parquet_rows(path)

    def _hub_rows(self, split: str, config: str) -> Iterator[Row]:
        if self.source is None:
            raise FileNotFoundError(f"{self.name} has no dataset of its own. Name a folder.")
        table = hub_table(self.source.repo, config or None, self.source.revision)

        if split not in table:
            splits = ", ".join(table)
            raise RetrievalSetError(f"{self.source.repo}: split must be one of {splits}, got {split!r}")
        for number, row in enumerate(table[split]):
            yield f"{self.source.repo} {config} {split} row {number}".replace("  ", " "), row


def _parquet_rows(path: Path) -> Iterator[Row]:
    # An optional extra, and slow to import.
    import pyarrow.parquet as parquet

    try:
        number = 0
        for batch in parquet.ParquetFile(path).iter_batches():
            for row in batch.to_pylist():
                yield f"{path} row {number}", row
                number += 1
    except (OSError, ValueError) as error:  # pyarrow's ArrowInvalid is a ValueError
        raise RetrievalSetError(f"{path}: not parquet: {error}") from None


def cell(location: str, row: Mapping[str, Any], *columns: str) -> Any:
    """Return the value of the first of `columns` that the row has.

    Raises:
        RetrievalSetError: the row has none of them, or the cell is empty.
    """
    for column in columns:
        if column in row:
            if row[column] is None:
                raise RetrievalSetError(f"{location}: {column!r} is empty")
            return row[column]

    names = " or ".join(map(repr, columns))
    raise RetrievalSetError(f"{location}: no column {names}; there are: {', '.join(row)}")


def text_row(location: str, key: Any, text: Any, language: str) -> Row:
    """Return a row of the corpus or of the queries, for `assemble`."""
    return location, {"_id": key, "text": text, "language": language}


def relevance_row(location: str, query: Any, document: Any) -> Row:
    """Return a row that judges a document relevant to a query, for `assemble`."""
    return location, {"query-id": query, "corpus-id": document, "score": 1}


def merge_identical(data: RetrievalSet) -> RetrievalSet:
    """Return the set with documents of the same text and language merged, under the first one's id."""
    first: dict[tuple[str, str], str] = {}
    merged_id = {
        key: first.setdefault((text, language), key)
        for key, text, language in zip(data.document_ids, data.documents, data.document_languages, strict=True)
    }

    qrels: dict[str, dict[str, int]] = {}
    for query, grades in data.qrels.items():
        merged = qrels.setdefault(query, {})
        for document, grade in grades.items():
            # The best grade of the copies counts.
            key = merged_id[document]
            merged[key] = max(grade, merged.get(key, 0))

    return replace(
        data,
        document_ids=tuple(first.values()),
        documents=tuple(text for text, _ in first),
        document_languages=tuple(language for _, language in first),
        qrels=qrels,
    )


def limit_queries(data: RetrievalSet | PairSet, limit: int) -> RetrievalSet | PairSet:
    """Return the set with its first `limit` queries (or pairs) and all documents."""
    if isinstance(data, PairSet):
        return replace(data, pairs=data.pairs[:limit], labels=data.labels[:limit])

    ids = data.query_ids[:limit]
    return replace(
        data,
        query_ids=ids,
        queries=data.queries[:limit],
        query_languages=data.query_languages[:limit],
        qrels={key: data.qrels[key] for key in ids},
    )
