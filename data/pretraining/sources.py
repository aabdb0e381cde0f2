"""What a corpus is read from: source trees, and datasets as they stream. Each can go on from any place."""

import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from datasets import Dataset, IterableDataset
from tqdm import tqdm

from mose.data.source.files import MAX_FILE_BYTES, candidate_files, rejection, repository_of
from mose.data.source.languages import language_of
from mose.data.source.near_duplicates import NearDuplicates
from mose.data.tables import load_table
from mose.utils.hashing import digest

logger = logging.getLogger(__name__)

#: One file of a repository: `text`, `repository`, `language` and `path`.
Row = dict[str, str]
#: How many files of one repository lie together when the files of source trees are shuffled.
PARCEL_FILES = 16
#: Other names for what a dataset's columns hold: those of The Stack v2, The Stack and their relatives.
_ALIASES = {
    "text": ("content", "code", "whole_func_string"),
    "repository": ("repo_name", "repository_name", "max_stars_repo_name", "repo"),
    "language": ("lang",),
    "path": ("max_stars_repo_path", "file_path", "func_path_in_repository"),
    "files": (),
}


class Reader(Protocol):
    """Reads one lane of a source for one pass."""

    def read(self) -> list[Row] | None:
        """The next files that belong together, perhaps none of them readable; None at the end."""

    def state(self) -> Any:
        """Where it stands after the last `read`: JSON."""


class Source(Protocol):
    """Something that a corpus is read from.

    A pass over it can be split into lanes, which are read independently of each other and together hold it all.
    """

    name: str

    def fingerprint(self) -> int:
        """Differs where another source would be read."""

    def reader(self, epoch: int, lane: int, lanes: int, state: Any, counts: Counter[str]) -> Reader:
        """Begins a pass, or goes on where `state` was taken (None: at the beginning)."""


class TreeSource:
    """Local source trees: each project, or package of a folder of packages, is a repository.

    Args:
        trees: Folders or files.
        wanted: Whether files of a repository are to be read, by its name.
        seed: Of the order, which is another in each epoch.
        languages: The languages wanted, all that can be read by default.
        files_per_repository: At most so many files of each repository, drawn by a hash of their paths; None: all.

    Raises:
        ValueError: A tree does not exist, or holds no source file.
    """

    def __init__(
        self,
        trees: Sequence[str | Path],
        wanted: Callable[[str], bool],
        seed: int,
        languages: Collection[str] | None = None,
        files_per_repository: int | None = None,
    ):
        self.name, self.seed = ", ".join(map(str, trees)), seed
        repositories: dict[str, list[tuple[Path, Path]]] = defaultdict(list)
        for root in map(Path, trees):
            before = sum(map(len, repositories.values()))
            for path in candidate_files(root, languages):
                repositories[repository_of(root, path)].append((root, path))
            if sum(map(len, repositories.values())) == before:
                raise ValueError(f"source tree {str(root)!r} holds no source file of a language that is read")
        if files_per_repository is not None:
            for repository, files in repositories.items():
                drawn = sorted(files, key=lambda file: digest("file", _below(*file)))[:files_per_repository]
                repositories[repository] = sorted(drawn)
        self.repositories = sorted(repositories)
        self._parcels = [
            (repository, files[start : start + PARCEL_FILES])
            for repository, files in sorted(repositories.items())
            if wanted(repository)
            for start in range(0, len(files), PARCEL_FILES)
        ]

    def fingerprint(self) -> int:
        return digest(
            *(
                f"{repository}/{_below(root, path)} {_size(path)}"
                for repository, files in self._parcels
                for root, path in files
            )
        )

    def drop_near_duplicates(self, seed: int, progress: bool = True) -> int:
        """Forgets the files that are near-duplicates of one before them; how many they were."""
        seen = NearDuplicates(seed=seed)
        kept = []
        with tqdm(
            total=sum(len(files) for _, files in self._parcels),
            desc="near-duplicates",
            unit="file",
            disable=not progress,
        ) as bar:
            for repository, files in self._parcels:
                new = []
                for root, path in files:
                    bar.update()
                    row = self._row(repository, root, path, Counter())
                    if row is None or seen.add(row["text"]):  # what cannot be read is counted when it is its turn
                        new.append((root, path))
                kept.append((repository, new))
        dropped = sum(len(files) for _, files in self._parcels) - sum(len(files) for _, files in kept)
        self._parcels = [parcel for parcel in kept if parcel[1]]
        return dropped

    def reader(self, epoch: int, lane: int, lanes: int, state: Any, counts: Counter[str]) -> "_TreeReader":
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self._parcels))
        return _TreeReader(self, [self._parcels[at] for at in order[lane::lanes]], state or 0, counts)

    def _row(self, repository: str, root: Path, path: Path, counts: Counter[str]) -> Row | None:
        try:
            data = path.read_bytes() if path.stat().st_size <= MAX_FILE_BYTES else None
        except OSError as error:
            _skip(counts, "unreadable", path, str(error))
            return None
        if data is not None and not data.strip():
            _skip(counts, "empty", path)
            return None
        if reason := rejection(path, data):
            counts[reason] += 1
            return None
        assert data is not None
        try:
            text = data.decode()
        except UnicodeDecodeError as error:
            _skip(counts, "undecodable", path, f"not UTF-8 at byte {error.start}")
            return None
        return {
            "text": text,
            "repository": repository,
            "language": language_of(path, data) or "",
            "path": _below(root, path),
        }


