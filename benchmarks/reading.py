"""Measure how fast source trees are read: listing, decoding and extracting, in files and megabytes a second.

Two ways run in turn, each in a process of its own: "functions" lists functions and methods (`extract_functions`,
as for mining), "units" also classes and what is outside definitions (`extract_units`, as for an index). With
`--before CHECKOUT` the code of an earlier checkout, which listed functions only, runs in turn with them. All read
the eight languages that it knew. Megabytes are those of the files that each way reads, at their size on disk.

    git worktree add ../before 9f86145
    python benchmarks/reading.py ~/packages/django ~/packages/lz4 --before ../before
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from mose.benchmarks import command
from mose.benchmarks.command import Benchmark, Report
from mose.utils.locations import package_folder

EIGHT_LANGUAGES = ("c", "cpp", "go", "java", "javascript", "php", "python", "ruby")
#: A pass over the folders for every line on stdin, and a line of figures on stdout for every pass.
_LOOP = """
import json, sys, time
folders, languages = json.loads(sys.argv[1])
for line in sys.stdin:
    cpu, wall = time.process_time(), time.perf_counter()
    files = size = listed = 0
    for folder in folders:
        for path, units in read(folder, languages):
            files, size, listed = files + 1, size + path.stat().st_size, listed + units
    figures = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
    print(json.dumps(figures | {"files": files, "bytes": size, "listed": listed}), flush=True)
"""
_NOW = """
from mose.data.source.definitions import %(extract)s as extract
from mose.data.source.files import iter_sources
def read(folder, languages):
    for file in iter_sources(folder, languages):
        yield file.path, len(extract(file.source, file.language))
"""
_BEFORE = """
from mose.data.source.definitions import ParseError, extract_functions
from mose.data.source.files import iter_source_files
from mose.data.source.languages import language_of
def read(folder, languages):
    for path in iter_source_files(folder, languages):
        source = path.read_bytes()
        try:
            functions = extract_functions(source, language_of(path, source))
        except ParseError:
            functions = []
        yield path, len(functions)
"""


class Reading(Benchmark):
    """Files and bytes a second of listing, reading and extracting."""

    description = "Files and megabytes a second of listing, reading and extracting source trees."
    rounds = 5

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the flags for what is read."""
        parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="source trees")
        parser.add_argument("--before", type=Path, metavar="CHECKOUT", help="an earlier checkout to compare with")
        help_text = "count processor time, which other processes disturb less"
        parser.add_argument("--cpu-time", action="store_true", help=help_text)

    def measure(self, options: argparse.Namespace) -> Report:
        """Run all ways in turn and return the figures of each."""
        if missing := [folder for folder in options.folders if not folder.exists()]:
            raise FileNotFoundError(f"{missing[0]} does not exist.")
        if options.before and not (options.before / "data" / "source").is_dir():
            raise ValueError(f"--before must be a checkout with a folder data/source, got {options.before}.")

        now = package_folder()
        ways = {name: (now, _NOW % {"extract": f"extract_{name}"}) for name in ("functions", "units")}
        if options.before:
            ways = {"before": (options.before, _BEFORE), **ways}

        passes: dict[str, list[dict[str, Any]]] = {name: [] for name in ways}
        with ExitStack() as stack:
            readers = {
                name: stack.enter_context(_reader(checkout, script, options.folders))
                for name, (checkout, script) in ways.items()
            }
            # The first pass fills the system's cache of files and builds the queries.
            for number in tqdm(range(-1, options.rounds), desc="reading", unit=" rounds", disable=None):
                for name, reader in readers.items():
                    figures = _one_pass(reader)
                    if number >= 0:
                        passes[name].append(figures)
        return {"ways": {name: _summary(rounds, options.cpu_time) for name, rounds in passes.items()}}

    def render(self, report: Report) -> str:
        """Return a row for each way, and the ratios of what was before."""
        columns = {
            "files": ("files", ",d"),
            "size": ("bytes", "MB"),
            "listed": ("listed", ",d"),
            "seconds": ("seconds", ".2f"),
            "files/s": ("files_per_second", ",.0f"),
            "MB/s": ("megabytes_per_second", ".2f"),
            "spread": ("spread", ".0%"),
        }
        ways = report["ways"]
        text = command.figures_table("", ways, columns)
        if "before" not in ways:
            return text

        lines = [text, ""]
        for name in ("functions", "units"):
            ratios = [
                ways[name][key] / ways["before"][key] for key in ("files_per_second", "megabytes_per_second")
            ]
            lines.append(f"{name} over before: files/s × {ratios[0]:.2f}, MB/s × {ratios[1]:.2f}")
        return "\n".join(lines)


@contextmanager
def _reader(checkout: Path, script: str, folders: Sequence[Path]) -> Iterator[subprocess.Popen[str]]:
    """Start a process that reads the folders with the code of a checkout whenever it is asked to."""
    with tempfile.TemporaryDirectory(prefix="mose-reading-") as path:
        # The root of a checkout is the package, whatever its folder is called.
        Path(path, "mose").symlink_to(checkout.resolve())
        arguments = json.dumps([[str(folder.resolve()) for folder in folders], EIGHT_LANGUAGES])
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", script + _LOOP, arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": path},
        )
        with process:
            yield process


def _one_pass(reader: subprocess.Popen[str]) -> dict[str, Any]:
    assert reader.stdin is not None and reader.stdout is not None
    reader.stdin.write("\n")
    reader.stdin.flush()
    line = reader.stdout.readline()
    if not line:
        raise RuntimeError("The process that reads ended early: see its message above.")
    return json.loads(line)


def _summary(rounds: Sequence[dict[str, Any]], cpu_time: bool) -> dict[str, Any]:
    seconds = [figures["cpu" if cpu_time else "wall"] for figures in rounds]
    quarter, median, three_quarters = np.percentile(seconds, [25, 50, 75])
    last = rounds[-1]
    return {
        **{key: last[key] for key in ("files", "bytes", "listed")},
        "seconds": float(median),
        "spread": float((three_quarters - quarter) / median),
        "files_per_second": last["files"] / median,
        "megabytes_per_second": last["bytes"] / 1e6 / median,
    }


if __name__ == "__main__":
    sys.exit(Reading().main())
