"""Sources of a pre-training corpus: local source trees, and streamed datasets.

A pass over a source is read in independent lanes, which together hold every file once. It can resume anywhere.
"""

import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, IterableDataset
from tqdm import tqdm

from mose.data.source.decoding import UndecodableError, decode_source
from mose.data.source.files import candidate_files, path_below, read_source, repository_of
from mose.data.source.languages import language_of
from mose.data.source.near_duplicates import NearDuplicates
from mose.data.source.report import ReadingReport, SkippedFileError
from mose.data.source.rules import DEFAULT_MAX_FILE_BYTES, DEFAULT_RULES, ReadingRules
from mose.data.tables import load_table
from mose.utils.hashing import digest

logger = logging.getLogger(__name__)

#: One source file: `text`, `repository`, `language` and `path`.
CorpusRow = dict[str, str]
#: Files of one repository that stay together when the files of source trees are shuffled.
PARCEL_FILES = 16
#: Longest file of a streamed dataset, in bytes or characters.
MAX_ROW_LENGTH = DEFAULT_MAX_FILE_BYTES
#: Other names of a dataset's columns: those of The Stack v2, The Stack and their relatives.
_ALIASES = {
    "text": ("content", "code", "whole_func_string"),
    "repository": ("repo_name", "repository_name", "max_stars_repo_name", "repo"),
    "language": ("lang",),
    "path": ("max_stars_repo_path", "file_path", "func_path_in_repository"),
    "files": (),
}
#: Files that belong together ([] if none is readable), and a function that returns the position after them, ready
#: for JSON. Call it before the next step.
ReadStep = tuple[list[CorpusRow], Callable[[], Any]]


class TreeSource:
    """Local source trees, in which each project, or package of a folder of packages, is a repository.

    The arguments are those of `load_corpus`; `includes` returns True for the name of a repository to read. The
    order of the files differs in each epoch.

    Raises:
        ValueError: a tree does not exist, or has no source file.
    """

    def __init__(
        self,
        trees: Sequence[str | Path],
        includes: Callable[[str], bool],
        seed: int,
        languages: Collection[str] | None = None,
        files_per_repository: int | None = None,
        rules: ReadingRules = DEFAULT_RULES,
    ):
        self.name, self.seed = ", ".join(map(str, trees)), seed
        self.rules, self.report = rules, ReadingReport()
        repositories: dict[str, list[tuple[Path, Path]]] = defaultdict(list)

        for root in map(Path, trees):
            seen = ReadingReport()
            paths = list(candidate_files(root, languages, rules, seen))
            self.report.update(seen)
            if not paths:
                problem = f"source tree {str(root)!r} has no source file in a supported language"
                raise ValueError(f"{problem}. {seen.explain_empty()}")
            for path in paths:
                repositories[repository_of(root, path)].append((root, path))

        # By hash, not by a seed: the same files are chosen whatever else the corpus has.
        if files_per_repository is not None:
            for repository, files in repositories.items():
                drawn = sorted(files, key=lambda file: digest("file", path_below(*file)))[:files_per_repository]
                repositories[repository] = sorted(drawn)

        self.repositories = sorted(repositories)
        self._parcels = [
            (repository, files[start : start + PARCEL_FILES])
            for repository, files in sorted(repositories.items())
            if includes(repository)
            for start in range(0, len(files), PARCEL_FILES)
        ]
        #: Numbers of the files that the report counts as read: passes read them again.
        self._reported: set[int] = set()

    def fingerprint(self) -> int:
        """Return 64 bits that differ if the names or sizes of the files do."""
        return digest(
            *(
                f"{repository}/{path_below(root, path)} {_file_size(path)}"
                for repository, files in self._parcels
                for root, path in files
            )
        )

    def drop_near_duplicates(self, seed: int, progress: bool = True) -> int:
        """Drop the files that are near-duplicates of an earlier one, and return their number."""
        unique = NearDuplicates(seed=seed)
        total = sum(len(files) for _, files in self._parcels)
        parcels = []
        with tqdm(total=total, desc="near-duplicates", unit="file", disable=not progress) as bar:
            for repository, files in self._parcels:
                remaining = []
                for root, path in files:
                    bar.update()
                    row, _ = self._read_file(repository, root, path)
                    # An unreadable file stays: it is counted when it is read for the corpus.
                    if row is None or unique.add(row["text"]):
                        remaining.append((root, path))
                parcels.append((repository, remaining))

        self._parcels = [parcel for parcel in parcels if parcel[1]]
        return total - sum(len(files) for _, files in self._parcels)

    def read(self, epoch: int, lane: int, lanes: int, state: Any, counts: Counter[str]) -> Iterator[ReadStep]:
        """Yield the files of a lane of a pass; `state` is the number of parcels that were read."""
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self._parcels))[lane::lanes]
        start = state or 0
        for position, index in enumerate(order[start:], start + 1):
            repository, files = self._parcels[index]
            rows = []
            for number, (root, path) in enumerate(files, index * PARCEL_FILES):
                row, read = self._read_file(repository, root, path)
                counts.update({reason: len(names) for reason, names in read.left_out.items()})
                if number not in self._reported:
                    self._reported.add(number)
                    self.report.update(read)
                if row is not None:
                    rows.append(row)
            yield rows, partial(int, position)

    def _read_file(self, repository: str, root: Path, path: Path) -> tuple[CorpusRow | None, ReadingReport]:
        """Return a file as a row, or None if it is skipped, and the report of it."""
        report = ReadingReport()
        with report.guard(path):
            file = read_source(path, self.rules)
            if not file.source.strip():
                raise SkippedFileError("empty")
            report.read[file.language] += 1
            location = {"language": file.language, "path": path_below(root, path)}
            return {"text": file.text, "repository": repository, **location}, report
        return None, report