class _TreeReader:
    def __init__(self, source: TreeSource, parcels: list, start: int, counts: Counter[str]):
        self._source, self._parcels, self._at, self._counts = source, parcels, start, counts

    def read(self) -> list[Row] | None:
        if self._at >= len(self._parcels):
            return None
        repository, files = self._parcels[self._at]
        self._at += 1
        rows = (self._source._row(repository, root, path, self._counts) for root, path in files)
        return [row for row in rows if row is not None]

    def state(self) -> int:
        return self._at


class DatasetSource:
    """A dataset, read as a stream: rows that are files, or rows that are repositories with their `files`.

    Its shards (files, as a rule) come in another order in each epoch, the rows of a shard as they lie in it.
    Where `lanes` divides the number of shards a lane reads shards of its own; else each reads all rows and keeps
    the repositories whose names' hashes fall to it.

    Args:
        data: Hub id, local file or folder, or a dataset.
        column_mapping: From its names to `text`, `repository`, `language`, `path` and `files`.
        split: The split to read.
        wanted: Whether files of a repository are to be read, by its name.
        seed: Of the order of shards.

    Raises:
        ValueError: It can't be found or read, is empty, or no column holds the text or the repository.
    """

    def __init__(
        self,
        data: str | Path | Dataset,
        column_mapping: Mapping[str, str],
        split: str,
        wanted: Callable[[str], bool],
        seed: int,
    ):
        self.name = "dataset" if isinstance(data, Dataset) else str(data)
        self.mapping, self.seed, self.wanted = dict(column_mapping), seed, wanted
        self._table: IterableDataset = load_table(data, split, streaming=True)
        try:
            first = next(iter(self._table), None)
        except Exception as error:  # as in `load_table`
            raise ValueError(f"dataset {self.name!r}: {error}") from error
        if first is None:
            raise ValueError(f"dataset {self.name!r} has no rows")
        self.columns = list(first)
        self._check(first)
        names = self._names(self.columns)
        if self._table.column_names:
            self._table = self._table.select_columns(sorted(set(names.values())))

    def _names(self, columns: Collection[str]) -> dict[str, str]:
        """Which of the columns holds what."""
        names = {}
        for ours, aliases in _ALIASES.items():
            mapped = [theirs for theirs, target in self.mapping.items() if target == ours]
            for theirs in (*mapped, ours, *aliases):
                if theirs in columns:
                    names[ours] = theirs
                    break
        return names

    def _check(self, first: Mapping[str, Any]) -> None:
        names = self._names(self.columns)
        inner: Collection[str] = ()
        if "files" in names:
            files = _records(first[names["files"]])
            inner = list(files[0]) if files else ()
            if files and "text" in self._names(inner):
                names["text"] = names["files"]
            elif not files:  # nothing to see in this one
                names.setdefault("text", names["files"])
            if "repository" in self._names(inner):
                names.setdefault("repository", names["files"])
        for ours, what in (("text", "the source text"), ("repository", "the repository")):
            if ours in names:
                continue
            found = f"dataset {self.name!r} has the columns {', '.join(self.columns)}"
            if inner:
                found += f" (of a file: {', '.join(inner)})"
            hint = f"name it with column_mapping={{'NAME': '{ours}'}}"
            if ours == "text" and "blob_id" in (*self.columns, *inner):
                hint = "it holds ids of contents: download those first and store them as 'content'"
            raise ValueError(f"{found}: none of them is known to hold {what}; {hint}")

    def fingerprint(self) -> int:
        return digest(self.name, self._table.num_shards, *self.columns)

    def reader(self, epoch: int, lane: int, lanes: int, state: Any, counts: Counter[str]) -> "_DatasetReader":
        shards = np.random.default_rng([self.seed, epoch]).permutation(self._table.num_shards).tolist()
        own = len(shards) % lanes == 0
        return _DatasetReader(
            self, shards[lane::lanes] if own else shards, (0, 1) if own else (lane, lanes), state, counts
        )

    def rows_of(self, raw: Mapping[str, Any], keep: Callable[[str], bool], counts: Counter[str]) -> list[Row]:
        """The files in a row of the dataset."""
        names = self._names(raw)
        outer = {ours: raw[theirs] for ours, theirs in names.items() if ours != "files"}
        if "files" in names:
            files = [
                {**outer, **{ours: file[theirs] for ours, theirs in self._names(file).items() if file[theirs]}}
                for file in _records(raw[names["files"]])
            ]
        else:
            files = [outer]
        rows = []
        for file in files:
            repository, text, path = (file.get(name) for name in ("repository", "text", "path"))
            if not repository:
                _skip(counts, "without repository", path or self.name)
            elif not keep(str(repository)):
                continue
            elif not isinstance(text, str | bytes) or not text.strip():
                _skip(counts, "empty", f"{repository}: {path or 'a file'}")
            elif len(text) > MAX_FILE_BYTES:
                counts["too large"] += 1
            else:
                try:
                    text = text.decode() if isinstance(text, bytes) else text
                except UnicodeDecodeError as error:
                    _skip(
                        counts,
                        "undecodable",
                        f"{repository}: {path or 'a file'}",
                        f"not UTF-8 at byte {error.start}",
                    )
                    continue
                language = file.get("language") or (language_of(str(path)) if path else "") or ""
                rows.append(
                    {
                        "text": text,
                        "repository": str(repository),
                        "language": str(language).lower(),
                        "path": str(path or ""),
                    }
                )
        return rows


