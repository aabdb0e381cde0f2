"""Labelled snippets and labelled pairs of snippets, of many shapes, brought to one; and their batches."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import ClassLabel, Dataset
from transformers import PreTrainedTokenizerBase

from mose.data.tables import load_table
from mose.tokenization.pairs import join_pair

logger = logging.getLogger(__name__)

#: Columns that are read, by preference; those of two are pairs.
SHAPES = (("code_a", "code_b"), ("text", "code"), ("func1", "func2"), ("code",), ("text",))
LABEL = "label"
#: BigCloneBench as CodeXGLUE lays it out: functions in one file, pairs of their ids in others.
FUNCTIONS_FILE = "data.jsonl"


def load_examples(source: str | Path, column_mapping: Mapping[str, str] | None = None, split: str = "train"):
    """Labelled examples of a dataset.

    Args:
        source: A `.jsonl`, `.json`, `.parquet` or `.csv` file, a folder that `datasets` reads or has saved, a
            Hub id, or CodeXGLUE's BigCloneBench: a `.txt` file of lines `id1 id2 label`, with `data.jsonl` of
            rows `idx` and `func` beside it.
        column_mapping: From the dataset's names to `label` and `code_a`, `code_b`, `text`, `code`.
        split: What to read of a dataset that has several.

    Returns:
        A dataset with the strings `first` and, for pairs, `second`, and the string `label`; its rows with a
        blank side are left out, and counted in a warning.

    Raises:
        ValueError: It can't be read, lacks a column, holds something that is no text or no class, or nothing.
    """
    name = str(source)
    sides: tuple[str, ...] = ("code_a", "code_b")
    if Path(name).suffix == ".txt":
        table = _bigclonebench(Path(name))
    else:
        table, sides = _columns(load_table(source, split), column_mapping or {}, name)
    labels = _label_names(table, name)
    columns = [list(table[side]) for side in sides]
    for side, column in zip(sides, columns, strict=True):
        for value in column:
            if value is not None and not isinstance(value, str):
                raise ValueError(f"{name}: column {side!r} holds {value!r:.60}, which is no text")
    kept = [row for row, texts in enumerate(zip(*columns, strict=True)) if all(t and t.strip() for t in texts)]
    if dropped := len(labels) - len(kept):
        logger.warning("%s: %d of %d examples with an empty text left out", name, dropped, len(labels))
    if not kept:
        raise ValueError(f"{name}: no example has texts")
    made = {
        side: [column[row] for row in kept] for side, column in zip(("first", "second"), columns, strict=False)
    }
    return Dataset.from_dict({**made, "label": [labels[row] for row in kept]})


def _columns(table: Dataset, mapping: Mapping[str, str], name: str) -> tuple[Dataset, tuple[str, ...]]:
    known = sorted({LABEL, *(column for shape in SHAPES for column in shape)})
    if unknown := set(mapping.values()) - set(known):
        raise ValueError(f"column_mapping gives {sorted(unknown)}: the names known are {', '.join(known)}")
    has = ", ".join(table.column_names)
    if missing := set(mapping) - set(table.column_names):
        raise ValueError(f"column_mapping names {sorted(missing)}, which {name} lacks; it has {has}")
    if mapping:
        table = table.remove_columns(
            [c for c in mapping.values() if c in table.column_names and c not in mapping]
        )
        table = table.rename_columns({old: new for old, new in mapping.items() if old != new})
    shape = next((shape for shape in SHAPES if set(shape) <= set(table.column_names)), None)
    if shape is None or LABEL not in table.column_names:
        wanted = "; ".join(", ".join((*shape, LABEL)) for shape in SHAPES)
        raise ValueError(
            f"{name} has the columns {has}; what can be read is {wanted} (other names: column_mapping)"
        )
    return table, shape


def _label_names(table: Dataset, name: str) -> list[str]:
    feature, labels = table.features[LABEL], list(table[LABEL])
    if unlabelled := sum(label is None for label in labels):
        raise ValueError(f"{name}: {unlabelled} of {len(labels)} examples have no label")
    if isinstance(feature, ClassLabel):
        labels = [feature.int2str(label) if label >= 0 else "" for label in labels]
    elif wrong := next((x for x in labels if not isinstance(x, str | int) and not float(x).is_integer()), None):
        raise ValueError(f"{name}: label {wrong!r}: a class is a string, a truth value or a whole number")
    # True and 1.0 are what others call 1.
    names = [label.strip() if isinstance(label, str) else str(int(label)) for label in labels]
    if "" in names:
        raise ValueError(f"{name}: {names.count('')} of {len(names)} examples have no label")
    return names


def _bigclonebench(path: Path) -> Dataset:
    functions_path = path.parent / FUNCTIONS_FILE
    for needed in (path, functions_path):
        if not needed.is_file():
            raise ValueError(
                f"{needed}: no such file; {path.name} lists pairs of the functions of {FUNCTIONS_FILE}"
            )
    functions: dict[str, str] = {}
    with functions_path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                row = json.loads(line)
                functions[str(row["idx"])] = row["func"]
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{functions_path}:{number}: needs idx and func: {error!r}") from error
    rows: dict[str, list[str]] = {"code_a": [], "code_b": [], LABEL: []}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        parts = line.split()
        if len(parts) != 3:
            raise ValueError(f"{path}:{number}: {len(parts)} columns, not 3 (id1, id2, label)")
        if unknown := [key for key in parts[:2] if key not in functions]:
            raise ValueError(f"{path}:{number}: function {unknown[0]!r} is not in {FUNCTIONS_FILE}")
        for column, value in zip(rows, (functions[parts[0]], functions[parts[1]], parts[2]), strict=True):
            rows[column].append(value)
    return Dataset.from_dict(rows)


def label_names(examples: Dataset, name: str) -> list[str]:
    """The classes of a training set, in the order of their ids: by number where all are numbers, else by name.

    Raises:
        ValueError: there is only one.
    """
    labels = sorted(set(examples["label"]))
    if len(labels) < 2:
        raise ValueError(
            f"{name}: all {len(examples)} examples have the label {labels[0]!r}; nothing to tell apart"
        )
    return sorted(labels, key=int) if all(label.lstrip("-").isdigit() for label in labels) else labels


def check_like(validation: Dataset, name: str, train: Dataset, labels: Sequence[str]) -> None:
    """Raises ValueError where a validation set has labels or a shape that the training set lacks."""
    if unknown := sorted(set(validation["label"]) - set(labels)):
        raise ValueError(f"{name}: label {', '.join(unknown)} unknown in training, which has {', '.join(labels)}")
    if ("second" in train.column_names) != ("second" in validation.column_names):
        kinds = ["pairs" if "second" in data.column_names else "single texts" for data in (train, validation)]
        raise ValueError(f"{name}: {kinds[1]}, where training has {kinds[0]}")


@dataclass
class ClassificationCollator:
    """Rows of `load_examples` to `<sep> first <cls>` or `<sep> first <sep> second <cls>`, and class ids.

    Attributes:
        tokenizer: A fast tokenizer; it pads on its own side.
        labels: The classes, in the order of their ids.
        max_length: Most tokens of an input. `<cls>` is always kept; of a pair, the longer side is cut first.
    """

    tokenizer: PreTrainedTokenizerBase
    labels: Sequence[str]
    max_length: int

    def __post_init__(self) -> None:
        if self.max_length < 5:
            raise ValueError(f"max_length={self.max_length}: a pair needs at least 5, one token of each side")
        self._ids = {label: number for number, label in enumerate(self.labels)}

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """`input_ids` and `attention_mask` (batch, tokens), `labels` (batch,), all int64."""
        sides = [side for side in ("first", "second") if side in rows[0]]
        ids = [
            self.tokenizer(
                [row[side] for row in rows], add_special_tokens=False, truncation=True, max_length=self.max_length
            )["input_ids"]
            for side in sides
        ]
        if len(sides) == 2:
            inputs = [join_pair(self.tokenizer, a, b, self.max_length) for a, b in zip(*ids, strict=True)]
        else:
            sep, cls = self.tokenizer.sep_token_id, self.tokenizer.cls_token_id
            inputs = [[sep, *one[: self.max_length - 2], cls] for one in ids[0]]
        batch = self.tokenizer.pad({"input_ids": inputs}, return_tensors="pt")
        labels = torch.tensor([self._ids[row["label"]] for row in rows])
        return {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"], "labels": labels}
