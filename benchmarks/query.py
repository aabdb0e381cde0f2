"""How long does a query take on a built index? The model is loaded and the index open; printing is not counted.

The queries are names of indexed functions in words ("parse iso date"), so that there are many, none asked twice.
"""

import argparse
import re
import sys
import sysconfig
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import faiss
from command import Report, new_parser, positive, run, table
from timing import interleave
from transformers.utils import logging

from mose.eval import speed
from mose.inference.encoding import encode
from mose.inference.loading import load_model
from mose.search import Index
from mose.search.commands.demo import STDLIB_TESTS
from mose.search.ranking import DEFAULT_HYBRID
from mose.tokenization.prompts import text_prompt
from mose.utils.locations import cache_folder, package_folder


@contextmanager
def clock(steps: dict[str, float], name: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    steps[name] = time.perf_counter() - start


def in_words(name: str) -> str:
    """An identifier as one would say it: `parseISODate` gives `parse iso date`."""
    return re.sub(r"_+|(?<=[a-z0-9])(?=[A-Z])", " ", name).strip().lower()


def measure(args: argparse.Namespace) -> Report:
    logging.disable_progress_bar()
    if args.threads:
        faiss.omp_set_num_threads(args.threads)
    tree, exclude = args.source_tree, []
    if tree is None:
        tree, exclude = Path(sysconfig.get_paths()["stdlib"]), list(STDLIB_TESTS)
    if not tree.is_dir():
        raise ValueError(f"--source-tree {tree}: no such folder")
    steps: dict[str, float] = {}
    with clock(steps, "model"):
        model, tokenizer, exits = load_model(args.model, None if args.exit_layer is None else [args.exit_layer])
    k = exits[-1]
    path = args.index or cache_folder() / "indexes" / f"benchmark-{tree.resolve().name}-exit{k}"
    with clock(steps, "indexing"):
        built = Index.build(tree, model, tokenizer, path, k, exclude=exclude)
    with clock(steps, "opening"):
        index = Index.load(path, model, tokenizer)
    names = sorted({in_words(name) for name in index.functions["name"]})
    queries = speed.sample([name for name in names if " " in name] or names, args.queries)
    with clock(steps, "first query"):
        index.search(queries[0])

    def embed(round_: int) -> None:
        encode(model, tokenizer, [queries[round_]], [k], text_prompt(), index.meta.max_length)

    def search(round_: int, hybrid: bool) -> None:
        index.search(queries[round_], hybrid=hybrid)

    times = interleave(
        {
            "embedding the query alone": embed,
            "dense": partial(search, hybrid=False),
            "hybrid": partial(search, hybrid=True),
        },
        len(queries),
        warm_up=10,
        description="queries",
    )
    rows = {
        name: {"ms_p50": 1000 * t.median, "ms_p95": 1000 * t.percentile(95), "ms_max": 1000 * t.percentile(100)}
        for name, t in times.items()
    }
    return {
        "source_tree": str(tree.resolve()),
        "exit_layer": k,
        "functions": len(index),
        "embedded_now": built.report.embedded if built.report else 0,
        "queries": len(queries),
        "default": "hybrid" if DEFAULT_HYBRID else "dense",
        "steps_seconds": steps,
        "latency": rows,
    }


def render(report: Report) -> str:
    rows = [
        [
            name + (" (default)" if name == report["default"] else ""),
            *(f"{row[key]:.1f}" for key in ("ms_p50", "ms_p95", "ms_max")),
        ]
        for name, row in report["latency"].items()
    ]
    steps = " · ".join(f"{name} {seconds:.2f} s" for name, seconds in report["steps_seconds"].items())
    return (
        f"{report['functions']:,} functions of {report['source_tree']} at exit {report['exit_layer']}, "
        f"{report['embedded_now']:,} of them embedded now\n{steps}\n\n"
        + table([f"{report['queries']} queries", "ms p50", "p95", "max"], rows)
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = new_parser("Latency of a query on a built index, and the time of each step on the way there.")
    parser.add_argument(
        "--model",
        default=str(package_folder()),
        help="folder or Hub id of a MoSE (default: the one shipped here)",
    )
    parser.add_argument("--exit-layer", type=int, metavar="K", help="exit, in blocks run (default: the deepest)")
    parser.add_argument(
        "--source-tree", type=Path, metavar="DIR", help="what to index (default: this Python's standard library)"
    )
    parser.add_argument(
        "--index",
        type=Path,
        metavar="PATH",
        help="folder of the index, created or updated first (default: one in the user's cache folder)",
    )
    parser.add_argument(
        "--queries", type=positive, default=200, metavar="N", help="how many (default: %(default)s)"
    )
    return run(parser, measure, render, arguments)


if __name__ == "__main__":
    sys.exit(main())
