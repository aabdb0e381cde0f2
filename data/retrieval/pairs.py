"""Everything that fine-tuning reads, brought to one shape: pairs of a query and the document to find."""

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from datasets import (
    Dataset,
    DatasetDict,
    Features,
    Value,
    concatenate_datasets,
    load_dataset,
    load_from_disk,
)

from mose.data.source.mining import mine
from mose.tokenization.prompts import UNKNOWN_LANGUAGE

logger = logging.getLogger(__name__)

PAIR_COLUMNS = ("query", "query_language", "document", "document_language", "repository")
_SHAPES = {
    "triples": ("text", "code_a", "code_b"),
    "code pairs": ("code_a", "code_b"),
    "text and code": ("text", "code"),
    "ready pairs": ("query", "document"),
}
_OPTIONAL = (
    *("language", "language_a", "language_b", "query_language", "document_language", "repository"),
    "negative",
)
_BUILDERS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv"}
_COLUMNS = (*PAIR_COLUMNS, "negative")
_FEATURES = Features({name: Value("string") for name in _COLUMNS})


def load_pairs(
    source_trees: Sequence[str | Path] = (),
    datasets: Sequence[str | Path | Dataset] = (),
    column_mapping: Mapping[str, str] | None = None,
    *,
    split: str = "train",
    **mining,
) -> Dataset:
    """Training pairs of source trees and datasets, in this order.

    A dataset has the columns `text` and `code`, or `code_a` and `code_b`, or `text`, `code_a` and `code_b`,
    with `language`, `language_a`, `language_b` and `repository` where it knows them, and `negative`, code that
    does not answer (a hard negative, in the language of the document); or those of the result.
    Each triple gives one pair of text and code, with code_a and code_b in turn, and one of code_a and code_b,
    so that the two kinds come in equal parts.

    Args:
        source_trees: Folders to mine (`mose.data.source.mining.mine`) for texts and codes.
        datasets: Hub ids, local `.jsonl`, `.json`, `.parquet` or `.csv` files, folders that `datasets` can read
            or has saved, or datasets.
        column_mapping: From the names that datasets use to the names above, `{"docstring": "text"}`; a name
            that a dataset lacks is passed over there.
        split: The split to read of datasets that have several.
        mining: Keyword arguments for `mose.data.source.mining.mine`.

    Returns:
        Rows of the strings `query`, `query_language` ("" for natural language, `UNKNOWN_LANGUAGE` for code
        whose language is unknown), `document`, `document_language` and `repository` ("" where unknown). Pairs
        with an empty side are left out, and counted in a warning. Where there are hard negatives, also
        `negative` ("" where a pair has none).

    Raises:
        ValueError: There is nothing to read, a dataset can't be found or has other columns, or no pair is
            left.
    """
    if not source_trees and not datasets:
        raise ValueError("nothing to read: give source trees, datasets, or both")
    mapping = dict(column_mapping or {})
    allowed = sorted({name for shape in _SHAPES.values() for name in shape} | set(_OPTIONAL))
    if unknown := set(mapping.values()) - set(allowed):
        raise ValueError(f"column_mapping gives {sorted(unknown)}: the names known are {', '.join(allowed)}")
    tables = [
        ("dataset" if isinstance(data, Dataset) else str(data), load_table(data, split)) for data in datasets
    ]
    if unused := set(mapping) - {name for _, table in tables for name in table.column_names}:
        found = "; ".join(f"{name}: {', '.join(table.column_names)}" for name, table in tables)
        raise ValueError(f"column_mapping names {sorted(unused)}, which no dataset has ({found})")
    parts = [_pairs(name, _rename(table, mapping)) for name, table in tables]
    if source_trees:
        mined, _ = mine(source_trees, **mining)
        parts.insert(0, _pairs("source trees", mined))
    pairs = concatenate_datasets(parts)
    if not any(pairs.unique("negative")):
        pairs = pairs.remove_columns("negative")
    if not len(pairs):
        raise ValueError(f"no pairs in {', '.join(map(str, [*source_trees, *(name for name, _ in tables)]))}")
    return pairs


