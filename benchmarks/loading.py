"""Measure whether loading at an exit reads and keeps only what that exit needs, beside the full load.

Safetensors maps the file into memory, and the kernel reads a page when it is first used. A load is therefore
measured until every weight was touched once. Reported are:

- needed: bytes of the tensors that the exit has, from the checkpoint's header.
- read: bytes of the file in the page cache afterwards (`mincore`), which was emptied before (`posix_fadvise`).
  This exceeds "needed" by what the kernel reads ahead around each tensor.
- memory: growth of the process's peak resident memory, mapped weights included.

Each load runs in a process of its own that has done the imports and loaded a tiny model first.
"""

import argparse
import ctypes
import mmap
import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch
from safetensors import safe_open
from tqdm import tqdm

from mose.benchmarks import command
from mose.benchmarks.command import Benchmark, Report
from mose.configuration_mose import MoSEConfig
from mose.hub.weights import order_by_exit
from mose.modeling_mose import MoSEModel

WEIGHTS = "model.safetensors"


class PageCacheError(RuntimeError):
    """The page cache cannot be emptied of a file, or its state cannot be read."""


class PartialLoading(Benchmark):
    """Bytes read, peak memory and time of loading at each exit."""

    description = "Bytes read, peak memory and time of loading at each exit."
    rounds = 5

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--exit-layers",
            type=int,
            nargs="+",
            default=[4, 9, 18, 27, 36],
            metavar="K",
            help="exits of the generated checkpoint; the deepest is its depth (default: 4 9 18 27 36)",
        )
        command.add_count(parser, "--hidden-size", 512, "width of the checkpoint")
        parser.add_argument(
            "--folder",
            type=Path,
            default=Path("/var/tmp"),
            help="parent of the temporary checkpoint, on a disk (default: %(default)s)",
        )

    def measure(self, options: argparse.Namespace) -> Report:
        command.require_linux()
        width = {"hidden_size": options.hidden_size, "intermediate_size": 4 * options.hidden_size}
        depth = {"num_hidden_layers": max(options.exit_layers), "exit_layers": options.exit_layers}
        config = MoSEConfig.from_preset("mose-nano-256", **depth, **width)
        tiny_config = MoSEConfig.from_preset("mose-nano-256", vocab_size=8, hidden_size=16, intermediate_size=16)

        with tempfile.TemporaryDirectory(dir=options.folder, prefix="mose-loading-") as scratch:
            folder, tiny = Path(scratch, "model"), Path(scratch, "tiny")
            # Another process writes the checkpoints, so that this one maps no page of them.
            command.in_fresh_process(write_checkpoint, folder, config)
            command.in_fresh_process(write_checkpoint, tiny, tiny_config)
            file = folder / WEIGHTS

            runs: dict[int, list[dict[str, float]]] = {k: [] for k in config.exit_layers}
            for number in tqdm(range(-1, options.rounds), desc="loading", unit=" rounds", disable=None):
                for k, loads in runs.items():
                    drop_cache(file)
                    figures = command.in_fresh_process(load_and_touch, folder, k, tiny)
                    # The first round warms up what is not measured, such as the imports.
                    if number >= 0:
                        loads.append(figures | {"read_bytes": cached_bytes(file)})

            rows = {}
            for k, loads in runs.items():
                medians = {name: median(load[name] for load in loads) for name in loads[0]}
                rows[str(k)] = {"needed_bytes": needed_bytes(file, config, k), **medians}
            return {"checkpoint_bytes": file.stat().st_size, "exits": rows}

    def render(self, report: Report) -> str:
        exits = report["exits"]
        full = list(exits.values())[-1]
        kinds = ("needed", "read", "memory")

        rows = []
        for k, row in exits.items():
            sizes = [
                (row[f"{kind}_bytes"] / 1e6, row[f"{kind}_bytes"] / (full[f"{kind}_bytes"] or 1))
                for kind in kinds
            ]
            cells = [f"{size:.1f} ({share:.0%})" for size, share in sizes]
            ready = f"{row['ready_seconds']:.2f} ({row['ready_seconds'] / full['ready_seconds']:.0%})"
            rows.append([k, *cells, f"{row['load_seconds']:.2f}", ready])
        head = f"{report['checkpoint_bytes'] / 1e6:.0f} MB on disk, page cache empty before each load"
        return f"{head}; MB, in brackets over the full load\n" + command.text_table(
            ["exit", *kinds, "load s", "ready s"], rows
        )


def write_checkpoint(folder: Path, config: MoSEConfig) -> None:
    """Save a model with random weights, as training does."""
    torch.manual_seed(0)
    MoSEModel(config).save_pretrained(folder)
    order_by_exit(folder, config.built_exit_layers)


def load_and_touch(folder: Path, exit_layer: int, tiny: Path) -> dict[str, float]:
    """Load a checkpoint in this process, touch its weights, and return the costs."""
    # What the first load of a process costs beside reading is not counted.
    MoSEModel.from_pretrained(tiny)
    seconds = []

    def load() -> None:
        start = time.perf_counter()
        model = MoSEModel.from_pretrained(folder, exit_layer=exit_layer)
        seconds.append(time.perf_counter() - start)

        # Only now are all pages of the mapped file read.
        for parameter in model.parameters():
            parameter.detach().sum()
        seconds.append(time.perf_counter() - start)

    before, peak = command.peak_memory(load)
    return {
        "load_seconds": seconds[0],
        "ready_seconds": seconds[1],
        "memory_bytes": peak - before,
    }


def cached_bytes(file: Path) -> int:
    """Return the bytes of a file that are in the page cache, in whole pages."""
    content = np.memmap(file, mode="r")
    pages = np.zeros(-(-content.size // mmap.PAGESIZE), np.uint8)

    # Python has no binding for mincore(2), which reports for each page whether it is resident.
    libc = ctypes.CDLL(None, use_errno=True)
    vector = pages.ctypes.data_as(ctypes.c_void_p)
    if libc.mincore(ctypes.c_void_p(content.ctypes.data), ctypes.c_size_t(content.size), vector):
        raise PageCacheError(f"{file}: mincore: {os.strerror(ctypes.get_errno())}")
    return int((pages & 1).sum()) * mmap.PAGESIZE


def drop_cache(file: Path) -> None:
    """Empty the page cache of a file.

    Raises:
        PageCacheError: the file stays there, as on a file system in memory.
    """
    # Only clean pages can be dropped, hence the flush.
    with file.open("rb") as stream:
        os.fsync(stream.fileno())
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if cached_bytes(file):
        raise PageCacheError(f"{file} stays in the page cache. Pass a --folder on a disk.")


def needed_bytes(file: Path, config: MoSEConfig, exit_layer: int) -> int:
    """Return the bytes of the checkpoint's tensors that a model at this exit has."""
    with torch.device("meta"):
        names = MoSEModel(config, exit_layer=exit_layer).state_dict().keys()
    with safe_open(file, framework="pt") as checkpoint:
        return sum(checkpoint.get_tensor(name).nbytes for name in names)  # views, whose pages stay untouched


if __name__ == "__main__":
    sys.exit(PartialLoading().main())
