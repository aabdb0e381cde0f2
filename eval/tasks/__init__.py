"""Benchmark tasks, one small file each.

To add a benchmark:

1. Write `eval/tasks/NAME.py` with a `TASK` that describes it, and a function `load(reader)`. `load` reads rows
   with the `TaskReader` and returns `RetrievalSet`s (see `assemble`) or `PairSet`s. Start from `advtest.py`.
2. Name the module in `TASKS` below. The commands, the list and the report then know the task.
3. Add a miniature of its data to `tests/eval/tasks/conftest.py`. The tests run every task of `TASKS` on it.
4. Run `python -m mose.eval tasks --markdown` and put the new line into docs/tasks.md.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mose.data.retrieval.retrieval_set import RetrievalSet
from mose.eval.tasks import (
    advtest,
    any_beir,
    bigclonebench,
    codesearchnet,
    coir,
    cosqa,
    java_csharp,
    poj104,
    synthconl,
)
from mose.eval.tasks.base import PairSet, Task, TaskReader, limit_queries

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        codesearchnet.TASK,
        advtest.TASK,
        cosqa.TASK,
        poj104.TASK,
        bigclonebench.TASK,
        java_csharp.TASK,
        synthconl.TASK,
        *coir.TASKS,
        any_beir.TASK,
    )
}


def get_task(name: str) -> Task:
    """Return the task called `name`; ValueError lists all tasks."""
    if name not in TASKS:
        raise ValueError(f"task must be one of {', '.join(TASKS)}, got {name!r}")
    return TASKS[name]


def load_task(
    name: str,
    data: str | Path | None = None,
    split: str | None = None,
    subsets: Sequence[str] = (),
    columns: Mapping[str, str] | None = None,
    limit: int | None = None,
) -> list[RetrievalSet] | list[PairSet]:
    """Load a task's sets from the Hub or from a local folder.

    Args:
        name: one of `TASKS`.
        data: folder with the task's `layout` to read instead of the Hub dataset; None means the Hub.
        split: split to measure; None means the published one.
        subsets: parts of the task, such as `["ruby"]`; empty means all.
        columns: field of the task -> the column that holds it, for data with other column names.
        limit: read only the first `limit` queries (or pairs) of each set, and all documents.

    Raises:
        ValueError: no such task, or a subset or field that the task does not have.
        FileNotFoundError: the folder does not exist or lacks a file.
        RetrievalSetError: the data cannot be evaluated; the message names file, line, column or id.
    """
    task = get_task(name)
    fields = task.source.columns if task.source else ()
    _check_allowed(f"subset of {name}", subsets, task.subsets)
    _check_allowed(f"column of {name}", columns or (), fields)
    if data is not None and not Path(data).is_dir():
        raise FileNotFoundError(f"{data}: no such folder")

    folder = None if data is None else Path(data)
    split = split or (task.source.split if task.source else "test")
    sets = task.load(TaskReader(name, task.source, folder, split, tuple(subsets), columns or {}))
    return sets if limit is None else [limit_queries(one, limit) for one in sets]  # type: ignore[return-value]


def _check_allowed(kind: str, names: Iterable[str], allowed: Iterable[str]) -> None:
    for name in names:
        if name not in allowed:
            raise ValueError(f"{kind} must be one of {', '.join(allowed) or '(none)'}, got {name!r}")


def summarize(name: str, report: Mapping[str, Any], sets: Sequence[str], from_hub: bool = True) -> dict[str, Any]:
    """Return a task's entry in a report: the mean of its first measure over its sets, beside the paper's.

    Args:
        name: one of `TASKS`.
        report: with the figures of the sets, from `evaluate` or `evaluate_pairs`.
        sets: names of the task's sets in the report.
        from_hub: True if the data came from the Hub, for the note.

    Returns:
        `{"sets", "measure", "exits": {exit: mean}, "peers": {name: mean}, "paper", "note"}`. A row that was not
        measured on all sets has no mean.
    """
    task = get_task(name)
    measure = task.measures[0]
    set_figures = [report["sets"][one] for one in sets]

    # A mean over fewer sets could not be compared with that of another row.
    means = {
        kind: {
            key: sum(figures[kind][key][measure] for figures in set_figures) / len(set_figures)
            for key in set_figures[0][kind]
            if all(key in figures[kind] for figures in set_figures)
        }
        for kind in ("exits", "peers")
    }

    paper = {key: dict(figures) for key, figures in task.paper.items()}
    return {"sets": list(sets), "measure": measure, **means, "paper": paper, "note": task.notes(from_hub)}
