"""Measure an index of a million units: building, size, memory, queries with and without the graph of neighbours.

The units are copies of those of a source tree. Every copy of a unit has another name, and its embedding is that
of the unit with noise, so that nothing has to be embedded a million times. Everything else is what `index` and
`query` do. Queries are names of units in words. The recall is that of the units nearest to a query, and of the
hits in the end; both against a search that compares with all units.

    python benchmarks/million.py --units 100000 1000000
"""

import argparse
import dataclasses
import random
import sys
import sysconfig
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, overload

import numpy as np

from mose.benchmarks import command
from mose.benchmarks.command import Benchmark, Report
from mose.benchmarks.query import words_of_name
from mose.search import neighbours
from mose.search.commands.demo import STDLIB_TESTS
from mose.search.evidence import CANDIDATES
from mose.search.index import Index
from mose.search.ranking.ranker import best_rows_by
from mose.search.records import Entry
from mose.search.snapshot import Snapshot, Units, read_snapshot
from mose.search.store import META_ROW, TABLE, Location, open_table
from mose.search.writing import NewRows, index_writer
from mose.utils.locations import cache_folder, package_folder

#: Length of the noise that is added to an embedding of length 1.
NOISE = 0.3
#: Neighbours whose recall is measured.
DEPTHS = (10, 100)


class Copies(Sequence[Entry]):
    """Units over and over again, each time in another folder and under another name.

    Args:
        units: the units.
        count: number of copies of all together.
    """

    def __init__(self, units: Units, count: int):
        self._units, self._count = units.take(range(len(units))), count

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, row: int) -> Entry: ...
    @overload
    def __getitem__(self, row: slice) -> list[Entry]: ...
    def __getitem__(self, row: int | slice) -> Entry | list[Entry]:
        if isinstance(row, slice):
            return [self[place] for place in range(*row.indices(len(self)))]
        copy, place = divmod(range(len(self))[row], len(self._units))
        unit = self._units[place]
        name = f"{unit.name}_{copy}"
        qualified_name = f"{unit.qualified_name.removesuffix(unit.name)}{name}"
        return unit._replace(
            path=f"copy{copy}/{unit.path}",
            name=name,
            qualified_name=qualified_name,
            source=unit.source.replace(unit.name, name, 1),
        )


class NoisyVectors:
    """The embeddings of `Copies`, made when they are needed."""

    def __init__(self, vectors: np.ndarray, count: int):
        self._vectors, self._count = vectors, count

    def __getitem__(self, rows: slice) -> np.ndarray:
        copied = self._vectors[np.arange(*rows.indices(self._count)) % len(self._vectors)]
        noise = np.random.default_rng(rows.start).standard_normal(copied.shape, dtype=np.float32)
        noisy = copied + NOISE * noise / np.sqrt(np.float32(copied.shape[1]))
        return noisy / np.linalg.norm(noisy, axis=1, keepdims=True)


