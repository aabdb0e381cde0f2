"""Arguments that several commands of `python -m mose.eval` read alike."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mose.eval.report import parse_report, read_report
from mose.utils.command_line import ArgumentError, positive_int


def add_encoding_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of a model and its computation."""
    model = parser.add_argument_group("model")
    model.add_argument("--model", required=True, help="folder or Hub id of the MoSE")
    model.add_argument(
        "--exit-layers", nargs="+", default=["all"], metavar="K", help="exits, in blocks run, or 'all' (default)"
    )
    text = "run the code stored beside the weights of --model and --peers, in place of the installed one"
    model.add_argument("--trust-remote-code", action="store_true", help=text)
    model.add_argument("--max-length", type=positive_int, metavar="TOKENS", help="truncate longer texts")

    computation = parser.add_argument_group("computation")
    computation.add_argument(
        "--dtype", choices=("fp32", "bf16"), default="fp32", help="compute type of all models (default: fp32)"
    )
    computation.add_argument("--device", help="such as cpu or cuda (default: a GPU if there is one)")
    computation.add_argument(
        "--num-proc",
        type=positive_int,
        default=1,
        metavar="N",
        help="encode in N processes: one on each GPU, or sharing the CPU's threads (default: 1)",
    )


def parse_exit_layers(words: list[str]) -> list[int] | None:
    """Return the exits of `--exit-layers`, or None for all.

    Raises:
        ArgumentError: neither whole numbers nor `all` alone.
    """
    if words == ["all"]:
        return None
    try:
        return [int(word) for word in words]
    except ValueError:
        message = f"--exit-layers must be whole numbers, or 'all' alone, got {' '.join(words)}"
        raise ArgumentError(message) from None


def compute_dtype(name: str) -> Any:
    """Return the autocast type of `--dtype`, or None for that of the weights."""
    # Slow to import.
    import torch

    return torch.bfloat16 if name == "bf16" else None


def load_from_options(options: argparse.Namespace, load: Callable[..., Any]) -> Any:
    """Return `load(source, exits, device, trust_remote_code)` for the flags of `add_encoding_arguments`.

    Raises:
        ArgumentError: no such model, or an exit that it does not have.
        RuntimeError: the model exists but cannot be loaded.
    """
    exits = parse_exit_layers(options.exit_layers)

    try:
        return load(options.model, exits, options.device, options.trust_remote_code)
    except (ValueError, OSError) as error:
        raise ArgumentError(f"--model {options.model}: {error}") from None
    # Such as a truncated checkpoint; the libraries raise many types.
    except Exception as error:
        raise RuntimeError(f"--model {options.model}: cannot be loaded: {error}") from error


def check_output(option: str, path: str | None) -> None:
    """Check that `path` can be written, before hours of work. None and - are valid.

    Raises:
        ArgumentError: its folder does not exist, or it is a folder itself.
    """
    if path is None or path == "-":
        return
    if not Path(path).absolute().parent.is_dir():
        raise ArgumentError(f"{option} {path}: there is no folder {Path(path).parent}. Create it first.")
    if Path(path).is_dir():
        raise ArgumentError(f"{option} {path}: is a folder. Name a file.")


def process_devices(device: str, processes: int) -> list[str]:
    """Return the device of each encoding process of `--num-proc`; empty for 1, which needs no further process.

    Raises:
        ArgumentError: there are fewer devices than processes.
    """
    if processes == 1:
        return []

    kind = device.partition(":")[0]
    if kind == "cpu":
        return [device] * processes

    # Slow to import.
    import torch

    count = torch.accelerator.device_count()
    if processes > count:
        raise ArgumentError(f"--num-proc must be at most {count} (devices of the kind {kind!r}), got {processes}")
    return [f"{kind}:{index}" for index in range(processes)]


def read_report_argument(path: str) -> dict[str, Any]:
    """Return a stored report, see `read_report`; - means stdin.

    Raises:
        ArgumentError: the file cannot be read.
        ValueError: it is not a report.
    """
    try:
        return parse_report(sys.stdin.read(), "stdin") if path == "-" else read_report(path)
    except OSError as error:
        raise ArgumentError(f"{path}: {error.strerror}") from None
