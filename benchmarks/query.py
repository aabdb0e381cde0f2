"""Measure the latency of a query on a built index: with model and index open, and of a new process.

The queries are names of indexed functions in words ("parse iso date"): many, and none twice.
"""

import argparse
import re
import resource
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from mose.benchmarks import command
from mose.benchmarks.command import Benchmark, Report
from mose.eval import speed
from mose.inference.encoding import encode
from mose.inference.loading import load_model
from mose.search import Index
from mose.search.commands.demo import STDLIB_TESTS
from mose.search.ranking.fusion import DEFAULT_HYBRID
from mose.tokenization.prompts import text_prompt
from mose.utils.locations import cache_folder

#: New processes whose processor time is measured; the least counts.
PROCESSES = 3
PERCENTILES = {"p50": 50, "p95": 95, "max": 100}


class QueryLatency(Benchmark):
    """Milliseconds of a query, and seconds of each step that comes before the first one."""

    description = "Latency of a query on a built index, and the time of each step before it."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        command.add_model(parser)
        help_text = "folder to index (default: this Python's standard library)"
        parser.add_argument("--source-tree", type=Path, metavar="DIR", help=help_text)
        help_text = "folder of the index, built or brought up to date first (default: one in the user's cache)"
        parser.add_argument("--index", type=Path, metavar="PATH", help=help_text)
        command.add_count(parser, "--queries", 200, "number of queries")

    def measure(self, options: argparse.Namespace) -> Report:
        tree, exclude = options.source_tree, []
        if tree is None:
            tree, exclude = Path(sysconfig.get_paths()["stdlib"]), list(STDLIB_TESTS)
        if not tree.is_dir():
            raise ValueError(f"--source-tree must be a folder, got {tree}.")

        steps: dict[str, float] = {}
        with stopwatch(steps, "model"):
            model, tokenizer, exits = load_model(options.model, options.exit_layers)

        k = exits[-1]
        path = options.index or cache_folder() / "indexes" / f"benchmark-{tree.resolve().name}-exit{k}"
        with stopwatch(steps, "indexing"):
            built = Index.build(tree, model, tokenizer, path, k, exclude=exclude)
        with stopwatch(steps, "opening"):
            index = Index.load(path, model, tokenizer)

        # Names of several words read like queries. Names of one word are the fallback for small trees.
        names = sorted({words_of_name(name) for name in index.units.column("name")})
        queries = speed.sample([name for name in names if " " in name] or names, options.queries)

        # The first query pays for what the others reuse, so it is timed on its own.
        with stopwatch(steps, "first query"):
            index.search(queries[0])

        def embed(number: int) -> None:
            encode(model, tokenizer, [queries[number]], [k], text_prompt(), index.meta.max_length)

        def search(number: int, hybrid: bool) -> None:
            index.search(queries[number], hybrid=hybrid)

        tasks = {"embedding the query alone": embed}
        for name, hybrid in (("dense", False), ("hybrid", True)):
            tasks[name + " (default)" * (hybrid == DEFAULT_HYBRID)] = partial(search, hybrid=hybrid)

        times = command.interleave(tasks, len(queries), warm_up=10, description="queries")
        rows = {
            name: {f"ms_{label}": 1000 * timing.percentile(percent) for label, percent in PERCENTILES.items()}
            for name, timing in times.items()
        }
        words = [sys.executable, "-m", "mose.search", "query", queries[0], "--index", str(path)]
        cold = [process_seconds(words) for _ in range(PROCESSES)]
        return {
            "source_tree": str(tree.resolve()),
            "exit_layer": k,
            "units": len(index),
            "embedded_now": built.report.embedded if built.report else 0,
            "queries": len(queries),
            "steps_seconds": steps,
            "cold_process_seconds": min(cold),
            "latency": rows,
        }

    def render(self, report: Report) -> str:
        steps = " · ".join(f"{name} {seconds:.2f} s" for name, seconds in report["steps_seconds"].items())
        columns = {f"ms {label}": (f"ms_{label}", ".1f") for label in PERCENTILES}
        head = "{units:,} units of {source_tree} at exit {exit_layer}, {embedded_now:,} of them embedded now"
        steps += f" · `mose search query` {report['cold_process_seconds']:.2f} s of processor time"
        return f"{head.format_map(report)}\n{steps}\n\n" + command.figures_table(
            "{queries} queries".format_map(report), report["latency"], columns
        )


@contextmanager
def stopwatch(steps: dict[str, float], name: str) -> Iterator[None]:
    """Note the seconds that the block takes under a name."""
    start = time.perf_counter()
    yield
    steps[name] = time.perf_counter() - start


def process_seconds(words: list[str]) -> float:
    """Return the processor time of a command, in seconds, user and system."""

    def spent() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    before = spent()
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    return spent() - before


def words_of_name(name: str) -> str:
    """Split an identifier into lower-case words: `parseISODate` gives `parse iso date`."""
    return re.sub(r"_+|(?<=[a-z0-9])(?=[A-Z])", " ", name).strip().lower()


if __name__ == "__main__":
    sys.exit(QueryLatency().main())
