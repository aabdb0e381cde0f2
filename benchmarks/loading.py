"""Does loading at an exit read and keep only what that exit needs? Every exit from disk, beside the full load.

Safetensors maps the file into memory; the weights of a loaded model are that mapping, and the kernel reads a
page when it is first used. A load is therefore measured until the model is ready, every weight touched once,
and read() counters say nothing. What is counted:

- needed: the bytes of the tensors that the exit has, from the checkpoint's header.
- read: the part of the file that lies in the page cache afterwards (`mincore`), which had been emptied of it
  before (`posix_fadvise`). It is more than needed by what the kernel reads ahead around each first use, up to
  the read-ahead of the device where the tensors of an exit lie scattered.
- storage: what the process had fetched from block devices (`read_bytes` of /proc/self/io); a second
  opinion on "read" that also works out at 0 where the file lies on no block device.
- memory: by how much the peak of the process's resident memory (`VmHWM`, reset before) exceeds what it held
  before. The mapped weights count.

Each load has a process of its own, forked from one that has done the imports, and has loaded a tiny model first.
"""

import argparse
import ctypes
import mmap
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from command import Report, new_parser, positive, run, table
from safetensors import safe_open
from tqdm import tqdm
from transformers.utils import logging

from mose.configuration_mose import MoSEConfig
from mose.modeling_mose import MoSEModel

WEIGHTS = "model.safetensors"


class PageCacheError(RuntimeError):
    """The page cache does not let go of a file, or does not say what it holds of it."""


def load(folder: Path, exit_layer: int, tiny: Path) -> dict[str, float]:
    """Loads a checkpoint in this process and says what that took; the page cache is left to the caller."""
    logging.disable_progress_bar()
    MoSEModel.from_pretrained(tiny)
    storage = process_facts("io")["read_bytes"]
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts again from what is resident now
    resident = process_facts("status")["VmRSS"]
    start = time.perf_counter()
    model = MoSEModel.from_pretrained(folder, exit_layer=exit_layer)
    loaded = time.perf_counter()
    for parameter in model.parameters():
        parameter.detach().sum()
    return {
        "load_seconds": loaded - start,
        "ready_seconds": time.perf_counter() - start,
        "storage_bytes": process_facts("io")["read_bytes"] - storage,
        "memory_bytes": 1024 * (process_facts("status")["VmHWM"] - resident),
    }


def process_facts(name: str) -> dict[str, int]:
    """The numbers of a file of /proc/self, such as `status`, whose sizes are in KiB."""
    lines = (line.split() for line in Path(f"/proc/self/{name}").read_text().splitlines())
    return {words[0].rstrip(":"): int(words[1]) for words in lines if len(words) > 1 and words[1].isdigit()}


