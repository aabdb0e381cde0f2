"""The harness of the benchmarks: flags, exit codes, timing in turn, memory, tables, a JSON document."""

import argparse
import json
import multiprocessing
import os
import platform
import sys
import sysconfig
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from tqdm import tqdm
from transformers.utils import logging

from mose.data.retrieval.retrieval_set import RetrievalSet, load_retrieval_set
from mose.data.source.mining import mine_rows
from mose.utils.command_line import exit_status, positive_int
from mose.utils.files import atomic_write_json
from mose.utils.locations import package_folder

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
#: Packages of the standard library whose docstrings and functions are the set that needs no download.
DEFAULT_SET = ("asyncio", "collections", "email", "http", "importlib", "json", "logging", "urllib", "xml")
Report = dict[str, Any]
Key = TypeVar("Key", bound=Hashable)


class Benchmark(ABC):
    """One measurement: its flags, the report that it makes, and the report as text.

    Attributes:
        description: for `--help`.
        rounds: default of `--rounds`; None leaves the flag out.
    """

    description: str
    rounds: int | None = None

    @abstractmethod
    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the flags that only this benchmark has."""

    @abstractmethod
    def measure(self, options: argparse.Namespace) -> Report:
        """Return the report, ready for JSON. ValueError and FileNotFoundError mean bad arguments."""

    @abstractmethod
    def render(self, report: Report) -> str:
        """Return the report as text."""

    def main(self, arguments: Sequence[str] | None = None) -> int:
        """Parse, measure and print. Return the exit code: 0, 1 for a failure, 2 for bad arguments."""
        parser = argparse.ArgumentParser(description=self.description)
        self.add_arguments(parser)

        add_count(parser, "--threads", None, "threads of torch (default: its own choice)")
        parser.add_argument("--json", metavar="FILE", help="write the report to this file; - means stdout")
        if self.rounds is not None:
            add_count(parser, "--rounds", self.rounds, "how often each is timed, in turn; the median counts")

        options = parser.parse_args(arguments)
        bad_arguments = (ValueError, FileNotFoundError)
        return exit_status(parser.prog, lambda: self._run(options), bad_arguments)

    def _run(self, options: argparse.Namespace) -> None:
        if options.json not in (None, "-") and not Path(options.json).absolute().parent.is_dir():
            raise ValueError(f"--json must be in an existing folder, got {options.json}.")
        if options.threads:
            torch.set_num_threads(options.threads)
        logging.disable_progress_bar()

        # Read the machine's load first: afterwards it is that of the benchmark itself.
        machine = environment(getattr(options, "device", "cpu"))
        settings = {name: value for name, value in vars(options).items() if name != "json"}
        report = {"settings": settings, "environment": machine, **self.measure(options)}

        # A JSON document on stdout stays the only thing there.
        if options.json == "-":
            print(json.dumps(report, indent=2, ensure_ascii=False, default=str))
        elif options.json:
            atomic_write_json(options.json, report, ensure_ascii=False, default=str)

        text = f"{self.render(report)}\n\n{_footer(machine)}"
        print(text, file=sys.stderr if options.json == "-" else sys.stdout)


def add_count(parser: argparse.ArgumentParser, flag: str, default: int | None, text: str) -> None:
    """Add a flag for a whole number of at least 1."""
    text += "" if default is None else " (default: %(default)s)"
    parser.add_argument(flag, type=positive_int, default=default, metavar="N", help=text)


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add the flags for where and in which type a model computes."""
    parser.add_argument(
        "--dtype", choices=tuple(DTYPES), default="fp32", help="compute type (default: %(default)s)"
    )
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=default, help="cpu, cuda or cuda:N (default: a GPU if there is one)")


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add the flags for the model and its exits."""
    default = str(package_folder())
    parser.add_argument("--model", default=default, help="folder or Hub id of a MoSE (default: the shipped one)")
    parser.add_argument(
        "--exit-layers", type=int, nargs="+", metavar="K", help="exits to measure (default: all of the model's)"
    )


def add_sets(parser: argparse.ArgumentParser) -> None:
    """Add the flags for the retrieval sets."""
    parser.add_argument(
        "--data",
        nargs="+",
        metavar="DIR_OR_ID",
        help="retrieval sets in the BEIR layout (default: docstrings and functions of the standard library)",
    )
    add_count(parser, "--max-length", 256, "truncate texts to this number of tokens")


def retrieval_sets(sources: Sequence[str] | None) -> list[RetrievalSet]:
    """Load the sets of `--data`, or make the default one from the standard library."""
    if sources:
        return [load_retrieval_set(source) for source in sources]

    # Every docstring is a query, and its function the only relevant document.
    library = Path(sysconfig.get_paths()["stdlib"])
    rows = list(
        mine_rows([library / name for name in DEFAULT_SET], ["python"], max_text_repeats=1, progress=False)
    )
    ids = tuple(str(number) for number in range(len(rows)))

    codes, texts = (tuple(str(row[column]) for row in rows) for column in ("code", "text"))
    qrels = {number: {number: 1} for number in ids}
    return [RetrievalSet("stdlib", ids, codes, ("python",) * len(ids), ids, texts, ("",) * len(ids), qrels)]


@dataclass(frozen=True)
class Timing:
    """Seconds that one task took, round by round."""

    seconds: tuple[float, ...]

    def percentile(self, percent: float) -> float:
        """Return the seconds that `percent` of the rounds stayed below."""
        return float(np.percentile(self.seconds, percent))

    @property
    def median(self) -> float:
        """Median seconds."""
        return self.percentile(50)

    @property
    def spread(self) -> float:
        """Interquartile range over the median: near 0 on a quiet machine."""
        return (self.percentile(75) - self.percentile(25)) / self.median


def interleave(
    tasks: Mapping[Key, Callable[[int], Any]],
    rounds: int,
    warm_up: int = 1,
    device: str = "cpu",
    description: str = "",
    clock: Callable[[], float] | None = None,
) -> dict[Key, Timing]:
    """Time tasks in turn (A B A B …), so that other load on the machine affects all alike.

    Args:
        tasks: each is called with the number of the round, counted from 0.
        rounds: at least 1.
        warm_up: earlier rounds that do not count: they allocate, compile and fill caches.
        device: waited for before the clock is read.
        description: of the progress bar on stderr.
        clock: in seconds; None means `time.perf_counter`.
    """
    if rounds < 1 or warm_up < 0:
        raise ValueError(f"rounds must be at least 1 and warm_up at least 0, got {rounds} and {warm_up}.")

    clock = clock or time.perf_counter
    seconds: dict[Key, list[float]] = {key: [] for key in tasks}

    for number in tqdm(range(-warm_up, rounds), desc=description, unit=" rounds", disable=None):
        for key, task in tasks.items():
            # GPU work is asynchronous: the device must be idle when the clock is read.
            synchronize(device)
            start = clock()
            task(number % rounds)
            synchronize(device)
            if number >= 0:
                seconds[key].append(clock() - start)
    return {key: Timing(tuple(values)) for key, values in seconds.items()}


def synchronize(device: str) -> None:
    """Wait until the device has finished its work."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def in_fresh_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return the result of a function in a new process, which has ended and closed its files by then."""
    # The server that is forked from has done the slow imports once, and none of the caller's work.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["mose.modeling_mose"])
    with ProcessPoolExecutor(1, context) as pool:
        return pool.submit(function, *arguments).result()


