"""The indexes that a server answers from: opened when needed, brought up to date before each answer."""

import threading
import time
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from mose.search.index import Hit, Index
from mose.search.places import default_location
from mose.search.progress import BuildProgress
from mose.search.records import Entry
from mose.search.similar import CodeQuery, find_similar
from mose.search.store import SearchIndexError
from mose.utils.locations import package_folder

#: Seconds after which trees are looked at again for changed files.
MAX_AGE = 2.0


class UnitPlace(NamedTuple):
    """A unit, by its row in its index."""

    source: Index
    row: int

    @property
    def entry(self) -> Entry:
        """The unit, with its source."""
        return self.source.units[self.row]

    @property
    def position(self) -> tuple[str, int, int]:
        """Absolute path, and first and last line."""
        return f"{self.column('root')}/{self.column('path')}", self.column("start_line"), self.column("end_line")

    def column(self, name: str) -> Any:
        """Return a field of the unit, without reading its source."""
        return self.source.units.column(name)[self.row]


class Workspace:
    """Several indexes, searched as one. Safe for use by several threads.

    Only what an index holds is returned. Files are read to be indexed alone, below the trees of the indexes and
    below `allowed`.

    Args:
        locations: folders or URIs of indexes.
        allowed: folders that may be indexed, with all folders inside. If one has an index in the user's cache,
            that is searched from the start.
        model: folder or Hub id of the model of new indexes, and of those whose model has moved; None means the
            shipped model.
        exit_layer: exit of new indexes. None means exit 0 for the shipped model, which ranks as well there as at
            any, and else the deepest.
        trust_remote_code: run the code stored beside the weights.
    """

    def __init__(
        self,
        locations: Sequence[str] = (),
        allowed: Sequence[Path] = (),
        model: str | None = None,
        exit_layer: int | None = None,
        trust_remote_code: bool = False,
    ):
        self.allowed = tuple(folder.resolve() for folder in allowed)
        self._model, self._trust = model, trust_remote_code
        # Exit 0 takes no torch, so that an edit is embedded at once.
        self._exit_layer = 0 if exit_layer is None and model is None else exit_layer
        self._lock = threading.Lock()  # of the table of indexes
        self._building = threading.Lock()  # one build at a time: each takes all cores
        self._indexes: dict[str, Index] = {}

        cached = (default_location(folder) for folder in self.allowed)
        self._pending = [*locations, *(location.name for location in cached if location.exists())]

    def indexes(self) -> list[Index]:
        """Return the indexes, as new as their trees.

        Raises:
            SearchIndexError: an index is missing or damaged, or there is none.
        """
        with self._lock:
            while self._pending:
                name = self._pending[0]
                if name not in self._indexes:
                    self._indexes[name] = self._open(name)
                # Only now: if it cannot be opened, the next call says so again.
                self._pending.pop(0)
            indexes = list(self._indexes.values())

        for index in indexes:
            index.refresh(max_age=MAX_AGE)
        if not indexes:
            folders = ", ".join(map(str, self.allowed)) or "none: the user must start the server with --allow DIR"
            raise SearchIndexError(f"Nothing is indexed yet. Call index_folder first; it may index {folders}.")
        return indexes

    def stale(self) -> str:
        """Return why the indexes may be older than their trees; "" if they are not."""
        with self._lock:
            return "; ".join(index.stale for index in self._indexes.values() if index.stale)

    def search(self, query: str, top_k: int, folder: str | None = None, **options: Any) -> list[Hit]:
        """Return the best hits of all indexes, or of one folder, best first.

        Args:
            query: as for `Index.search`.
            top_k: maximum number of hits.
            folder: root or label of an indexed tree; None means all.
            options: those of `Index.search`.

        Raises:
            ValueError: bad arguments, or the folder is not indexed.
            SearchIndexError: nothing is indexed, or an index is damaged.
        """
        return self._best(lambda index, count: index.search(query, count, **options), top_k, folder)

    def units_of(self, path: str, folder: str | None = None) -> list[UnitPlace]:
        """Return the units of a file, in the order of their lines.

        Args:
            path: in its tree, or absolute.
            folder: root or label of the tree; None means any.

        Raises:
            ValueError: the folder is not indexed, or no indexed file has this path, or several have.
            SearchIndexError: nothing is indexed, or an index is damaged.
        """
        indexes = self.indexes()
        root = None if folder is None else _root(indexes, folder)
        wanted = path.replace("\\", "/").removeprefix("./")
        places: dict[str, list[tuple[int, int, UnitPlace]]] = {}

        for index in indexes:
            columns = (index.units.column(name) for name in ("root", "path", "start_line", "end_line"))
            for row, (tree, known, start, end) in enumerate(zip(*columns, strict=True)):
                if root in (None, tree) and wanted in (known, f"{tree}/{known}"):
                    # Of units that begin together, such as a class and its first method, the outer one first.
                    places.setdefault(tree, []).append((start, -end, UnitPlace(index, row)))

        if not places:
            raise ValueError(f"{path}: no indexed file has this path. Pass one as search_code returns it.")
        if len(places) > 1:
            raise ValueError(f"{path} is in {' and in '.join(sorted(places))}. Pass an absolute path.")
        (units,) = places.values()
        return [place for *_, place in sorted(units, key=lambda unit: unit[:2])]

    def similar(self, query: CodeQuery, top_k: int, folder: str | None = None, **options: Any) -> list[Hit]:
        """Return the units of all indexes, or of one folder, that are most similar to code, best first.

        Args:
            query: the code, and where it is if it is indexed: then it is left out of the answer.
            top_k: maximum number of hits.
            folder: root or label of an indexed tree; None means all.
            options: those of `find_similar`.

        Raises:
            ValueError: bad arguments, or the folder is not indexed.
            SearchIndexError: nothing is indexed, or an index is damaged.
        """
        return self._best(lambda index, count: find_similar(index, query, count, **options), top_k, folder)

    def _best(self, hits_of: Callable[[Index, int], list[Hit]], top_k: int, folder: str | None) -> list[Hit]:
        """Return the best hits of all indexes, or of one tree, by a function that returns those of an index."""
        indexes = self.indexes()
        root = None if folder is None else _root(indexes, folder)
        hits: list[Hit] = []
        for index in indexes:
            if root is None or root in _roots(index):
                hits += _hits_below(partial(hits_of, index), top_k, root)

        # Scores can be compared across indexes: each is a confidence, or a sum of shares.
        ordered = sorted(hits, key=lambda hit: -hit.score)
        return _unique(ordered, lambda hit: (f"{hit.root}/{hit.path}", hit.start_line, hit.end_line))[:top_k]

    def index_folder(self, folder: str, progress: BuildProgress = False) -> tuple[Index, str, float]:
        """Index a folder, or bring its index up to date.

        Args:
            folder: absolute, or relative to the first of `allowed`.
            progress: report to this function.

        Returns:
            The index, the root of the tree in it that holds the folder, and the seconds that it took.

        Raises:
            ValueError: there is no such folder, or it may not be indexed.
            SearchIndexError: there is nothing to index, or another process is indexing it.
        """
        start = time.perf_counter()
        # `resolve` follows links, so that none leads out of the folders that are allowed.
        path = Path(self.allowed[0] if self.allowed else ".", Path(folder).expanduser()).resolve()

        with self._building:
            for index in self._known():
                for root in _roots(index):
                    if path.is_relative_to(root) and path.is_dir():
                        index.report = index.refresh(progress=progress)
                        return index, root, time.perf_counter() - start

            if not any(path.is_relative_to(allowed) for allowed in self.allowed):
                allowed = ", ".join(map(str, self.allowed)) or "no folder"
                reason = f"{folder}: this server may index {allowed}"
                raise ValueError(f"{reason}. The user can start it with --allow {folder}.")
            # Only now, so that nobody learns which folders there are elsewhere.
            if not path.is_dir():
                raise ValueError(f"{folder}: no such folder.")

            location = default_location(path)
            model = self._model or str(package_folder())
            settings: dict[str, Any] = {"progress": progress, "trust_remote_code": self._trust}
            index = Index.build(path, model, None, location.name, self._exit_layer, **settings)
            with self._lock:
                self._indexes[location.name] = index
        return index, str(path), time.perf_counter() - start

    def _known(self) -> list[Index]:
        """Return the indexes that can be opened. One that cannot is no reason not to build it anew."""
        try:
            return self.indexes()
        except SearchIndexError:
            with self._lock:
                return list(self._indexes.values())

    def _open(self, name: str) -> Index:
        return Index.open(name, model=self._model, trust_remote_code=self._trust, refresh=False)


