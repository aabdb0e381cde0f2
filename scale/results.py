"""The embeddings of a corpus on disk or in an object store: one file, or one Lance fragment, for each part.

    DIR/
      _encode.json               what the embeddings depend on
      part-KEY.parquet           the embeddings of one part (format parquet)
      vectors.lance/             all of them (format lance), once every part is finished
      parts/KEY.json             the fragments of one part (format lance)

A part's file appears whole or not at all, so that a killed run resumes with the parts that are missing.
"""

import json
import re
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mose.scale.parts import PartRows

FORMATS = ("parquet", "lance")
#: The underscore hides it from programs that read a folder of parquet files.
MANIFEST = "_encode.json"
_PART_FILE = re.compile(r"part-([0-9a-f]{20})\.parquet")
_CHECKING_THREADS = 16


class ResultsError(RuntimeError):
    """A folder holds something that must not be overwritten."""


@dataclass
class PartReport:
    """The outcome of a part: its rows, those left out, and the error if it failed."""

    key: str
    rows: int = 0
    left_out: int = 0
    problems: list[str] = field(default_factory=list)
    error: str = ""


class ResultFolder:
    """The folder of a corpus' embeddings. Can be pickled.

    Args:
        uri: a folder, or an address that fsspec knows.
        file_format: one of `FORMATS`.
    """

    def __init__(self, uri: str, file_format: str):
        self.uri, self.file_format = uri.rstrip("/"), file_format

    def open(self, settings: Mapping[str, Any], overwrite: bool) -> None:
        """Make the folder one of these settings, keeping the parts that have the same.

        Raises:
            ResultsError: it holds embeddings of other settings, or something else.
        """
        filesystem, path = fsspec.core.url_to_fs(self.uri)
        manifest = json.loads(json.dumps({**settings, "format": self.file_format}))
        names = (
            [name.rpartition("/")[2] for name in filesystem.ls(path, detail=False)]
            if filesystem.exists(path)
            else []
        )

        if MANIFEST in names:
            previous = _read_manifest(filesystem, f"{path}/{MANIFEST}")
            if previous == manifest:
                return
            if not overwrite:
                differing = [name for name in manifest if previous.get(name) != manifest[name]] or ["version"]
                message = f"{self.uri} holds embeddings of another {differing[0]}"
                raise ResultsError(f"{message}. Allow overwriting (--overwrite).")
            self._clear(filesystem, path, names)
        elif names:
            raise ResultsError(f"{self.uri} holds {names[0]}, which is no embeddings file. Name an empty folder.")
        filesystem.makedirs(path, exist_ok=True)
        _write(filesystem, f"{path}/{MANIFEST}", json.dumps(manifest, indent=2).encode())

    def finished(self, keys: Sequence[str]) -> dict[str, PartReport]:
        """Return key -> report of the parts that are finished and intact."""
        filesystem, path = fsspec.core.url_to_fs(self.uri)

        def read(key: str) -> PartReport | None:
            try:
                if self.file_format == "lance":
                    return PartReport(**json.loads(filesystem.cat(f"{path}/parts/{key}.json"))["report"])
                with filesystem.open(f"{path}/part-{key}.parquet") as stream:
                    return PartReport(**json.loads(pq.ParquetFile(stream).schema_arrow.metadata[b"mose"]))
            # Missing, cut off, or written by something else: the part is encoded again.
            except Exception:
                return None

        with ThreadPoolExecutor(_CHECKING_THREADS) as pool:
            reports = dict(zip(keys, pool.map(read, keys), strict=True))
        return {key: report for key, report in reports.items() if report is not None}

    def write(
        self, report: PartReport, source: str, rows: PartRows, vectors: Mapping[str, np.ndarray], kind: str
    ) -> None:
        """Write the embeddings of a part.

        Args:
            report: kept with them.
            source: address of the part's file.
            rows: the part.
            vectors: exit -> (rows, dim).
            kind: float32 or float16.
        """
        columns: dict[str, pa.Array | pa.ChunkedArray] = {
            "file": pa.array([source] * len(rows.rows), pa.string()),
            "row": pa.array(rows.rows, pa.int64()),
        }
        if rows.copied is not None:
            columns |= {name: rows.copied[name] for name in rows.copied.column_names}
        for key, values in vectors.items():
            flat = pa.array(np.ascontiguousarray(values, dtype=kind).ravel())
            columns[f"exit_{key}"] = pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
        table = pa.table(columns)

        filesystem, path = fsspec.core.url_to_fs(self.uri)
        content = json.dumps(asdict(report))
        if self.file_format == "parquet":
            sink = pa.BufferOutputStream()
            table = table.replace_schema_metadata({"mose": content})
            # Every number occurs once. Its bytes compress if those of the same place are stored together.
            numbers = [f"exit_{key}.list.element" for key in vectors]
            options: dict[str, Any] = {"use_dictionary": ["file"], "use_byte_stream_split": numbers}
            pq.write_table(table, sink, compression="zstd", **options)
            _write(filesystem, f"{path}/part-{report.key}.parquet", sink.getvalue().to_pybytes())
            return

        from lance.fragment import write_fragments  # of the extra [ray]

        fragments = write_fragments(table, f"{self.uri}/vectors.lance") if table.num_rows else []
        done = {"report": asdict(report), "fragments": [fragment.to_json() for fragment in fragments]}
        done["schema"] = table.schema.serialize().to_pybytes().hex()
        filesystem.makedirs(f"{path}/parts", exist_ok=True)
        _write(filesystem, f"{path}/parts/{report.key}.json", json.dumps(done).encode())

    def commit(self, keys: Sequence[str], is_whole: bool) -> None:
        """Make the finished parts the content of the folder.

        Args:
            keys: of the finished parts, in the order of the corpus.
            is_whole: whether all files of the corpus could be opened. Only then are parquet files deleted that
                belong to no part: those of a file that cannot be read today may be right tomorrow.
        """
        filesystem, path = fsspec.core.url_to_fs(self.uri)
        if self.file_format == "parquet":
            finished = set(keys)
            for name in filesystem.ls(path, detail=False) if is_whole else ():
                match = _PART_FILE.fullmatch(name.rpartition("/")[2])
                if match and match[1] not in finished:
                    filesystem.rm(name)
            return

        import lance  # of the extra [ray]

        parts = [json.loads(filesystem.cat(f"{path}/parts/{key}.json")) for key in keys]
        fragments = [
            lance.FragmentMetadata.from_json(json.dumps(one)) for part in parts for one in part["fragments"]
        ]
        if fragments:
            schema = pa.ipc.read_schema(pa.BufferReader(bytes.fromhex(parts[0]["schema"])))
            operation = lance.LanceOperation.Overwrite(schema, fragments)
            lance.LanceDataset.commit(f"{self.uri}/vectors.lance", operation)

    def _clear(self, filesystem: Any, path: str, names: Sequence[str]) -> None:
        """Delete embeddings of other settings, and nothing else."""
        for name in names:
            if _PART_FILE.fullmatch(name) or name in (MANIFEST, "parts", "vectors.lance"):
                filesystem.rm(f"{path}/{name}", recursive=True)


def _read_manifest(filesystem: Any, path: str) -> dict[str, Any]:
    """Return the settings of a folder; none if the file is damaged, which then differ from all others."""
    try:
        manifest = json.loads(filesystem.cat(path))
    except ValueError:
        return {}
    return manifest if isinstance(manifest, dict) else {}


def _write(filesystem: Any, path: str, content: bytes) -> None:
    """Write a file that appears whole or not at all, also if two processes write it."""
    folder, _, name = path.rpartition("/")
    partial = f"{folder}/.{name}.{uuid.uuid4().hex}.partial"
    filesystem.pipe(partial, content)
    filesystem.mv(partial, path)
