"""Measure whether exact search stays within bounded memory: many queries among a million vectors on disk.

Writes a store of random unit vectors, as `mose eval encode` does, and searches it in a process of its own.
"memory" is the growth of that process's peak resident memory, mapped shards included. The sizes of one array of
all vectors and of all scores are shown beside it. The results of a few queries are checked against a plain sort.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from mose.benchmarks import command
from mose.benchmarks.command import Benchmark, Report
from mose.eval.topk import top_k
from mose.inference.store import Store, StoreSpec, open_for_writing, open_store

CHECKED = 5  # queries whose results are compared with a plain sort


class ExactSearch(Benchmark):
    """Time and peak memory of a search among many vectors on disk."""

    description = "Time and peak memory of a search among many vectors on disk."
    rounds = 3

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        command.add_count(parser, "--vectors", 1_000_000, "documents")
        command.add_count(parser, "--dim", 256, "size of a vector")
        command.add_count(parser, "--queries", 1000, "queries, all in one call")
        command.add_count(parser, "--k", 100, "documents returned for each query")
        command.add_count(parser, "--shard-rows", 4096, "documents per shard")
        help_text = "parent of the temporary vectors (default: %(default)s)"
        parser.add_argument("--folder", type=Path, default=Path("/var/tmp"), help=help_text)

    def measure(self, options: argparse.Namespace) -> Report:
        command.require_linux()
        with tempfile.TemporaryDirectory(dir=options.folder, prefix="mose-topk-") as scratch:
            folder = Path(scratch, "vectors")
            write_random_store(folder, options.vectors, options.dim, options.shard_rows)

            # Opening verifies the checksum of every shard, which a search does not.
            start = time.perf_counter()
            open_store(folder)
            checking = time.perf_counter() - start

            figures = command.in_fresh_process(search_store, folder, options)
        return {
            **figures,
            "checking_seconds": checking,
            "vectors_bytes": 4 * options.vectors * options.dim,
            "scores_bytes": 4 * options.vectors * options.queries,
        }

    def render(self, report: Report) -> str:
        rows = [
            ["search", f"{report['seconds']:.2f} s"],
            ["one query", f"{1000 * report['seconds'] / report['settings']['queries']:.2f} ms"],
            *([name, command.figure(report[f"{name}_bytes"], "MB")] for name in ("memory", "vectors", "scores")),
            ["checking the shards", f"{report['checking_seconds']:.2f} s"],
            ["largest error", f"{report['largest_error']:.1e}"],
        ]
        head = "{vectors:,} vectors of {dim}, {queries:,} queries, best {k}".format_map(report["settings"])
        return f"{head}\n{command.text_table(['', ''], rows)}"


def random_unit_vectors(rows: int, dim: int, seed: int) -> np.ndarray:
    """Return (rows, dim) random float32 vectors of unit norm."""
    vectors = np.random.default_rng(seed).standard_normal((rows, dim), dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def write_random_store(folder: Path, rows: int, dim: int, shard_rows: int) -> None:
    """Write a store of random unit vectors, shard by shard."""
    spec = StoreSpec("random", "random", {"dim": dim}, ("0",), rows, shard_rows)
    with open_for_writing(folder, spec) as (store, _):
        for shard in tqdm(spec.shards, desc="writing", unit=" shards", disable=None):
            span = spec.span(shard)
            vectors = random_unit_vectors(span.stop - span.start, dim, shard)
            store.write(shard, vectors[None])


def search_store(folder: Path, options: argparse.Namespace) -> Report:
    """Search in this process and return the costs."""
    if options.threads:
        torch.set_num_threads(options.threads)
    documents = Store.read(folder)["0"]
    queries = random_unit_vectors(options.queries, options.dim, -1 % 2**32)

    # The first matrix product starts threads, whose stacks are not the search's memory.
    top_k(queries[:1], next(documents.blocks()), 1)
    seconds: list[float] = []
    results: list[np.ndarray] = []

    def search_in_rounds() -> None:
        for _ in range(options.rounds):
            start = time.perf_counter()
            results[:] = top_k(queries, documents, options.k)
            seconds.append(time.perf_counter() - start)

    before, peak = command.peak_memory(search_in_rounds)
    scores, positions = results

    # A plain sort of all scores is affordable for a few queries only.
    every = np.concatenate([queries[:CHECKED] @ block.T for block in documents.blocks()], axis=1)
    expected = np.sort(every, axis=1)[:, ::-1][:, : options.k]
    return {
        "seconds": float(np.median(seconds)),
        "memory_bytes": peak - before,
        "largest_error": float(np.abs(scores[:CHECKED] - expected).max()),
        "results": int(positions.size),
    }


if __name__ == "__main__":
    sys.exit(ExactSearch().main())