def _roots(index: Index) -> list[str]:
    return [tree.root for tree in index.trees]


def _root(indexes: Sequence[Index], folder: str) -> str:
    """Return the root of the tree that a folder names."""
    trees = [tree for index in indexes for tree in index.trees]
    for tree in trees:
        if folder.rstrip("/") in (tree.root, tree.label) or str(Path(folder).expanduser().resolve()) == tree.root:
            return tree.root
    raise ValueError(f"{folder} is not indexed. Indexed are: {', '.join(tree.root for tree in trees)}.")


def _unique(hits: Sequence[Hit], key: Callable[[Hit], Hashable]) -> list[Hit]:
    """Return the first hit of each key. An index of a folder and one of a folder inside hold the same units."""
    unique: dict[Hashable, Hit] = {}
    for hit in hits:
        unique.setdefault(key(hit), hit)
    return list(unique.values())


def _hits_below(hits_of: Callable[[int], list[Hit]], top_k: int, root: str | None) -> list[Hit]:
    """Return the best hits of one tree of an index, by a function of their number; None for all trees."""
    count = top_k
    while True:
        hits = hits_of(count)
        below = hits if root is None else [hit for hit in hits if hit.root == root]
        if len(below) >= top_k or len(hits) < count:
            return below[:top_k]
        # Hits of other trees are in front of them.
        count *= 4
