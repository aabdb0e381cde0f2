"""Near-duplicates of a corpus of any size, by datatrove's MinHash in four stages.

Signatures of all texts, pairs that share a bucket, clusters of pairs, and one text of each cluster.
Every stage runs as tasks on this machine, on Slurm or on Ray, and resumes where it ended.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datatrove.data import Document
from datatrove.pipeline.dedup import (
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupFilter,
    MinhashDedupSignature,
)
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.utils.word_tokenizers import WordTokenizer

from mose.data.source.near_duplicates import hashed_ngrams
from mose.scale.parts import Columns, Part, PartRows, read_part

#: Texts of a Jaccard similarity of 0.7 share a bucket with probability 1/2 at (1/16)^(1/8) = 0.707.
CONFIG = MinhashConfig(num_buckets=16, hashes_per_bucket=8)
STAGES = ("signatures", "buckets", "clusters", "kept")


class _NoWords(WordTokenizer):
    """A word tokenizer that is never asked, since code is compared by its characters."""

    def word_tokenize(self, text: str) -> list[str]:
        raise NotImplementedError

    def sent_tokenize(self, text: str) -> list[str]:
        raise NotImplementedError

    def span_tokenize(self, text: str) -> list[tuple[int, int]]:
        raise NotImplementedError


class CodeSignatures(MinhashDedupSignature):
    """The signatures of datatrove, of the character 5-grams that all of the project compares code by."""

    def __init__(self, output_folder: str):
        super().__init__(output_folder, CONFIG, _NoWords())

    def get_shingles(self, text: str) -> np.ndarray:
        """Return the hashes of a text's 5-grams, (distinct 5-grams, 1) uint64."""
        return hashed_ngrams(text).reshape(-1, 1)