def cached_bytes(file: Path) -> int:
    """Bytes of a file that lie in the page cache, in whole pages."""
    content = np.memmap(file, mode="r")
    pages = np.zeros(-(-content.size // mmap.PAGESIZE), np.uint8)
    libc = ctypes.CDLL(None, use_errno=True)
    vector = pages.ctypes.data_as(ctypes.c_void_p)
    if libc.mincore(ctypes.c_void_p(content.ctypes.data), ctypes.c_size_t(content.size), vector):
        raise PageCacheError(f"{file}: mincore: {os.strerror(ctypes.get_errno())}")
    return int((pages & 1).sum()) * mmap.PAGESIZE


def drop_cache(file: Path) -> None:
    """Empties the page cache of a file.

    Raises:
        PageCacheError: it stays there, as on a file system that lives in memory.
    """
    with file.open("rb") as stream:
        os.fsync(stream.fileno())
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if cached_bytes(file):
        raise PageCacheError(f"{file}: stays in the page cache; give a --folder on a disk")


def read_ahead_bytes(file: Path) -> int | None:
    """How much the kernel reads at most around a page that is wanted; None where it does not say."""
    device = file.stat().st_dev
    setting = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb")
    return 1024 * int(setting.read_text()) if setting.exists() else None


def needed_bytes(file: Path, config: MoSEConfig, exit_layer: int) -> int:
    """Bytes of the tensors in the checkpoint that a model at this exit has."""
    with torch.device("meta"):
        names = MoSEModel(config, exit_layer=exit_layer).state_dict().keys()
    with safe_open(file, framework="pt") as checkpoint:
        return sum(checkpoint.get_tensor(name).nbytes for name in names)  # a view, whose pages stay untouched


def write_checkpoint(folder: Path, config: MoSEConfig) -> None:
    torch.manual_seed(0)
    logging.disable_progress_bar()
    MoSEModel(config).save_pretrained(folder)


def measure(args: argparse.Namespace) -> Report:
    if sys.platform != "linux":
        raise RuntimeError(f"needs Linux's page cache and /proc, this is {sys.platform}")
    config = MoSEConfig.from_preset(
        "mose-nano",
        num_hidden_layers=max(args.exit_layers),
        exit_layers=args.exit_layers,
        hidden_size=args.hidden_size,
        intermediate_size=4 * args.hidden_size,
    )
    tiny_config = MoSEConfig.from_preset("mose-nano", vocab_size=8, hidden_size=16, intermediate_size=16)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["mose.modeling_mose"])

    def fresh(function: Callable[..., Any], *arguments: Any) -> Any:
        """What a function returns in a process of its own, which has ended then and let go of its files."""
        with ProcessPoolExecutor(1, context) as process:
            return process.submit(function, *arguments).result()

    with tempfile.TemporaryDirectory(dir=args.folder, prefix="mose-loading-") as scratch:
        folder, tiny = Path(scratch, "model"), Path(scratch, "tiny")
        fresh(write_checkpoint, folder, config)
        fresh(write_checkpoint, tiny, tiny_config)
        file = folder / WEIGHTS
        runs: dict[int, list[dict[str, float]]] = {k: [] for k in config.exit_layers}
        for at in tqdm(range(-1, args.rounds), desc="loading", unit=" rounds", disable=None):
            for k in config.exit_layers:
                drop_cache(file)
                found = fresh(load, folder, k, tiny)
                if at >= 0:
                    runs[k].append(found | {"read_bytes": cached_bytes(file)})
        rows = {
            str(k): {"needed_bytes": needed_bytes(file, config, k)}
            | {name: median(one[name] for one in found) for name in found[0]}
            for k, found in runs.items()
        }
        return {
            "checkpoint_bytes": file.stat().st_size,
            "read_ahead_bytes": read_ahead_bytes(file),
            "exits": rows,
        }


def render(report: Report) -> str:
    exits = report["exits"]
    full = list(exits.values())[-1]

    def cell(row: dict[str, float], name: str) -> str:
        return f"{row[name] / 1e6:.1f} ({row[name] / full[name]:.0%})" if full[name] else f"{row[name] / 1e6:.1f}"

    counted = ("needed", "read", "storage", "memory")
    rows = [
        [k, *(cell(row, f"{name}_bytes") for name in counted)]
        + [f"{row['load_seconds']:.2f}", f"{row['ready_seconds']:.2f} ({row['ready_seconds'] / base:.0%})"]
        for base in [full["ready_seconds"]]
        for k, row in exits.items()
    ]
    ahead = report["read_ahead_bytes"]
    return (
        f"{report['checkpoint_bytes'] / 1e6:.0f} MB on disk, page cache empty before each load"
        + (f", read-ahead {ahead / 1e6:.1f} MB" if ahead is not None else "")
        + "; MB, in brackets over the full load\n"
        + table(["exit", "needed", "read", "storage", "memory", "load s", "ready s"], rows)
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = new_parser("Bytes read, peak memory and time of loading at each exit.", rounds=5)
    parser.add_argument(
        "--exit-layers",
        type=int,
        nargs="+",
        default=[4, 9, 18, 27, 36],
        metavar="K",
        help="exits of the checkpoint that is made, the deepest being its depth (default: 4 9 18 27 36)",
    )
    parser.add_argument(
        "--hidden-size", type=positive, default=512, metavar="N", help="its width (default: %(default)s)"
    )
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path("/var/tmp"),
        help="where to put it for the time of the run; on a disk (default: %(default)s)",
    )
    return run(parser, measure, render, arguments)


if __name__ == "__main__":
    sys.exit(main())