class Million(Benchmark):
    """Costs and recall of large indexes."""

    description = "Building, size, memory, queries and recall of an index of a million units."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the sizes, and what is copied."""
        help_text = "units of the indexes to measure (default: %(default)s)"
        parser.add_argument("--units", type=int, nargs="+", default=[1_000_000], metavar="N", help=help_text)
        help_text = "folder whose units are copied (default: this Python's standard library)"
        parser.add_argument("--source-tree", type=Path, metavar="DIR", help=help_text)
        help_text = "parent of the temporary indexes (default: %(default)s)"
        parser.add_argument("--folder", type=Path, default=Path("/var/tmp"), help=help_text)
        command.add_count(parser, "--queries", 100, "number of queries")
        help_text = "time queries in processor time, which other processes disturb less"
        parser.add_argument("--cpu-time", action="store_true", help=help_text)

    def measure(self, options: argparse.Namespace) -> Report:
        """Build an index of each size, search it and remove it."""
        command.require_linux()
        tree, exclude = options.source_tree, []
        if tree is None:
            tree, exclude = Path(sysconfig.get_paths()["stdlib"]), list(STDLIB_TESTS)
        base = cache_folder() / "indexes" / f"benchmark-{tree.resolve().name}-exit0"
        Index.build(tree, str(package_folder()), None, base, 0, exclude=exclude)

        sizes: dict[str, Report] = {}
        for units in options.units:
            with tempfile.TemporaryDirectory(dir=options.folder, prefix="mose-million-") as scratch:
                path = Path(scratch, "index")
                figures = command.in_fresh_process(write_index, base, path, units)
                figures |= command.in_fresh_process(link_index, path)
                figures |= command.in_fresh_process(search_index, path, options.queries, options.cpu_time)
            sizes[f"{units:,}"] = figures
            print(f"{units:,}: {figures}", file=sys.stderr, flush=True)
        return {"source_tree": str(tree.resolve()), "sizes": sizes}

    def render(self, report: Report) -> str:
        """Return a row for each figure, and a column for each size."""
        rows = {
            "writing, processor s": ("writing", ".0f"),
            "graph, processor s": ("linking", ".0f"),
            "table on disk": ("table_bytes", "MB"),
            "graph on disk": ("graph_bytes", "MB"),
            "memory of writing": ("writing_memory", "MB"),
            "opening, processor s": ("opening", ".1f"),
            "memory after opening": ("open_memory", "MB"),
            "memory after all queries": ("memory", "MB"),
        }

        rows |= {
            f"{way}, ms {label}": (f"{way} {label}", ".1f")
            for way in ("neighbours exact", "neighbours graph", "query exact", "query graph")
            for label in ("p50", "p95")
        }
        rows |= {f"recall of {depth} neighbours": (f"recall_{depth}", ".4f") for depth in DEPTHS}
        rows |= {"recall of 10 hits": ("recall_hits", ".4f"), "same first hit": ("same_first", ".3f")}

        sizes = report["sizes"]
        lines = [
            [label, *(command.figure(figures[key], spec) for figures in sizes.values())]
            for label, (key, spec) in rows.items()
        ]
        return command.text_table(["units", *sizes], lines)


def write_index(base: Path, path: Path, count: int) -> Report:
    """Write an index of copies of the units of another one."""
    snapshot = read_snapshot(Location(str(base)))
    # The folder does not exist: nothing is to be brought up to date.
    tree = dataclasses.replace(snapshot.meta.trees[0], root=str(path.parent / "tree"))
    meta = dataclasses.replace(snapshot.meta, trees=(tree,))
    vectors: Any = NoisyVectors(snapshot.vectors, count)
    rows = NewRows([0] * count, Copies(snapshot.units, count), vectors, {})

    def write() -> None:
        with index_writer(Location(str(path))) as writer:
            writer.replace(meta, rows)

    start = time.process_time()
    before, peak = command.peak_memory(write)
    return {
        "writing": time.process_time() - start,
        "writing_memory": peak - before,
        "table_bytes": size_of(path / TABLE),
    }


def link_index(path: Path) -> Report:
    """Make the graph of an index, whatever its size."""
    neighbours.LEAST_UNITS = 0
    location = Location(str(path))
    table = open_table(location)
    rows = table.to_table(columns=[], filter=f"kind != '{META_ROW}'", with_row_address=True)
    start = time.process_time()
    neighbours.update_neighbours(location, table, rows.column("_rowaddr").to_numpy())
    return {"linking": time.process_time() - start, "graph_bytes": size_of(path / TABLE / "_indices")}


def search_index(path: Path, count: int, cpu_time: bool) -> Report:
    """Open an index and search it, with and without its graph."""
    opened: list[Index] = []
    start = time.process_time()
    before, peak = command.peak_memory(lambda: opened.append(Index.open(path, refresh=False)))
    figures: Report = {"opening": time.process_time() - start, "open_memory": peak - before}

    index = opened[0]
    names = sorted({words_of_name(name.rpartition("_")[0]) for name in index.units.column("name")})
    names = [name for name in names if " " in name]
    queries = random.Random(0).sample(names, min(count, len(names)))
    hits: dict[bool, list[list[str]]] = {True: [], False: []}

    def search(number: int, exact: bool) -> None:
        hits[exact].append(
            [f"{hit.path} {hit.start_line}" for hit in index.search(queries[number], 10, exact=exact)]
        )

    def nearest(number: int, exact: bool) -> None:
        near(index.snapshot, vectors[number], 100, exact)

    def run() -> None:
        tasks = {
            "neighbours exact": partial(nearest, exact=True),
            "neighbours graph": partial(nearest, exact=False),
            "query exact": partial(search, exact=True),
            "query graph": partial(search, exact=False),
        }
        if index.snapshot.neighbours is None:
            tasks = {name: task for name, task in tasks.items() if name.endswith("exact")}
        clock = time.process_time if cpu_time else None
        for name, timing in command.interleave(tasks, len(queries), 3, clock=clock).items():
            figures.update({f"{name} p{percent}": 1000 * timing.percentile(percent) for percent in (50, 95)})

    vectors = [index._query_encoder().query(query) for query in queries]
    _, peak = command.peak_memory(run)
    figures["memory"] = peak - before
    if index.snapshot.neighbours is None:
        return figures

    for depth in DEPTHS:
        shares = [
            len(set(near(index.snapshot, vector, depth, True)) & set(near(index.snapshot, vector, depth, False)))
            for vector in vectors
        ]
        figures[f"recall_{depth}"] = float(np.mean(shares)) / depth
    # The rounds before are there to warm up.
    pairs = [(set(a), set(b), a[0] == b[0]) for a, b in zip(hits[True][3:], hits[False][3:], strict=True)]
    figures["recall_hits"] = float(np.mean([len(a & b) / len(a) for a, b, _ in pairs]))
    figures["same_first"] = float(np.mean([same for *_, same in pairs]))
    return figures


def near(snapshot: Snapshot, vector: np.ndarray, count: int, exact: bool) -> list[int]:
    """Return the rows of the units that are most similar to a vector."""
    if exact:
        return best_rows_by(snapshot.vectors @ vector, count, snapshot.catalogue.position).tolist()
    assert snapshot.neighbours is not None
    rows = snapshot.neighbours.nearest(vector, CANDIDATES)
    return rows[best_rows_by(snapshot.vectors[rows] @ vector, count, snapshot.catalogue.position[rows])].tolist()


def size_of(folder: Path) -> int:
    """Return the bytes of all files of a folder; 0 if there is none."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


if __name__ == "__main__":
    sys.exit(Million().main())
