"""What the commands of `python -m mose.eval` share: their errors, and how they read arguments."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

DTYPES = ("fp32", "bf16")


class ArgumentError(Exception):
    """An argument that can only be judged once the thing it names has been looked at."""


def exit_layers(words: list[str]) -> list[int] | None:
    """What `--exit-layers` names; None means all.

    Raises:
        ArgumentError: neither whole numbers nor `all` alone.
    """
    if words == ["all"]:
        return None
    try:
        return [int(word) for word in words]
    except ValueError:
        raise ArgumentError(f"--exit-layers {' '.join(words)}: give whole numbers, or 'all' alone") from None


def positive(word: str) -> int:
    """A whole number of at least 1, for argparse."""
    if not word.isdecimal() or not int(word):
        raise argparse.ArgumentTypeError(f"{word!r}: give a whole number of at least 1")
    return int(word)


def check_output(option: str, file: str | None) -> None:
    """Finds out before hours of work that `file` could not be written; None and - are fine.

    Raises:
        ArgumentError: its folder does not exist, or it is a folder itself.
    """
    if file is None or file == "-":
        return
    if not Path(file).absolute().parent.is_dir():
        raise ArgumentError(f"{option} {file}: there is no folder {Path(file).parent}")
    if Path(file).is_dir():
        raise ArgumentError(f"{option} {file}: is a folder; name a file")


def devices(device: str, processes: int) -> list[str]:
    """Where so many encoding processes run; none for a single one, which needs no process beside this one.

    Raises:
        ArgumentError: there are fewer GPUs.
    """
    if processes == 1:
        return []
    kind = device.partition(":")[0]
    if kind == "cpu":
        return [device] * processes
    import torch

    count = torch.accelerator.device_count()
    if processes > count:
        raise ArgumentError(f"--num-proc {processes}: there are {count} devices of the kind {kind!r}")
    return [f"{kind}:{at}" for at in range(processes)]


def read_report(file: str) -> dict[str, Any]:
    """A report that was stored with `--json`; - means stdin.

    Raises:
        ArgumentError: there is no such file.
        ValueError: it is no report.
    """
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    except OSError as error:
        raise ArgumentError(f"{file}: {error.strerror}") from None
    try:
        report: Any = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{file}: not JSON: {error}") from None
    if not isinstance(report, dict) or not {"sets", "speed"} <= report.keys():
        raise ValueError(f"{file}: not a report: it must be an object with 'sets' and 'speed'")
    return report