class _DatasetReader:
    def __init__(
        self,
        source: DatasetSource,
        shards: list[int],
        share: tuple[int, int],
        state: Mapping[str, Any] | None,
        counts: Counter[str],
    ):
        self._source, self._shards, self._share, self._counts = source, shards, share, counts
        self._at = 0 if state is None else state["shard"]
        self._table: IterableDataset | None = None
        self._rows: Iterator[Mapping[str, Any]] = iter(())
        if self._at < len(shards):
            self._open(None if state is None else state["rows"])

    def _open(self, state: Any) -> None:
        table = self._source._table
        self._table = table.shard(num_shards=table.num_shards, index=self._shards[self._at])
        if state is not None:
            self._table.load_state_dict(state)
        # Row by row in batches of one: iterated directly, a dataset would deal itself out to a loader's workers.
        self._rows = iter(self._table.iter(batch_size=1))

    def _keep(self, repository: str) -> bool:
        lane, lanes = self._share
        return self._source.wanted(repository) and (lanes == 1 or digest("lane", repository) % lanes == lane)

    def read(self) -> list[Row] | None:
        while self._at < len(self._shards):
            for batch in self._rows:
                raw = {name: values[0] for name, values in batch.items()}
                return self._source.rows_of(raw, self._keep, self._counts)
            self._at += 1
            if self._at < len(self._shards):
                self._open(None)
        return None

    def state(self) -> dict[str, Any]:
        rows = self._table.state_dict() if self._table is not None and self._at < len(self._shards) else None
        return {"shard": self._at, "rows": rows}


def _records(files: Any) -> list[Mapping[str, Any]]:
    """A list of structs, also where `datasets` gives it as a struct of lists."""
    if isinstance(files, Mapping):
        return [dict(zip(files, values, strict=True)) for values in zip(*files.values(), strict=True)]
    return list(files or ())


def _below(root: Path, path: Path) -> str:
    return path.name if path == root else path.relative_to(root).as_posix()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # counted when it is read
        return -1


def _skip(counts: Counter[str], reason: str, what: str | Path, why: str = "") -> None:
    """Counts a file that should have been readable, and warns of the first for each reason."""
    counts[reason] += 1
    if counts[reason] == 1:
        logger.warning("%s: skipped: %s; others like it are only counted", what, why or reason)
