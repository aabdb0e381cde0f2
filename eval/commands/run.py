"""`python -m mose.eval run TASK …`: the benchmarks by name, into the same report as `retrieval`."""

import argparse
import sys
from pathlib import Path
from typing import Any

from mose.eval.commands.retrieval import add_measuring, check_measuring, measure, write
from mose.eval.commands.shared import ArgumentError, exit_layers, positive


def add(commands: Any) -> None:
    run_command = commands.add_parser(
        "run",
        help="measure on benchmarks by name",
        description="Measures a model at its exits on the benchmarks that `tasks` lists, from the Hub or from a "
        "local folder of the same shape, and writes the same report as `retrieval`.",
    )
    run_command.add_argument("tasks", nargs="+", metavar="TASK", help="names from the list of `tasks`")
    run_command.add_argument(
        "--data",
        metavar="DIR",
        help="local folder to read in place of the Hub dataset; of several tasks, a folder with one sub-folder "
        "per task, named like it",
    )
    run_command.add_argument("--split", help="split to measure (default: the one that the field reports)")
    run_command.add_argument(
        "--subsets", nargs="+", default=[], metavar="PART", help="only these parts of the task, such as ruby"
    )
    run_command.add_argument(
        "--columns",
        nargs="+",
        default=[],
        metavar="WHAT=COLUMN",
        help="where the task finds what it reads, for data with other column names; `tasks --json` names them",
    )
    run_command.add_argument(
        "--limit",
        type=positive,
        metavar="N",
        help="only the first N queries, or pairs, of each set; all documents stay",
    )
    add_measuring(run_command)
    run_command.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    check_measuring(options)

    from mose.eval.tasks import get_task, load_task, summarize
    from mose.eval.tasks.base import PairSet

    columns = _columns(options.columns)
    if len(set(options.tasks)) < len(options.tasks):
        raise ArgumentError(f"{' '.join(options.tasks)}: name each task once")
    try:
        for name in options.tasks:
            get_task(name)
        sets: dict[str, list[Any]] = {}
        for name in options.tasks:
            folder = _folder(options, name)
            sets[name] = list(load_task(name, folder, options.split, options.subsets, columns, options.limit))
    except FileNotFoundError as error:
        raise ArgumentError(f"--data {error}" if options.data else str(error)) from None
    except ValueError as error:
        from mose.data.retrieval.retrieval_set import RetrievalSetError

        if isinstance(error, RetrievalSetError):  # the data are wrong, not the arguments
            raise
        raise ArgumentError(str(error)) from None
    ranked = [one for found in sets.values() for one in found if not isinstance(one, PairSet)]
    paired = [one for found in sets.values() for one in found if isinstance(one, PairSet)]
    report: dict[str, Any] = measure(options, ranked) if ranked else {"sets": {}, "speed": {}}
    if paired:
        report["sets"] |= _classified(options, paired)["sets"]
    report["tasks"] = {
        name: summarize(name, report, [one.name for one in found], options.data is None)
        for name, found in sets.items()
    }
    write(options, report)
    out = sys.stderr if options.json == "-" else sys.stdout
    print("\n" + "\n".join(_lines(report["tasks"])), file=out)


def _lines(tasks: dict[str, Any]) -> list[str]:
    from mose.eval.commands.tasks import paper_line

    lines = []
    for name, task in tasks.items():
        mean = f"mean of {len(task['sets'])} sets" if len(task["sets"]) > 1 else "one set"
        figures = {f"exit {key}": value for key, value in task["exits"].items()} | task["peers"]
        shown = ", ".join(f"{key} {value:.3f}" for key, value in figures.items())
        lines.append(f"{name}, {task['measure']}, {mean}: {shown}")
        lines += [f"  the paper's model: {paper_line(task['paper'])}"] if task["paper"] else []
        lines += [f"  {task['note']}"] if task["note"] else []
    return lines


def _classified(options: argparse.Namespace, sets: list[Any]) -> dict[str, Any]:
    import torch

    from mose.eval.classification import evaluate_pairs, load_classifier

    if options.peers:
        print("mose.eval: --peers cannot classify pairs; they are left out there", file=sys.stderr)
    dtype = torch.bfloat16 if options.dtype == "bf16" else None
    try:
        model, tokenizer, exits = load_classifier(options.model, exit_layers(options.exit_layers), options.device)
    except (ValueError, OSError) as error:
        raise ArgumentError(f"--model {options.model}: {error}") from None
    return evaluate_pairs(model, tokenizer, sets, exits, options.max_length, dtype, progress=sys.stderr.isatty())


def _folder(options: argparse.Namespace, name: str) -> str | None:
    if options.data is None or len(options.tasks) == 1:
        return options.data
    return str(Path(options.data) / name)


def _columns(words: list[str]) -> dict[str, str]:
    columns = {}
    for word in words:
        what, _, column = word.partition("=")
        if not what or not column:
            raise ArgumentError(f"--columns {word}: write WHAT=COLUMN")
        columns[what] = column
    return columns
