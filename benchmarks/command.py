"""What the benchmarks share on the command line: flags, exit codes, a table, a JSON document."""

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from mose.eval import speed

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
Report = dict[str, Any]


def positive(word: str) -> int:
    """A whole number of at least 1, for argparse."""
    value = int(word)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is less than 1")
    return value


def new_parser(description: str, rounds: int | None = None) -> argparse.ArgumentParser:
    """A parser with the flags of every benchmark; with `rounds`, that flag too, and its default."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--threads", type=positive, metavar="N", help="threads of torch (default: its own choice)"
    )
    parser.add_argument("--json", metavar="FILE", help="write the report there; - means stdout")
    if rounds is not None:
        parser.add_argument(
            "--rounds",
            type=positive,
            default=rounds,
            metavar="N",
            help="how often each is timed, in turn; the median counts (default: %(default)s)",
        )
    return parser


def add_device(parser: argparse.ArgumentParser) -> None:
    """Flags that say where and in which type a model computes."""
    parser.add_argument(
        "--dtype", choices=tuple(DTYPES), default="fp32", help="compute type (default: %(default)s)"
    )
    parser.add_argument(
        "--device",
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="cpu, cuda or cuda:N (default: a GPU where there is one)",
    )


def add_sample(parser: argparse.ArgumentParser) -> None:
    """Flags that say which texts of a retrieval set are timed."""
    parser.add_argument(
        "--max-length", type=positive, default=256, metavar="TOKENS", help="cut off there (default: %(default)s)"
    )
    for what, size in (("documents", speed.DOCUMENTS), ("queries", speed.QUERIES)):
        parser.add_argument(
            f"--{what}",
            type=positive,
            default=size,
            metavar="N",
            help=f"size of the sample of the {what} that is timed (default: %(default)s)",
        )


def run(
    parser: argparse.ArgumentParser,
    measure: Callable[[argparse.Namespace], Report],
    render: Callable[[Report], str],
    arguments: Sequence[str] | None = None,
) -> int:
    """Parses, measures, prints. Returns the exit code: 0, 2 for bad arguments, 1 for a failure.

    Args:
        parser: made by `new_parser`.
        measure: gives the report, ready for JSON; ValueError and FileNotFoundError from it mean bad arguments.
        render: the report as text.
        arguments: those of the command line by default.
    """
    args = parser.parse_args(arguments)
    if args.json not in (None, "-") and not Path(args.json).absolute().parent.is_dir():
        parser.error(f"--json {args.json}: there is no folder {Path(args.json).parent}")
    if args.threads:
        torch.set_num_threads(args.threads)
    try:
        machine = environment(getattr(args, "device", "cpu"))
        settings = {
            name: str(v) if isinstance(v, Path) else v for name, v in vars(args).items() if name != "json"
        }
        report = {"settings": settings, "environment": machine, **measure(args)}
    except (ValueError, FileNotFoundError) as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        return 130
    except Exception as error:  # the libraries that load and run models raise what they like
        print(f"{parser.prog}: {str(error) or type(error).__name__}", file=sys.stderr)
        return 1
    document = json.dumps(report, indent=2, ensure_ascii=False) + "\n"
    if args.json == "-":
        sys.stdout.write(document)
    elif args.json:
        Path(args.json).write_text(document, encoding="utf-8")
    out = sys.stderr if args.json == "-" else sys.stdout
    print(f"{render(report)}\n\n{_footer(machine)}", file=out)
    return 0


def environment(device: str) -> dict[str, Any]:
    """What the figures depend on beside the code. `load` is how many processes wanted a core before the run."""
    return {
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else _cpu(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _cpu() -> str:
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text().splitlines() if facts.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _footer(machine: dict[str, Any]) -> str:
    text = (
        f"{machine['device']}, {machine['cores']} cores, {machine['threads']} threads, torch {machine['torch']}"
    )
    if machine["load"] is not None:
        text += f"; load before the run {machine['load']}"
        text += " (others were at work: measure again when it is below 1)" if machine["load"] > 1 else ""
    return text


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns under their headings, the first to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if at else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in [header, *rows]
    )