def peak_memory(task: Callable[[], Any], device: str = "cpu") -> tuple[int, int]:
    """Run a task and return the bytes in use before it and at its peak: of the GPU, or of this process."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        task()
        return before, torch.cuda.max_memory_allocated(device)

    require_linux()
    # "5" resets VmHWM, the peak, to what is resident now.
    Path("/proc/self/clear_refs").write_text("5")
    resident = process_facts("status")["VmRSS"]
    task()
    return 1024 * resident, 1024 * process_facts("status")["VmHWM"]


def process_facts(name: str) -> dict[str, int]:
    """Return the numbers of a file of /proc/self, such as `status`, whose sizes are in KiB."""
    lines = (line.split() for line in Path(f"/proc/self/{name}").read_text().splitlines())
    return {words[0].rstrip(":"): int(words[1]) for words in lines if len(words) > 1 and words[1].isdigit()}


def require_linux() -> None:
    """Raise RuntimeError on systems without /proc."""
    if sys.platform != "linux":
        raise RuntimeError(f"This benchmark reads Linux's /proc, this system is {sys.platform}.")


def environment(device: str) -> dict[str, Any]:
    """Return what the figures depend on besides the code; `load` is that of the minute before."""
    # platform.processor() is empty or a mere architecture on Linux.
    cpu_info = Path("/proc/cpuinfo")
    lines = cpu_info.read_text().splitlines() if cpu_info.exists() else []
    cpus = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    cpu = cpus[0] if cpus else platform.processor() or platform.machine()

    return {
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else cpu,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _footer(machine: dict[str, Any]) -> str:
    text = "{device}, {cores} cores, {threads} threads, torch {torch}".format_map(machine)
    if machine["load"] is None:
        return text

    # More than one waiting process makes times of a two-core machine unreliable.
    busy = " (other processes were busy: measure again when it is below 1)" if machine["load"] > 1 else ""
    return f"{text}; load before the run {machine['load']}{busy}"


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return columns under their headings, the first aligned to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = []
    for row in [header, *rows]:
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append("  ".join([row[0].ljust(widths[0]), *cells[1:]]).rstrip())
    return "\n".join(lines)


def figures_table(
    label: str, rows: Mapping[str, Mapping[str, Any]], columns: Mapping[str, tuple[str, str]]
) -> str:
    """Return one line for each row.

    Args:
        label: heading of the rows' names.
        rows: name of each row -> its figures.
        columns: heading -> key of the figure and its format, such as ".1f" or "MB" for bytes.
    """
    cells = [[figure(row[key], spec) for key, spec in columns.values()] for row in rows.values()]
    return text_table([label, *columns], [[name, *line] for name, line in zip(rows, cells, strict=True)])


def figure(value: float | None, spec: str) -> str:
    """Return a number in a format of Python, or bytes as "MB"; nothing for None."""
    if value is None:
        return ""
    return f"{value / 1e6:,.1f} MB" if spec == "MB" else format(value, spec)
