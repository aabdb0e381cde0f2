"""What a task is, and how its tables are read: from a Hub dataset, or from a local folder of the same shape."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from mose.data.retrieval.retrieval_set import RetrievalSet, RetrievalSetError, Row, hub_table, json_rows


@dataclass(frozen=True)
class Source:
    """A Hub dataset.

    Attributes:
        repo: its id.
        revision: the commit that is read; "main" where none is known that holds the data as files (current
            versions of `datasets` refuse commits with a loading script).
        split: the split that is measured.
        columns: what the task reads → the column that holds it, or several, of which the first is taken that is
            there: published copies differ. Empty for the BEIR layout, which has columns of its own.
    """

    repo: str
    revision: str
    split: str
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """One benchmark: where its data is, what is measured, and what was published.

    Attributes:
        name, title: how commands call it; what it asks, in a line.
        source: the Hub dataset; None if the user has to name one.
        layout: the files of the local folder that can stand in for it.
        load: the task's sets, in the order of the report, from a `Location`.
        measures: what is reported, by the keys of a report; the first is the one that the field compares.
        size: queries → documents (or pairs) of the published test split.
        subsets: the parts that can be asked for one by one, such as programming languages.
        paper: measure → {exit: figure} of the paper (arXiv 2503.03008) as shares of 1; exit "best" where it
            gives one figure for the best exit alone.
        note: what a reader must know before comparing figures.
        hub_note: what a reader must know where the data came from the Hub.
    """

    name: str
    title: str
    source: Source | None
    layout: str
    load: "Callable[[Location], list[RetrievalSet] | list[PairSet]]"
    measures: tuple[str, ...]
    size: str
    subsets: tuple[str, ...] = ()
    paper: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    note: str = ""
    hub_note: str = ""

    def notes(self, from_hub: bool) -> str:
        """What a reader must know; "" where there is nothing."""
        return " ".join(note for note in (self.note, self.hub_note if from_hub else "") if note)


@dataclass(frozen=True)
class PairSet:
    """Pairs of functions and whether they do the same.

    Attributes:
        name: what reports call the set.
        functions: every function once.
        pairs: (pairs, 2) int64, places in `functions`.
        labels: (pairs,) int64, 1 for clones and 0 for others.
    """

    name: str
    functions: tuple[str, ...]
    pairs: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Location:
    """Where a task's tables are read.

    Attributes:
        name: the task's.
        source: the Hub dataset.
        folder: the local folder to read in its place.
        split: the split to measure; None means the source's.
        subsets: the parts wanted; empty means all that the task has (of a folder: all that it holds).
        columns: what the task reads → the column that holds it, in place of the source's.
    """

    name: str
    source: Source | None
    folder: Path | None = None
    split: str | None = None
    subsets: tuple[str, ...] = ()
    columns: Mapping[str, str] = field(default_factory=dict)

    @property
    def wanted_split(self) -> str:
        return self.split or (self.source.split if self.source else "test")

    def rows(self, split: str | None = None, config: str = "") -> Iterator[Row]:
        """The rows of one split with their place, for error messages.

        Of a folder: the lines of `CONFIG/SPLIT.jsonl`, or the rows of `CONFIG/SPLIT-*.parquet`, as a clone of
        the Hub repository has them (also below `data/`).

        Raises:
            FileNotFoundError: the folder holds no such file.
            RetrievalSetError: a broken file, a dataset that cannot be loaded or lacks the split.
        """
        split = split or self.wanted_split
        rows = self._hub_rows(split, config) if self.folder is None else self._folder_rows(split, config)
        yield from rows

    def cell(self, where: str, row: Mapping[str, Any], what: str) -> Any:
        """What the task calls `what`, from the column that holds it.

        Raises:
            RetrievalSetError: the column is not there, or the cell is empty.
        """
        return cell(where, row, *self._names(what))

    def words(self, where: str, row: Mapping[str, Any], what: str) -> str:
        """The same as a text; a list of tokens is joined by spaces.

        Raises:
            RetrievalSetError: as `cell`, or a cell that is neither.
        """
        value = self.cell(where, row, what)
        if isinstance(value, str):
            return value
        if isinstance(value, list | tuple) and all(isinstance(token, str) for token in value):
            return " ".join(value)
        names = " or ".join(map(repr, self._names(what)))
        raise RetrievalSetError(f"{where}: {names} must be a text or a list of tokens, not {value!r:.60}")

    def optional(self, row: Mapping[str, Any], what: str) -> Any:
        """The same, or None where there is none."""
        return next((row[name] for name in self._names(what) if name in row), None)

    def _names(self, what: str) -> tuple[str, ...]:
        if what in self.columns:
            return (self.columns[what],)
        return self.source.columns[what] if self.source else (what,)

    def holds(self, split: str, config: str = "") -> bool:
        """Whether the folder has files of that split; a Hub dataset is not asked."""
        return self.folder is not None and bool(self._files(split, config))

    def parts(self, all_parts: Iterable[str]) -> list[str]:
        """Those of `all_parts` that are wanted; of a folder, those with a sub-folder of that name.

        Raises:
            FileNotFoundError: the folder has none of them.
        """
        wanted = self.subsets or tuple(all_parts)
        if self.folder is None or self.subsets:
            return list(wanted)
        here = [part for part in wanted if (self.folder / part).is_dir()]
        if not here:
            raise FileNotFoundError(f"{self.folder}: none of the folders {', '.join(wanted)} is in it")
        return here

    def _files(self, split: str, config: str) -> list[Path]:
        assert self.folder is not None
        base = self.folder / config
        lines = base / f"{split}.jsonl"
        if lines.is_file():
            return [lines]
        patterns = (f"{split}-*.parquet", f"{split}.parquet", f"data/{split}-*.parquet")
        return [path for pattern in patterns for path in sorted(base.glob(pattern))]

    def _folder_rows(self, split: str, config: str) -> Iterator[Row]:
        files = self._files(split, config)
        if not files:
            raise FileNotFoundError(f"{self.folder}: neither {Path(config) / split}.jsonl nor {split}-*.parquet")
        for path in files:
            yield from json_rows(path) if path.suffix == ".jsonl" else _parquet_rows(path)

    def _hub_rows(self, split: str, config: str) -> Iterator[Row]:
        if self.source is None:
            raise FileNotFoundError(f"{self.name} has no dataset of its own: name a folder")
        table = hub_table(self.source.repo, config or None, self.source.revision)
        if split not in table:
            raise RetrievalSetError(f"{self.source.repo}: no split {split!r}; there are: {', '.join(table)}")
        for number, row in enumerate(table[split]):
            yield f"{self.source.repo} {config} {split} row {number}".replace("  ", " "), row


def _parquet_rows(path: Path) -> Iterator[Row]:
    import pyarrow.parquet as parquet

    try:
        number = 0
        for batch in parquet.ParquetFile(path).iter_batches():
            for row in batch.to_pylist():
                yield f"{path} row {number}", row
                number += 1
    except (OSError, ValueError) as error:  # pyarrow's ArrowInvalid is a ValueError
        raise RetrievalSetError(f"{path}: not parquet: {error}") from None


def cell(where: str, row: Mapping[str, Any], *names: str) -> Any:
    """What stands in the first of the columns `names` that the row has.

    Raises:
        RetrievalSetError: it has none of them, or the cell is empty; the message lists the columns there are.
    """
    for name in names:
        if name in row:
            if row[name] is None:
                raise RetrievalSetError(f"{where}: {name!r} is empty")
            return row[name]
    raise RetrievalSetError(f"{where}: no column {' or '.join(map(repr, names))}; there are: {', '.join(row)}")


def merge_identical(data: RetrievalSet) -> RetrievalSet:
    """The set with documents of the same text (and language) made one, under the first one's id."""
    first: dict[tuple[str, str], str] = {}
    stands_for = {
        key: first.setdefault((text, language), key)
        for key, text, language in zip(data.document_ids, data.documents, data.document_languages, strict=True)
    }
    kept = {key: text for (text, _), key in first.items()}
    qrels: dict[str, dict[str, int]] = {}
    for query, grades in data.qrels.items():
        merged = qrels.setdefault(query, {})
        for document, grade in grades.items():
            merged[stands_for[document]] = max(grade, merged.get(stands_for[document], 0))
    return replace(
        data,
        document_ids=tuple(kept),
        documents=tuple(kept.values()),
        document_languages=tuple(language for _, language in first),
        qrels=qrels,
    )


def head(data: RetrievalSet | PairSet, limit: int) -> RetrievalSet | PairSet:
    """The set with its first `limit` queries (or pairs); the documents stay."""
    if isinstance(data, PairSet):
        return replace(data, pairs=data.pairs[:limit], labels=data.labels[:limit])
    kept = data.query_ids[:limit]
    return replace(
        data,
        query_ids=kept,
        queries=data.queries[:limit],
        query_languages=data.query_languages[:limit],
        qrels={key: data.qrels[key] for key in kept},
    )
