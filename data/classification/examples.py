"""Labelled snippets, or labelled pairs of snippets, read from datasets of many shapes, and their collator."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import ClassLabel, Dataset
from transformers import PreTrainedTokenizerBase

from mose.data.tables import check_column_mapping, load_table, match_columns, rename_columns
from mose.tokenization.inputs import text_ids
from mose.tokenization.pairs import join_pair

logger = logging.getLogger(__name__)

#: Columns that are read, by preference; two columns are a pair.
SHAPES = (("code_a", "code_b"), ("text", "code"), ("func1", "func2"), ("code",), ("text",))
LABEL = "label"
#: BigCloneBench in CodeXGLUE's layout: the functions in this file, pairs of their ids in others.
FUNCTIONS_FILE = "data.jsonl"


def load_examples(
    source: str | Path, column_mapping: Mapping[str, str] | None = None, split: str = "train"
) -> Dataset:
    """Load labelled examples.

    Args:
        source: a `.jsonl`, `.json`, `.parquet` or `.csv` file, a folder that `datasets` can read or has saved, a
            Hub id, or CodeXGLUE's BigCloneBench: a `.txt` file of lines `id1 id2 label`, beside a `data.jsonl`
            with rows of `idx` and `func`.
        column_mapping: the dataset's names -> `label` and `code_a`, `code_b`, `text`, `code`.
        split: the split to read of datasets that have several.

    Returns:
        Rows of the strings `first`, `second` (pairs only) and `label`. Rows with a blank text are dropped, with a
        warning.

    Raises:
        ValueError: the dataset cannot be read, lacks a column, has a value that is no text or no class, or is
            empty.
    """
    name = str(source)
    sides: Sequence[str]
    if Path(name).suffix == ".txt":
        table, sides = _read_bigclonebench(Path(name)), SHAPES[0]
    else:
        mapping, table = column_mapping or {}, load_table(source, split)
        targets = sorted({LABEL, *(column for shape in SHAPES for column in shape)})
        check_column_mapping(mapping, targets, [(name, table.column_names)])
        table = rename_columns(table, mapping)
        *sides, _ = match_columns(name, table, *((*shape, LABEL) for shape in SHAPES))

    labels = _labels_of(table, name)
    columns = [_texts_of(table, side, name) for side in sides]

    # A pair needs both texts.
    filled = [row for row, texts in enumerate(zip(*columns, strict=True)) if all(t and t.strip() for t in texts)]
    if dropped := len(labels) - len(filled):
        logger.warning("%s: %d of %d examples with an empty text left out", name, dropped, len(labels))
    if not filled:
        raise ValueError(f"{name}: no example has texts")
    outputs = dict(zip(("first", "second"), columns, strict=False)) | {"label": labels}
    return Dataset.from_dict({key: [values[row] for row in filled] for key, values in outputs.items()})


def _texts_of(table: Dataset, column: str, name: str) -> list[str | None]:
    texts = list(table[column])
    for value in texts:
        if value is not None and not isinstance(value, str):
            raise ValueError(f"{name}: column {column!r} must hold texts, got {value!r:.60}.")
    return texts


def _labels_of(table: Dataset, name: str) -> list[str]:
    feature, labels = table.features[LABEL], list(table[LABEL])
    if unlabelled := sum(label is None for label in labels):
        raise ValueError(f"{name}: {unlabelled} of {len(labels)} examples have no label")

    if isinstance(feature, ClassLabel):
        labels = [feature.int2str(label) if label >= 0 else "" for label in labels]
    elif wrong := next((x for x in labels if not isinstance(x, str | int) and not float(x).is_integer()), None):
        raise ValueError(f"{name}: label must be a string, a truth value or a whole number, got {wrong!r}.")

    # True and 1.0 are the class that other datasets call 1.
    names = [label.strip() if isinstance(label, str) else str(int(label)) for label in labels]
    if "" in names:
        raise ValueError(f"{name}: {names.count('')} of {len(names)} examples have no label")
    return names


def _read_bigclonebench(path: Path) -> Dataset:
    functions_path = path.parent / FUNCTIONS_FILE
    for required in (path, functions_path):
        if not required.is_file():
            raise ValueError(f"{required}: no such file; {path.name} must be beside {FUNCTIONS_FILE}.")

    functions: dict[str, str] = {}

    with functions_path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                row = json.loads(line)
                functions[str(row["idx"])] = row["func"]
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{functions_path}:{number}: must have idx and func: {error!r}") from error

    rows: dict[str, list[str]] = {"code_a": [], "code_b": [], LABEL: []}

    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        parts = line.split()
        if len(parts) != 3:
            raise ValueError(f"{path}:{number}: must have 3 columns (id1, id2, label), got {len(parts)}.")
        if unknown := [key for key in parts[:2] if key not in functions]:
            raise ValueError(f"{path}:{number}: function {unknown[0]!r} is not in {FUNCTIONS_FILE}")
        for column, value in zip(rows, (functions[parts[0]], functions[parts[1]], parts[2]), strict=True):
            rows[column].append(value)

    return Dataset.from_dict(rows)


def label_names(examples: Dataset, name: str) -> list[str]:
    """Return the classes of a training set in the order of their ids: by number if all are numbers, else by name.

    Raises:
        ValueError: there is only one class.
    """
    labels = sorted(set(examples["label"]))
    if len(labels) < 2:
        raise ValueError(f"{name} must have two classes or more; all {len(examples)} examples are {labels[0]!r}.")
    return sorted(labels, key=int) if all(label.lstrip("-").isdigit() for label in labels) else labels


def check_like(validation: Dataset, name: str, train: Dataset, labels: Sequence[str]) -> None:
    """Check that a validation set has the shape and the classes of the training set.

    Raises:
        ValueError: it has a class that training lacks, or pairs where training has single texts, or vice versa.
    """
    if unknown := sorted(set(validation["label"]) - set(labels)):
        raise ValueError(
            f"{name}: label must be one of {', '.join(labels)}, as in training; got {', '.join(unknown)}."
        )
    kinds = ["pairs" if "second" in data.column_names else "single texts" for data in (train, validation)]
    if kinds[0] != kinds[1]:
        raise ValueError(f"{name} must have {kinds[0]}, as in training; it has {kinds[1]}.")


@dataclass
class ClassificationCollator:
    """Convert rows of `load_examples` to token ids and class ids.

    The input is `<sep> first <cls>`, or `<sep> first <sep> second <cls>` for pairs.

    Attributes:
        tokenizer: a fast tokenizer; it pads on its own side.
        labels: the classes, in the order of their ids.
        max_length: most tokens of an input. `<cls>` is never cut; the longer side of a pair is cut first.

    Raises:
        ValueError: `max_length` has no space for one token of each side.
    """

    tokenizer: PreTrainedTokenizerBase
    labels: Sequence[str]
    max_length: int

    def __post_init__(self) -> None:
        if self.max_length < 5:
            raise ValueError(f"max_length must be at least 5, got {self.max_length}.")
        self._ids = {label: number for number, label in enumerate(self.labels)}

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Tokenize a batch: `input_ids` and `attention_mask` (batch, tokens), `labels` (batch,), all int64."""
        sides = [side for side in ("first", "second") if side in rows[0]]
        ids = [text_ids(self.tokenizer, [row[side] for row in rows], self.max_length) for side in sides]

        if len(sides) == 2:
            inputs = [join_pair(self.tokenizer, a, b, self.max_length) for a, b in zip(*ids, strict=True)]
        else:
            sep, cls = self.tokenizer.sep_token_id, self.tokenizer.cls_token_id
            inputs = [[sep, *text[: self.max_length - 2], cls] for text in ids[0]]

        batch = self.tokenizer.pad({"input_ids": inputs}, return_tensors="pt")
        labels = torch.tensor([self._ids[row["label"]] for row in rows])
        return {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"], "labels": labels}
