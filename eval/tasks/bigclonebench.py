"""BigCloneBench (Svajlenko et al., 2014; CodeXGLUE's splits, arXiv 2102.04664): are two Java functions clones?

Pairs are classified, so the model needs a trained classification head (`train_hf.py classify`). Precision, recall
and F1 are those of the clones.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mose.data.retrieval.retrieval_set import RetrievalSetError, json_rows, lines
from mose.eval.tasks.base import HubSource, PairSet, Task, TaskReader, cell

FUNCTIONS = "data.jsonl"
LABELS = {"0": 0, "False": 0, "1": 1, "True": 1}
LabelledPair = tuple[str, str, Any]  # two ids of functions and the label


def load(reader: TaskReader) -> list[PairSet]:
    """Return the one set of pairs."""
    functions: dict[str, str] = {}
    if reader.folder is not None and (reader.folder / FUNCTIONS).is_file():
        for location, row in json_rows(reader.folder / FUNCTIONS):
            _add_function(functions, location, cell(location, row, "idx"), cell(location, row, "func"))
        rows = list(_listed_pairs(reader.folder / f"{reader.split}.txt"))
    else:
        rows = list(_joined_pairs(reader, functions))

    positions = {key: position for position, key in enumerate(functions)}
    for location, (first, second, label) in rows:
        for key in (first, second):
            if key not in positions:
                raise RetrievalSetError(f"{location}: function id {key!r} is not among the functions")
        if str(label) not in LABELS:
            raise RetrievalSetError(f"{location}: label must be 0 or 1, got {label!r}")

    if not rows:
        raise RetrievalSetError(f"{reader.name}: the pairs are empty")

    pairs = np.array([(positions[first], positions[second]) for _, (first, second, _) in rows], dtype=np.int64)
    labels = np.array([LABELS[str(label)] for _, (_, _, label) in rows], dtype=np.int64)
    return [PairSet(reader.name, tuple(functions.values()), pairs, labels)]


def _add_function(functions: dict[str, str], location: str, key: Any, text: Any) -> str:
    if not isinstance(text, str):
        raise RetrievalSetError(f"{location}: the function {key!r} must be a string, got {text!r:.60}")
    if functions.setdefault(str(key), text) != text:
        raise RetrievalSetError(f"{location}: function id {key!r} has two texts")
    return str(key)


def _listed_pairs(path: Path) -> Iterator[tuple[str, LabelledPair]]:
    """Yield the pairs of CodeXGLUE's list of ids."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; it must list the pairs of {FUNCTIONS}")
    for location, line in lines(path):
        # CodeXGLUE separates by tabs, other copies by spaces.
        columns = line.split()
        if len(columns) != 3:
            raise RetrievalSetError(f"{location}: must have 3 columns (id, id, label), got {len(columns)}")
        yield location, (columns[0], columns[1], columns[2])


def _joined_pairs(reader: TaskReader, functions: dict[str, str]) -> Iterator[tuple[str, LabelledPair]]:
    """Yield the pairs of rows with both texts, as on the Hub, and collect the texts in `functions`."""
    for location, row in reader.rows():
        keys = []
        for side in (1, 2):
            key, text = (reader.cell(location, row, f"{name} {side}") for name in ("id", "function"))
            keys.append(_add_function(functions, location, key, text))
        yield location, (keys[0], keys[1], reader.cell(location, row, "label"))


TASK = Task(
    name="bigclonebench",
    title="are two Java functions clones? (classification)",
    source=HubSource(
        "google/code_x_glue_cc_clone_detection_big_clone_bench",
        "main",
        columns={
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
    size="415,416 pairs",
    measures=("f1", "precision", "recall"),
    paper={"f1": {"4": 0.930, "9": 0.934, "18": 0.942, "27": 0.941, "36": 0.941}},
    note="Needs a model with a trained classifier.",
    hub_note="Reads the dataset's main branch: of its commit only the beginning, 706a9c9, is known here.",
)
