"""Approximate search of embeddings, for an index so large that comparing a query with each unit is slow.

Lance keeps a graph of near neighbours (HNSW), in which one byte stands for each number of an embedding. A search
walks the graph, and computes the similarities of the units that it meets. Units that came after it was made are
compared one by one, and units that have gone are passed over: a graph never has to be up to date.

Each graph is sealed by a digest of its files, for damage in it would hide units without any error.
"""

import hashlib
from typing import Any

import numpy as np

from mose.search.progress import BuildProgress, progress_bar
from mose.search.store import Location, reading

#: Units from which a graph pays, in memory and time to make it (`benchmarks/million.py`).
LEAST_UNITS = 200_000
#: Share of the units outside the graph, or gone from it, from which it is made again.
MOST_CHANGED = 0.1
#: Neighbours of a unit in the graph, and units that are looked at when it is linked.
DEGREE, BUILD_BREADTH = 20, 100
#: Units that a search looks at: at least so many, and one of so many of all. A narrow search in a large graph may
#: never reach the right part of it.
BREADTH, BREADTH_SHARE = 400, 125
_NAME, _SEAL = "neighbours", "mose.search.neighbours"
#: Steps in which Lance makes a graph.
_STEPS = 4
_BLOCK = 1 << 20


class Neighbours:
    """The graph of a version of an index.

    Args:
        location: of the index.
        table: the version.
        addresses: (units,) place of each unit in the table.
    """

    def __init__(self, location: Location, table: Any, addresses: np.ndarray):
        self._location, self._table = location, table
        self._order = np.argsort(addresses)
        self._addresses = addresses[self._order]

    def nearest(self, vector: np.ndarray, count: int) -> np.ndarray:
        """Return the rows of the units that are most similar to a vector, (count,) or fewer, in no order.

        Raises:
            DamagedIndexError: the graph cannot be read.
        """
        return self._search(vector, count, max(BREADTH, 2 * count, len(self._order) // BREADTH_SHARE))

    def _search(self, vector: np.ndarray, count: int, breadth: int) -> np.ndarray:
        search = {"column": "vector", "q": vector, "k": count, "nprobes": 1, "ef": breadth}
        with reading(self._location):
            near = self._table.scanner(columns=[], with_row_id=True, nearest=search).to_table()
        places = np.searchsorted(self._addresses, near.column("_rowid").to_numpy())
        return self._order[places]

    def lowest(self, vector: np.ndarray, vectors: np.ndarray) -> float:
        """Return about the similarity of the unit that is least similar to a vector.

        Args:
            vector: (dim,).
            vectors: (units, dim) embeddings of the units.
        """
        # It only sets where a scale begins, for which a narrow search is exact enough.
        return float((vectors[self._search(-vector, 1, BREADTH)] @ vector).min())


def open_neighbours(location: Location, table: Any, addresses: np.ndarray) -> Neighbours | None:
    """Return the graph of a version; None if it has none that is whole.

    Args:
        location: of the index.
        table: the version.
        addresses: (units,) place of each unit in the table.

    Raises:
        DamagedIndexError: its files are not as they were written.
    """
    with reading(location):
        graph = _graph(table)
        if graph is None:
            return None
        stated = table.config().get(_SEAL, "")
        if stated.partition(" ")[0] != graph["uuid"]:
            return None  # the process that made it was killed before it was sealed
        if stated != _seal(location, graph["uuid"]):
            raise location.damaged("its graph of neighbours does not have the digest that it states")
    return Neighbours(location, table, addresses)


def update_neighbours(
    location: Location, table: Any, addresses: np.ndarray, progress: BuildProgress = False
) -> bool:
    """Make the graph of the newest version, if it is large and has none, or one that is out of date.

    Args:
        location: of the index.
        table: its newest version.
        addresses: (units,) place of each unit in the table.
        progress: show a bar on stderr, or report to a function.

    Returns:
        True if a graph was made, in a version of its own.
    """
    if len(addresses) < LEAST_UNITS or _is_recent(table, addresses):
        return False

    with progress_bar(progress, total=_STEPS, desc="Linking neighbours", unit=" steps") as bar:

        def show(event: Any) -> None:
            if event.event == "complete":
                bar.update(1)

        settings = {"num_partitions": 1, "m": DEGREE, "ef_construction": BUILD_BREADTH}
        table = table.create_index(
            "vector", "IVF_HNSW_SQ", _NAME, "dot", replace=True, progress_callback=show, **settings
        )
    table.update_config({_SEAL: _seal(location, _graph(table)["uuid"])})
    return True


def _is_recent(table: Any, addresses: np.ndarray) -> bool:
    graph = _graph(table)
    if graph is None or not table.config().get(_SEAL, "").startswith(graph["uuid"]):
        return False
    fragments = np.array(sorted(graph["fragment_ids"]), np.uint64)
    inside = int(np.isin(addresses >> np.uint64(32), fragments).sum())
    graphs = table.stats.index_stats(_NAME)["indices"]
    linked = sum(partition["size"] for one in graphs for partition in one["partitions"])
    changed = (len(addresses) - inside) + (linked - inside)
    return changed <= MOST_CHANGED * len(addresses)


def _graph(table: Any) -> Any:
    """Return what Lance says of the graph; None if there is none."""
    graphs = [index for index in table.list_indices() if index["name"] == _NAME]
    return graphs[0] if graphs else None


def _seal(location: Location, uuid: str) -> str:
    """Return the name of a graph and the digest of its files. An object store has digests of its own."""
    digest = hashlib.blake2b(digest_size=16)
    if location.folder is not None:
        folder = location.folder.resolve() / "units.lance" / "_indices" / uuid
        for file in sorted(folder.iterdir()):
            digest.update(file.name.encode())
            with file.open("rb") as stream:
                while block := stream.read(_BLOCK):
                    digest.update(block)
    return f"{uuid} {digest.hexdigest()}"
