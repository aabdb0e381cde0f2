"""Load tables from the Hub and from local files, and rename their columns."""

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from datasets import Dataset, DatasetDict, IterableDataset, load_dataset, load_from_disk

#: Brackets of a line that may be nested too deeply: Arrow's reader would crash the process.
_MANY_BRACKETS = 1_000
#: Builders of `datasets` by file suffix.
_BUILDERS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv"}


def load_table(data: str | Path | Dataset, split: str, streaming: bool = False) -> Dataset | IterableDataset:
    """Load one split of a dataset.

    Args:
        data: a Hub id, a `.jsonl`, `.json`, `.parquet` or `.csv` file, a folder that `datasets` can read or has
            saved, or a dataset.
        split: the split to read if there are several.
        streaming: return an `IterableDataset`, which reads its rows lazily.

    Raises:
        ValueError: the dataset cannot be found or read, or has no such split.
    """
    if isinstance(data, Dataset):
        return data.to_iterable_dataset() if streaming else data
    try:
        table = _read_table(Path(data), str(data), split, streaming)
    except Exception as error:  # readers raise many classes; name the dataset
        raise ValueError(f"dataset {str(data)!r}: {find_bad_row(Path(data)) or error}") from error

    if isinstance(table, DatasetDict):
        if split not in table:
            raise ValueError(f"dataset {str(data)!r}: split must be one of {', '.join(table)}, got {split!r}.")
        table = table[split]

    return load_table(table, split, streaming) if isinstance(table, Dataset) else table


def find_bad_row(path: Path, only_encoding: bool = False) -> str | None:
    """Return which row of a text file cannot be read, and why; None if there is none.

    With `only_encoding`, JSON is parsed only where Arrow's reader could crash the process.
    """
    if path.suffix not in (".jsonl", ".json", ".csv") or not path.is_file():
        return None

    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
                is_odd = not text.startswith("{") or text.count("[") + text.count("{") > _MANY_BRACKETS
                if path.suffix != ".csv" and text and (is_odd or not only_encoding):
                    _check_json(text, path.suffix == ".jsonl")
            except UnicodeDecodeError as error:
                advice = f"Convert it: iconv -f LATIN1 -t UTF-8 {path.name}"
                return f"row {number} is not UTF-8 (byte 0x{line[error.start]:02x}). {advice}"
            except ValueError as error:
                return f"row {number} is not JSON: {error}"
            except RecursionError:
                return f"row {number} is nested too deeply. Leave it out."
            except TypeError as error:
                return f"row {number} must be a JSON object, got {error}."
    return None


def _check_json(text: str, is_row: bool) -> None:
    """Raise ValueError, RecursionError or TypeError for a line that is not a row, or no part of a document."""
    try:
        value = json.loads(text)
    except ValueError:
        if is_row:
            raise
        return  # of a document over several lines
    if value is None or is_row and not isinstance(value, dict):
        raise TypeError(f"{text:.40}")


def check_column_mapping(
    mapping: Mapping[str, str],
    targets: Collection[str],
    tables: Sequence[tuple[str, Sequence[str]]] | None = None,
) -> None:
    """Check a mapping from the column names of datasets to `targets`, our names.

    `tables` has the name and the column names of each dataset; None skips the check of their names.

    Raises:
        ValueError: a target is unknown, or no dataset has a column that is to be renamed.
    """
    if unknown := sorted(set(mapping.values()) - set(targets)):
        raise ValueError(f"column_mapping must map to {', '.join(targets)}; got {', '.join(map(repr, unknown))}.")
    if tables is None:
        return
    if missing := sorted(set(mapping).difference(*(columns for _, columns in tables))):
        existing = "; ".join(f"{name}: {', '.join(columns)}" for name, columns in tables)
        raise ValueError(
            f"column_mapping names {', '.join(map(repr, missing))}, which no dataset has. Use one of {existing}."
        )


def rename_columns(table: Dataset, mapping: Mapping[str, str]) -> Dataset:
    """Return `table` with its columns renamed. Columns that already have a new name are replaced.

    Names that the table lacks are ignored.
    """
    present = {old: new for old, new in mapping.items() if old in table.column_names and old != new}
    replaced = [new for new in present.values() if new in table.column_names and new not in present]
    return table.remove_columns(replaced).rename_columns(present)


def match_columns(name: str, table: Dataset, *shapes: tuple[str, ...]) -> tuple[str, ...]:
    """Return the first of `shapes` whose columns the table has.

    Raises:
        ValueError: the table has the columns of none.
    """
    for shape in shapes:
        if set(shape) <= set(table.column_names):
            return shape
    expected, existing = "; or ".join(map(", ".join, shapes)), ", ".join(table.column_names)
    raise ValueError(
        f"{name} must have the columns {expected}; it has {existing}. Rename them with column_mapping."
    )


def _read_table(path: Path, name: str, split: str, streaming: bool) -> Dataset | IterableDataset | DatasetDict:
    if path.is_dir() and ((path / "state.json").exists() or (path / "dataset_dict.json").exists()):
        return load_from_disk(str(path))
    # Neither a file nor named like one: a folder or a Hub id.
    if path.suffix not in _BUILDERS and not path.is_file():
        return load_dataset(name, split=split, streaming=streaming)

    if not path.is_file():
        raise ValueError("no such file")
    if path.suffix not in _BUILDERS:
        raise ValueError(f"the suffix of a file must be one of {', '.join(_BUILDERS)}")
    # Arrow takes any bytes for text, and fails when a row is read.
    if fault := find_bad_row(path, only_encoding=True):
        raise ValueError(fault)
    return load_dataset(_BUILDERS[path.suffix], data_files=str(path), split="train", streaming=streaming)
