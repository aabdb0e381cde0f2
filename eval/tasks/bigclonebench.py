"""BigCloneBench (Svajlenko et al., 2014; CodeXGLUE's splits, arXiv 2102.04664): are two Java functions clones?

Pairs are classified, so the model needs a trained classification head (`train_hf.py classify`); precision, recall
and F1 are of the clones.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mose.data.retrieval.retrieval_set import RetrievalSetError, json_rows, lines
from mose.eval.tasks.base import Location, PairSet, Source, Task, cell

FUNCTIONS = "data.jsonl"
Pair = tuple[str, str, Any]  # two ids and a label


def load(at: Location) -> list[PairSet]:
    """The one set of pairs."""
    functions: dict[str, str] = {}
    if at.folder is not None and (at.folder / FUNCTIONS).is_file():
        for where, row in json_rows(at.folder / FUNCTIONS):
            _add(functions, where, cell(where, row, "idx"), cell(where, row, "func"))
        labelled = _listed(at.folder / f"{at.wanted_split}.txt")
    else:
        labelled = _joined(at, functions)
    rows = list(labelled)
    place = {key: number for number, key in enumerate(functions)}
    for where, (first, second, label) in rows:
        for key in (first, second):
            if key not in place:
                raise RetrievalSetError(f"{where}: function id {key!r} is not among the functions")
        if str(label) not in ("0", "1", "True", "False"):
            raise RetrievalSetError(f"{where}: label must be 0 or 1, not {label!r}")
    if not rows:
        raise RetrievalSetError(f"{at.name}: the pairs are empty")
    pairs = np.array([(place[first], place[second]) for _, (first, second, _) in rows], dtype=np.int64)
    labels = np.array([str(label) in ("1", "True") for _, (_, _, label) in rows], dtype=np.int64)
    return [PairSet(at.name, tuple(functions.values()), pairs, labels)]


def _add(functions: dict[str, str], where: str, key: Any, text: Any) -> str:
    if not isinstance(text, str):
        raise RetrievalSetError(f"{where}: the function {key!r} must be a string, not {text!r:.60}")
    if functions.setdefault(str(key), text) != text:
        raise RetrievalSetError(f"{where}: function id {key!r} stands for two texts")
    return str(key)


def _listed(path: Path) -> Iterator[tuple[str, Pair]]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; beside {FUNCTIONS} it lists the pairs")
    for where, line in lines(path):
        parts = line.split()
        if len(parts) != 3:
            raise RetrievalSetError(f"{where}: {len(parts)} columns, not 3 (id, id, label)")
        yield where, (parts[0], parts[1], parts[2])


def _joined(at: Location, functions: dict[str, str]) -> Iterator[tuple[str, Pair]]:
    for where, row in at.rows():
        first, second = (
            _add(functions, where, at.cell(where, row, f"id {side}"), at.cell(where, row, f"function {side}"))
            for side in (1, 2)
        )
        yield where, (first, second, at.cell(where, row, "label"))


TASK = Task(
    name="bigclonebench",
    title="are two Java functions clones? (classification)",
    source=Source(
        "google/code_x_glue_cc_clone_detection_big_clone_bench",
        "main",
        "test",
        {
            "id 1": ("id1",),
            "id 2": ("id2",),
            "function 1": ("func1",),
            "function 2": ("func2",),
            "label": ("label",),
        },
    ),
    layout=f"{FUNCTIONS} (idx, func) and test.txt (id, id, label, tab-separated), as CodeXGLUE has them, or "
    "test.jsonl with id1, id2, func1, func2 and label, or a clone of the Hub dataset",
    load=load,
    measures=("f1", "precision", "recall"),
    size="415,416 pairs",
    paper={"f1": {"4": 0.930, "9": 0.934, "18": 0.942, "27": 0.941, "36": 0.941}},
    note="Needs a model with a trained classifier.",
    hub_note="Reads the dataset's main branch: of its commit only the beginning, 706a9c9, is known here.",
)