class PartReader:
    """A pipeline step that yields the texts of a task's parts.

    Texts are known by their place in a task, so the last stage must read what the first one read. The first notes
    how many texts each part had; the last fails if there are others now.

    Args:
        parts: all parts of the corpus. Task k of n reads every n-th, from the k-th on.
        columns: what is read of them.
        notes: folder of the notes.
        is_first: write the notes, otherwise check against them.
    """

    def __init__(self, parts: Sequence[Part], columns: Columns, notes: str, is_first: bool):
        self.parts, self.columns, self.notes, self.is_first = tuple(parts), columns, notes, is_first

    def __call__(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Yield the texts, each with the rows of its part and its place in them."""
        filesystem, folder = fsspec.core.url_to_fs(self.notes)
        note = f"{folder}/{rank:05d}.json"
        known = {} if self.is_first else json.loads(filesystem.cat(note))
        noted: dict[str, dict[str, Any]] = {}

        for part in self.parts[rank::world_size]:
            before = known.get(part.key)
            if before and before["error"]:
                continue
            rows, error = self._read(part)
            noted[part.key] = {"rows": len(rows.texts), "left_out": rows.left_out, "error": error}
            if before and len(rows.texts) != before["rows"]:
                count = f"{before['rows']} texts before and {len(rows.texts)} now"
                raise RuntimeError(f"{part.source} had {count}. Start again in an empty folder.")
            for place, text in enumerate(rows.texts):
                metadata = {"rows": rows, "place": place, "source": part.source}
                yield Document(text=text, id=f"{part.key}/{place}", metadata=metadata)

        if self.is_first:
            filesystem.makedirs(folder, exist_ok=True)
            filesystem.pipe(note, json.dumps(noted).encode())

    def _read(self, part: Part) -> tuple[PartRows, str]:
        try:
            return read_part(part, self.columns), ""
        # Libraries raise many types for damaged files. One such file does not end the run.
        except Exception as error:
            if not self.is_first:
                raise
            return PartRows(), f"{part.source}: {type(error).__name__}: {str(error)[:200]}"


class KeptWriter:
    """A pipeline step that writes the texts that are left, one parquet file for each task.

    Args:
        folder: of the files.
        columns: their columns, beside `file` and `row`.
    """

    def __init__(self, folder: str, columns: Columns):
        self.folder, self.columns = folder, columns

    def __call__(self, data: Iterator[Document], rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Write the texts and yield nothing."""
        filesystem, folder = fsspec.core.url_to_fs(self.folder)
        filesystem.makedirs(folder, exist_ok=True)
        name = f"{folder}/task-{rank:05d}.parquet"
        writer: pq.ParquetWriter | None = None

        with filesystem.open(f"{name}.partial", "wb") as stream:
            for rows, source, places in _by_part(data):
                table = self._table(rows, source, places)
                writer = writer or pq.ParquetWriter(stream, table.schema, compression="zstd")
                writer.write_table(table.cast(writer.schema))
            if writer is not None:
                writer.close()

        # A task whose texts are all duplicates leaves no file.
        if writer is not None:
            filesystem.mv(f"{name}.partial", name)
        else:
            filesystem.rm(f"{name}.partial")
        yield from ()

    def _table(self, rows: PartRows, source: str, places: list[int]) -> pa.Table:
        table = {
            "file": pa.array([source] * len(places), pa.string()),
            "row": pa.array([rows.rows[place] for place in places], pa.int64()),
            self.columns.text: pa.array([rows.texts[place] for place in places], pa.string()),
        }
        if self.columns.language:
            table[self.columns.language] = pa.array([rows.languages[place] for place in places], pa.string())
        if rows.copied is not None:
            table |= {name: rows.copied[name].take(places) for name in rows.copied.column_names}
        return pa.table(table)


def _by_part(data: Iterator[Document]) -> Iterator[tuple[PartRows, str, list[int]]]:
    """Yield the rows of each part, its source, and the places of the texts that are left of it."""
    current: tuple[PartRows, str, list[int]] | None = None
    for document in data:
        rows, place = document.metadata["rows"], document.metadata["place"]
        if current is not None and current[0] is rows:
            current[2].append(place)
            continue

        if current is not None:
            yield current
        current = (rows, document.metadata["source"], [place])
    if current is not None:
        yield current


def stage_pipelines(
    parts: Sequence[Part], columns: Columns, folder: str, tasks: int
) -> dict[str, tuple[list, int]]:
    """Return stage -> its pipeline and its number of tasks, in the order in which they must run.

    Args:
        parts: the corpus.
        columns: what is read of it, and written.
        folder: of the results, `kept`, and of what the stages leave for each other, `minhash`.
        tasks: into which the corpus is cut.
    """
    work = f"{folder.rstrip('/')}/minhash"
    first, last = (PartReader(parts, columns, f"{work}/rows", is_first) for is_first in (True, False))
    buckets = MinhashDedupBuckets(f"{work}/signatures", f"{work}/buckets", config=CONFIG)
    clusters = MinhashDedupCluster(f"{work}/buckets", f"{work}/remove", config=CONFIG)
    removal = [last, MinhashDedupFilter(f"{work}/remove"), KeptWriter(f"{folder.rstrip('/')}/kept", columns)]
    return {
        "signatures": ([first, CodeSignatures(f"{work}/signatures")], tasks),
        "buckets": ([buckets], CONFIG.num_buckets),
        "clusters": ([clusters], 1),
        "kept": (removal, tasks),
    }


def read_notes(folder: str) -> tuple[int, int, list[str]]:
    """Return the numbers of texts read and of rows left out, and the errors of parts that could not be read."""
    filesystem, path = fsspec.core.url_to_fs(f"{folder.rstrip('/')}/minhash/rows")
    notes = [json.loads(filesystem.cat(name)) for name in sorted(filesystem.ls(path, detail=False))]
    parts = [part for note in notes for part in note.values()]
    errors = [part["error"] for part in parts if part["error"]]
    return sum(part["rows"] for part in parts), sum(part["left_out"] for part in parts), errors


def count_kept(folder: str) -> int:
    """Return the number of texts that are left."""
    filesystem, path = fsspec.core.url_to_fs(f"{folder.rstrip('/')}/kept")
    total = 0
    for name in filesystem.ls(path, detail=False):
        with filesystem.open(name) as stream:
            total += pq.ParquetFile(stream).metadata.num_rows
    return total
