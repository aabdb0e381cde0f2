"""The benchmarks: one small file each, and the table of all of them.

A file names its Hub dataset with its commit and columns, its measures and what the paper reports, and makes
`RetrievalSet`s (or `PairSet`s) of the dataset's rows, or of a local folder's. A new task is a new file and a line
in `TASKS`.
"""

from collections.abc import Mapping, Sequence
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
from mose.eval.tasks.base import Location, PairSet, Task, head

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
    """The task of that name.

    Raises:
        ValueError: there is none; the message lists those there are.
    """
    if name not in TASKS:
        raise ValueError(f"task {name!r}: there are {', '.join(TASKS)}")
    return TASKS[name]


def load_task(
    name: str,
    data: str | Path | None = None,
    split: str | None = None,
    subsets: Sequence[str] = (),
    columns: Mapping[str, str] | None = None,
    limit: int | None = None,
) -> list[RetrievalSet] | list[PairSet]:
    """A task's sets, from the Hub or from a local folder.

    Args:
        name: one of `TASKS`.
        data: a folder of the task's `layout` to read in place of the Hub dataset.
        split: another split than the published one.
        subsets: only these of the task's parts, such as `["ruby"]`; empty means all.
        columns: what the task reads → the column that holds it, for data whose columns bear other names.
        limit: only the first so many queries (or pairs) of each set; all documents stay.

    Raises:
        ValueError: no such task, or a subset or column that the task does not have.
        FileNotFoundError: the folder is not there, or lacks a file.
        RetrievalSetError: data that cannot be measured on; the message names file, line, column or id.
    """
    task = get_task(name)
    unknown = [part for part in subsets if part not in task.subsets]
    if unknown:
        raise ValueError(f"subset {unknown[0]!r} of {name}: there are {', '.join(task.subsets) or 'none'}")
    readable = task.source.columns if task.source else {}
    unknown = [what for what in columns or {} if what not in readable]
    if unknown:
        raise ValueError(f"column {unknown[0]!r} of {name}: it reads {', '.join(readable) or 'the BEIR layout'}")
    if data is not None and not Path(data).is_dir():
        raise FileNotFoundError(f"{data}: no such folder")
    folder = None if data is None else Path(data)
    sets = task.load(Location(name, task.source, folder, split, tuple(subsets), columns or {}))
    return sets if limit is None else [head(one, limit) for one in sets]  # type: ignore[return-value]


def summarize(name: str, report: Mapping[str, Any], sets: Sequence[str], from_hub: bool = True) -> dict[str, Any]:
    """What a report says of a task as a whole: the mean of its first measure over its sets, beside the paper.

    Args:
        name: one of `TASKS`.
        report: with the sets' figures, as `evaluate` or `evaluate_pairs` returns it.
        sets: the names of the task's sets in it.
        from_hub: whether the data came from the Hub, for the note.

    Returns:
        `{"sets", "measure", "exits": {exit: mean}, "peers": {name: mean}, "paper", "note"}`; who was not
        measured on all sets has no mean.
    """
    task = get_task(name)
    measure = task.measures[0]
    found = [report["sets"][one] for one in sets]
    means = {
        kind: {
            key: sum(one[kind][key][measure] for one in found) / len(found)
            for key in found[0][kind]
            if all(key in one[kind] for one in found)
        }
        for kind in ("exits", "peers")
    }
    paper = {key: dict(figures) for key, figures in task.paper.items()}
    return {"sets": list(sets), "measure": measure, **means, "paper": paper, "note": task.notes(from_hub)}
