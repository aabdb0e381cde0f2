"""`python -m mose.eval run TASK …`: the benchmarks by name, in the same report as `retrieval`."""

import argparse
import sys
from pathlib import Path
from typing import Any

from mose.eval.commands.measuring import (
    add_measuring_arguments,
    check_measuring_arguments,
    measure_retrieval,
    write_outputs,
)
from mose.eval.commands.shared import compute_dtype, load_from_options
from mose.eval.commands.tasks import paper_line
from mose.utils.command_line import ArgumentError, positive_int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Measure a model at its exits on the benchmarks that `tasks` lists, from the Hub or from a local folder "
        "of the same shape, and write the same report as `retrieval`."
    )

    parser.add_argument("tasks", nargs="+", metavar="TASK", help="names from the list of `tasks`")
    text = "local folder to read instead of the Hub; for several tasks, with a sub-folder named after each"
    parser.add_argument("--data", metavar="DIR", help=text)
    parser.add_argument("--split", help="split to measure (default: the one that publications report)")
    text = "only these parts of the task, such as ruby"
    parser.add_argument("--subsets", nargs="+", default=[], metavar="PART", help=text)
    text = "column of a field, if the data have other column names; `tasks --json` lists the fields"
    parser.add_argument("--columns", nargs="+", default=[], metavar="WHAT=COLUMN", help=text)
    text = "only the first N queries or pairs of each set"
    parser.add_argument("--limit", type=positive_int, metavar="N", help=text)

    add_measuring_arguments(parser)


def run(options: argparse.Namespace) -> None:
    """Measure every task, and write the report."""
    check_measuring_arguments(options)

    # These are slow to import.
    from mose.eval.tasks import summarize
    from mose.eval.tasks.base import PairSet

    # Pairs are classified by another kind of model, so a run over both kinds needs a classifier.
    sets = _load_sets(options)
    every_set = [one for task_sets in sets.values() for one in task_sets]
    ranked = [one for one in every_set if not isinstance(one, PairSet)]
    paired = [one for one in every_set if isinstance(one, PairSet)]

    report: dict[str, Any] = measure_retrieval(options, ranked) if ranked else {"sets": {}, "speed": {}}
    if paired:
        report["sets"] |= _measure_pairs(options, paired)["sets"]
    report["tasks"] = {
        name: summarize(name, report, [one.name for one in task_sets], options.data is None)
        for name, task_sets in sets.items()
    }

    write_outputs(options, report)
    out = sys.stderr if options.json == "-" else sys.stdout
    print("\n" + "\n".join(_summary_lines(report["tasks"])), file=out)


def _load_sets(options: argparse.Namespace) -> dict[str, list[Any]]:
    """Return task -> its sets, after checking the names of all tasks."""
    # These are slow to import.
    from mose.data.retrieval.retrieval_set import RetrievalSetError
    from mose.eval.tasks import get_task, load_task

    columns = _parse_columns(options.columns)
    if len(set(options.tasks)) < len(options.tasks):
        raise ArgumentError(f"{' '.join(options.tasks)}: name each task once")

    sets: dict[str, list[Any]] = {}
    try:
        # A misspelled name is reported before the first download.
        for name in options.tasks:
            get_task(name)

        for name in options.tasks:
            folder = options.data
            if folder is not None and len(options.tasks) > 1:
                folder = str(Path(folder) / name)
            sets[name] = list(load_task(name, folder, options.split, options.subsets, columns, options.limit))
    except FileNotFoundError as error:
        raise ArgumentError(f"--data {error}" if options.data else str(error)) from None
    except RetrievalSetError:
        # A ValueError, but the data are wrong rather than the arguments.
        raise
    except ValueError as error:
        raise ArgumentError(str(error)) from None
    return sets


def _parse_columns(words: list[str]) -> dict[str, str]:
    columns = {}
    for word in words:
        field, _, column = word.partition("=")
        if not field or not column:
            raise ArgumentError(f"--columns must be WHAT=COLUMN, got {word}")
        columns[field] = column
    return columns


def _measure_pairs(options: argparse.Namespace, sets: list[Any]) -> dict[str, Any]:
    # Slow to import.
    from mose.eval.classification import evaluate_pairs, load_pair_classifier

    if options.peers:
        print("mose eval run: --peers cannot classify pairs; they are left out there", file=sys.stderr)

    model, tokenizer, exits = load_from_options(options, load_pair_classifier)
    dtype, progress = compute_dtype(options.dtype), sys.stderr.isatty()
    return evaluate_pairs(model, tokenizer, sets, exits, options.max_length, dtype, progress)


def _summary_lines(tasks: dict[str, Any]) -> list[str]:
    lines = []

    for name, task in tasks.items():
        mean = f"mean of {len(task['sets'])} sets" if len(task["sets"]) > 1 else "one set"
        figures = {f"exit {key}": value for key, value in task["exits"].items()} | task["peers"]
        shown = ", ".join(f"{key} {value:.3f}" for key, value in figures.items())

        lines.append(f"{name}, {task['measure']}, {mean}: {shown}")
        if task["paper"]:
            lines.append(f"  the paper's model: {paper_line(task['paper'])}")
        if task["note"]:
            lines.append(f"  {task['note']}")

    return lines