def load_table(data: str | Path | Dataset, split: str, streaming: bool = False) -> Dataset:
    """A dataset by Hub id, local file or folder; one that is given comes back as it is.

    With `streaming`, an `IterableDataset` that reads rows as they are asked for.

    Raises:
        ValueError: It can't be found or read, or has no such split.
    """
    if isinstance(data, Dataset):
        return data.to_iterable_dataset() if streaming else data
    path = Path(data)
    try:
        if path.is_dir() and ((path / "state.json").exists() or (path / "dataset_dict.json").exists()):
            table = load_from_disk(str(path))
        elif path.is_file():
            if path.suffix not in _BUILDERS:
                raise ValueError(f"files can be {', '.join(_BUILDERS)}")
            table = load_dataset(_BUILDERS[path.suffix], data_files=str(path), split="train", streaming=streaming)
        elif path.suffix in _BUILDERS:
            raise ValueError("no such file")
        else:
            table = load_dataset(str(data), split=split, streaming=streaming)
    except Exception as error:  # what goes wrong in reading has many classes; say which dataset it was
        raise ValueError(f"dataset {str(data)!r}: {error}") from error
    if isinstance(table, DatasetDict):
        if split not in table:
            raise ValueError(f"dataset {str(data)!r}: split={split!r}: it has {', '.join(table)}")
        table = table[split]
    return load_table(table, split, streaming) if isinstance(table, Dataset) else table


def _rename(table: Dataset, mapping: Mapping[str, str]) -> Dataset:
    present = {old: new for old, new in mapping.items() if old in table.column_names and old != new}
    replaced = [new for new in present.values() if new in table.column_names and new not in present]
    return table.remove_columns(replaced).rename_columns(present)


def _pairs(name: str, table: Dataset) -> Dataset:
    shape = next((kind for kind, needs in _SHAPES.items() if set(needs) <= set(table.column_names)), None)
    if shape is None:
        raise ValueError(
            f"dataset {name!r} has the columns {', '.join(table.column_names)}; what can be read is "
            + "; ".join(", ".join(needs) for needs in _SHAPES.values())
            + " (other names: column_mapping)"
        )
    wanted = [column for column in (*_SHAPES[shape], *_OPTIONAL) if column in table.column_names]
    for column in _SHAPES[shape]:
        feature = table.features[column]
        if getattr(feature, "dtype", None) not in ("string", "large_string", "null"):
            raise ValueError(f"dataset {name!r}: column {column!r} holds {feature}, not strings")
    pairs = table.select_columns(wanted).map(
        _pairs_of_batch,
        batched=True,
        with_indices=True,
        fn_kwargs={"shape": shape},
        remove_columns=wanted,
        features=_FEATURES,
        desc=f"pairs of {Path(name).name}",
    )
    if dropped := len(table) * (2 if shape == "triples" else 1) - len(pairs):
        logger.warning("%s: %d pairs with an empty side left out", name, dropped)
    return pairs


def _pairs_of_batch(batch: Mapping[str, list], indices: Iterable[int], shape: str) -> dict[str, list[str]]:
    columns: dict[str, list[str]] = {name: [] for name in _COLUMNS}
    for position, index in enumerate(indices):
        row = defaultdict(str, {name: values[position] or "" for name, values in batch.items()})
        text, code = (row["text"], ""), (row["code"], row["language"] or UNKNOWN_LANGUAGE)
        a = (row["code_a"], row["language_a"] or row["language"] or UNKNOWN_LANGUAGE)
        b = (row["code_b"], row["language_b"] or row["language"] or UNKNOWN_LANGUAGE)
        pairs = {
            "triples": [(text, b if index % 2 else a), (a, b)],
            "code pairs": [(a, b)],
            "text and code": [(text, code)],
            "ready pairs": [
                (
                    (row["query"], row["query_language"]),
                    (row["document"], row["document_language"] or UNKNOWN_LANGUAGE),
                )
            ],
        }
        for query, document in pairs[shape]:
            if query[0].strip() and document[0].strip():
                values = (*query, *document, row["repository"], row["negative"])
                for name, value in zip(_COLUMNS, values, strict=True):
                    columns[name].append(str(value))
    return columns