class DatasetSource:
    """A streamed dataset whose rows are files, or repositories with their `files`.

    Its shards (usually files) come in a new order in each epoch; the rows of a shard stay in order. If `lanes`
    divides the number of shards, each lane reads its own shards. Otherwise each lane reads all rows, and yields
    the repositories whose hashed names fall to it. Arguments as in `TreeSource`.

    Raises:
        ValueError: the dataset cannot be read or is empty, or no column holds the text or the repository.
    """

    def __init__(
        self,
        data: str | Path | Dataset,
        column_mapping: Mapping[str, str],
        split: str,
        includes: Callable[[str], bool],
        seed: int,
    ):
        self.name = "dataset" if isinstance(data, Dataset) else str(data)
        self.mapping, self.seed, self.includes = dict(column_mapping), seed, includes
        self.table: IterableDataset = load_table(data, split, streaming=True)
        try:
            first = next(iter(self.table), None)
        except Exception as error:  # readers raise many classes; name the dataset
            raise ValueError(f"dataset {self.name!r}: {error}") from error

        if first is None:
            raise ValueError(f"dataset {self.name!r} has no rows")

        self.columns = list(first)
        self._check_columns(first)
        names = self._names_in(self.columns)
        # Columns that are not read, such as licences and star counts, are not decoded.
        if self.table.column_names:
            self.table = self.table.select_columns(sorted(set(names.values())))

    def _names_in(self, columns: Collection[str]) -> dict[str, str]:
        """Return our names -> the dataset's, for those of `columns` that are read."""
        names = {}
        for ours, aliases in _ALIASES.items():
            mapped = [theirs for theirs, target in self.mapping.items() if target == ours]
            for theirs in (*mapped, ours, *aliases):
                if theirs in columns:
                    names[ours] = theirs
                    break
        return names

    def _check_columns(self, first: Mapping[str, Any]) -> None:
        names = self._names_in(self.columns)
        inner: Collection[str] = ()
        if "files" in names:
            files = _records(first[names["files"]])
            inner = list(files[0]) if files else ()
            inner_names = self._names_in(inner)
            if not files:  # a repository without files does not show their columns
                names.setdefault("text", names["files"])
            if "text" in inner_names:
                names["text"] = names["files"]
            if "repository" in inner_names:
                names.setdefault("repository", names["files"])

        for ours, content in (("text", "the source text"), ("repository", "the repository")):
            if ours in names:
                continue
            existing = ", ".join(self.columns) + (f" (of a file: {', '.join(inner)})" if inner else "")
            remedy = f"Name it with column_mapping={{'NAME': '{ours}'}}."
            if ours == "text" and "blob_id" in (*self.columns, *inner):
                remedy = "It has ids of contents: download those first, and store them as 'content'."
            raise ValueError(f"dataset {self.name!r} must have a column with {content}, got {existing}. {remedy}")

    def fingerprint(self) -> int:
        """Return 64 bits that differ if the name, the number of shards or the columns do."""
        return digest(self.name, self.table.num_shards, *self.columns)

    def read(self, epoch: int, lane: int, lanes: int, state: Any, counts: Counter[str]) -> Iterator[ReadStep]:
        """Yield the files of a lane of a pass; `state` has the index of the shard, and the position in it."""
        # A lane with its own shards never reads the rows of another lane.
        shards = np.random.default_rng([self.seed, epoch]).permutation(self.table.num_shards).tolist()
        own_shards = len(shards) % lanes == 0
        if own_shards:
            shards = shards[lane::lanes]

        def includes(repository: str) -> bool:
            in_lane = own_shards or digest("lane", repository) % lanes == lane
            return in_lane and self.includes(repository)

        start = state["shard"] if state else 0

        for index, shard in enumerate(shards[start:], start):
            table = self.table.shard(num_shards=self.table.num_shards, index=shard)
            if state and index == start:
                table.load_state_dict(state["rows"])
            position = partial(_position, index, table)
            # In batches of one: iterated directly, a dataset would split itself among the workers of a loader.
            for batch in table.iter(batch_size=1):
                row = {name: values[0] for name, values in batch.items()}
                yield self._rows_of(row, includes, counts), position

    def _rows_of(
        self, raw: Mapping[str, Any], includes: Callable[[str], bool], counts: Counter[str]
    ) -> list[CorpusRow]:
        """Return the files in a row of the dataset; skipped ones are counted."""
        names = self._names_in(raw)
        outer = {ours: raw[theirs] for ours, theirs in names.items() if ours != "files"}
        files = [outer]
        if "files" in names:
            files = [
                {**outer, **{ours: file[theirs] for ours, theirs in self._names_in(file).items() if file[theirs]}}
                for file in _records(raw[names["files"]])
            ]

        rows = (self._row_of_file(file, includes, counts) for file in files)
        return [row for row in rows if row is not None]

    def _row_of_file(
        self, file: Mapping[str, Any], includes: Callable[[str], bool], counts: Counter[str]
    ) -> CorpusRow | None:
        repository, content, path = (file.get(name) for name in ("repository", "text", "path"))
        if not repository:
            _count_skipped(counts, "without repository", path or self.name)
            return None
        if not includes(str(repository)):
            return None
        if isinstance(content, str | bytes) and content.strip() and len(content) > MAX_ROW_LENGTH:
            counts["too large"] += 1
            return None

        text = _decoded(content, f"{repository}: {path or 'a file'}", counts)
        if text is None:
            return None

        language = file.get("language") or (language_of(str(path)) if path else "") or ""
        row = {"text": text, "repository": repository, "language": str(language).lower(), "path": path or ""}
        return {name: str(value) for name, value in row.items()}


def _position(shard: int, table: IterableDataset) -> dict[str, Any]:
    return {"shard": shard, "rows": table.state_dict()}


def _records(files: Any) -> list[Mapping[str, Any]]:
    """Return a list of structs, which `datasets` can also store as a struct of lists."""
    if isinstance(files, Mapping):
        return [dict(zip(files, values, strict=True)) for values in zip(*files.values(), strict=True)]
    return list(files or ())


def _decoded(content: Any, what: str | Path, counts: Counter[str]) -> str | None:
    """Return the text of a file, or None if it is empty or binary, which is counted."""
    if not isinstance(content, str | bytes) or not content.strip():
        _count_skipped(counts, "empty", what)
        return None
    try:
        return decode_source(content).text if isinstance(content, bytes) else content
    except UndecodableError as error:
        _count_skipped(counts, "binary", what, str(error))
        return None


def _file_size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # counted when it is read
        return -1


def _count_skipped(counts: Counter[str], reason: str, what: str | Path, detail: str = "") -> None:
    """Count a file that should have been readable, and log a warning for the first of each reason."""
    counts[reason] += 1
    if counts[reason] == 1:
        logger.warning("%s: skipped: %s; others like it are only counted", what, detail or reason)
