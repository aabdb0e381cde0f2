"""Does searching stay within bounded memory? The best documents of many queries among a million vectors on disk.

Makes a store of random unit vectors, as `python -m mose.eval encode` would write it, and searches it from a
process of its own. "memory" is by how much the peak of that process's resident memory exceeds what it held
before: mapped shards and blocks of scores count, and so do results. Beside it stands what one array of all the
vectors and one of all scores would take. The answers are checked against a plain sort for a few queries.
"""

import argparse
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from command import Report, new_parser, positive, run, table
from loading import process_facts
from tqdm import tqdm

from mose.eval.topk import top_k
from mose.inference.store import Store, StoreSpec, open_for_writing, open_store

CHECKED = 5  # queries whose answers are compared with a plain sort


def vectors(rows: int, dim: int, seed: int) -> np.ndarray:
    """(rows, dim) float32 random unit vectors."""
    found = np.random.default_rng(seed).standard_normal((rows, dim), dtype=np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def write(folder: Path, rows: int, dim: int, shard_rows: int) -> None:
    spec = StoreSpec("random", "random", {"dim": dim}, ("0",), rows, shard_rows)
    with open_for_writing(folder, spec) as (store, _):
        for shard in tqdm(spec.shards, desc="writing", unit=" shards", disable=None):
            span = spec.span(shard)
            store.write(shard, vectors(span.stop - span.start, dim, shard)[None])


def search(folder: Path, queries: int, k: int, rounds: int, threads: int) -> dict[str, Any]:
    """Searches in this process and says what that took."""
    torch.set_num_threads(threads)
    documents = Store.read(folder)["0"]
    dim = next(documents.blocks()).shape[1]
    asked = vectors(queries, dim, -1 % 2**32)
    top_k(asked[:1], next(documents.blocks()), 1)  # starts the threads of the matrix products
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts again from what is resident now
    resident = process_facts("status")["VmRSS"]
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        scores, positions = top_k(asked, documents, k)
        seconds.append(time.perf_counter() - start)
    memory = 1024 * (process_facts("status")["VmHWM"] - resident)
    every = np.concatenate([asked[:CHECKED] @ block.T for block in documents.blocks()], axis=1)
    expected = np.sort(every, axis=1)[:, ::-1][:, :k]
    return {
        "seconds": float(np.median(seconds)),
        "memory_bytes": memory,
        "largest_error": float(np.abs(scores[:CHECKED] - expected).max()),
        "results": int(positions.size),
    }


def measure(args: argparse.Namespace) -> Report:
    if sys.platform != "linux":
        raise RuntimeError(f"needs Linux's /proc, this is {sys.platform}")
    context = multiprocessing.get_context("fork")  # quick, and its memory is reckoned from what it begins with
    with tempfile.TemporaryDirectory(dir=args.folder, prefix="mose-topk-") as scratch:
        folder = Path(scratch, "vectors")
        write(folder, args.vectors, args.dim, args.shard_rows)
        start = time.perf_counter()
        open_store(folder)
        checking = time.perf_counter() - start
        with ProcessPoolExecutor(1, context) as process:
            threads = torch.get_num_threads()
            found = process.submit(search, folder, args.queries, args.k, args.rounds, threads).result()
    return {
        **found,
        "checking_seconds": checking,
        "vectors_bytes": 4 * args.vectors * args.dim,
        "scores_bytes": 4 * args.vectors * args.queries,
    }


def render(report: Report) -> str:
    settings = report["settings"]
    rows = [
        ["search", f"{report['seconds']:.2f} s"],
        ["a query", f"{1000 * report['seconds'] / settings['queries']:.2f} ms"],
        ["memory", f"{report['memory_bytes'] / 1e6:,.0f} MB"],
        ["all vectors", f"{report['vectors_bytes'] / 1e6:,.0f} MB"],
        ["all scores", f"{report['scores_bytes'] / 1e6:,.0f} MB"],
        ["checking the shards", f"{report['checking_seconds']:.2f} s"],
        ["largest error", f"{report['largest_error']:.1e}"],
    ]
    heading = f"{settings['vectors']:,} vectors of {settings['dim']}, {settings['queries']:,} queries, best"
    return f"{heading} {settings['k']}\n" + table(["", ""], rows)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = new_parser("Time and peak memory of a search among many vectors on disk.", rounds=3)
    for flag, default, what in (
        ("--vectors", 1_000_000, "documents"),
        ("--dim", 256, "their width"),
        ("--queries", 1000, "queries, all at once"),
        ("--k", 100, "documents wanted for each"),
        ("--shard-rows", 4096, "documents per shard"),
    ):
        parser.add_argument(
            flag, type=positive, default=default, metavar="N", help=f"{what} (default: {default})"
        )
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path("/var/tmp"),
        help="where to put the vectors for the time of the run (default: %(default)s)",
    )
    return run(parser, measure, render, arguments)


if __name__ == "__main__":
    sys.exit(main())
