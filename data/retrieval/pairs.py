"""Training pairs for contrastive fine-tuning: a query, and the document that answers it."""

import itertools
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from datasets import Dataset, Features, Value, concatenate_datasets

from mose.data.source.mining import mine
from mose.data.source.report import ReadingReport
from mose.data.tables import check_column_mapping, load_table, match_columns, rename_columns
from mose.tokenization.prompts import UNKNOWN_LANGUAGE

logger = logging.getLogger(__name__)

PAIR_COLUMNS = ("query", "query_language", "document", "document_language", "repository")
_ALL_COLUMNS = (*PAIR_COLUMNS, "negative")
_FEATURES = Features({name: Value("string") for name in _ALL_COLUMNS})
_LANGUAGE_COLUMNS = ("language", "language_a", "language_b", "query_language", "document_language")
_OPTIONAL_COLUMNS = (*_LANGUAGE_COLUMNS, "repository", "negative")

Side = tuple[str, str]  # a text and its language; "" for natural language
SourceRow = Mapping[str, str]  # "" for a column that is absent


def load_pairs(
    source_trees: Sequence[str | Path] = (),
    datasets: Sequence[str | Path | Dataset] = (),
    column_mapping: Mapping[str, str] | None = None,
    *,
    split: str = "train",
    **mining,
) -> Dataset:
    """Return the training pairs of source trees and datasets, in this order.

    A dataset has the columns `text` and `code`; or `code_a` and `code_b`; or `text`, `code_a` and `code_b`; or
    those of the result. Optional columns are `language`, `language_a`, `language_b`, `repository`, and
    `negative`: a hard negative, code that does not answer the query, in the language of the document.
    A triple gives two pairs: text and code, with code_a and code_b in turn; and code_a and code_b.

    Args:
        source_trees: folders to mine for texts and codes (`mose.data.source.mining.mine`).
        datasets: Hub ids, files, folders or datasets, as `mose.data.tables.load_table` takes them.
        column_mapping: names in the datasets -> names above, such as `{"docstring": "text"}`. Datasets without
            such a column are read as they are.
        split: the split to read of datasets that have several.
        mining: keyword arguments for `mose.data.source.mining.mine`.

    Returns:
        Rows of the strings `query`, `query_language` ("" for natural language, `UNKNOWN_LANGUAGE` for code in an
        unknown language), `document`, `document_language` and `repository` ("" if unknown). If any row has a hard
        negative, also `negative` ("" for none). Pairs with an empty side are dropped, with a warning.

    Raises:
        ValueError: there is nothing to read, a dataset cannot be read or has other columns, or no pair is left.
    """
    if not source_trees and not datasets:
        raise ValueError("There is nothing to read. Pass source_trees, datasets, or both.")

    mapping = column_mapping or {}
    check_column_mapping(mapping, _TARGETS)  # before loading, which can take long
    tables = [
        ("dataset" if isinstance(data, Dataset) else str(data), load_table(data, split)) for data in datasets
    ]
    check_column_mapping(mapping, _TARGETS, [(name, table.column_names) for name, table in tables])
    parts = [_pairs_of_table(name, rename_columns(table, mapping)) for name, table in tables]
    report = mining.get("report") or ReadingReport()
    if source_trees:
        mined, _ = mine(source_trees, **{**mining, "report": report})
        parts.insert(0, _pairs_of_table("source trees", mined))

    pairs = concatenate_datasets(parts)
    # Without the column, the collator skips the third side of a batch.
    if not any(pairs.unique("negative")):
        pairs = pairs.remove_columns("negative")
    if not len(pairs):
        names = ", ".join([*map(str, source_trees), *(name for name, _ in tables)])
        raise ValueError(f"no pairs in {names}. {report.explain_empty() if source_trees else ''}".rstrip(". "))
    return pairs


def _code(row: SourceRow, side: str = "") -> Side:
    """Return the code of a row, or side "a" or "b" of it."""
    suffix = f"_{side}" if side else ""
    return row[f"code{suffix}"], row[f"language{suffix}"] or row["language"] or UNKNOWN_LANGUAGE


def _pairs_of_triple(row: SourceRow, index: int) -> list[tuple[Side, Side]]:
    a, b = _code(row, "a"), _code(row, "b")
    return [((row["text"], ""), b if index % 2 else a), (a, b)]


def _ready_pair(row: SourceRow, index: int) -> list[tuple[Side, Side]]:
    document = row["document"], row["document_language"] or UNKNOWN_LANGUAGE
    return [((row["query"], row["query_language"]), document)]


#: Columns of a dataset -> the pairs (query, document) of one of its rows. The first that match are read.
_SHAPES: dict[tuple[str, ...], Callable[[SourceRow, int], list[tuple[Side, Side]]]] = {
    ("text", "code_a", "code_b"): _pairs_of_triple,
    ("code_a", "code_b"): lambda row, _: [(_code(row, "a"), _code(row, "b"))],
    ("text", "code"): lambda row, _: [((row["text"], ""), _code(row))],
    ("query", "document"): _ready_pair,
}
_TARGETS = sorted({*itertools.chain(*_SHAPES), *_OPTIONAL_COLUMNS})


def _pairs_of_table(name: str, table: Dataset) -> Dataset:
    shape = match_columns(f"dataset {name!r}", table, *_SHAPES)
    for column in shape:
        feature = table.features[column]
        if getattr(feature, "dtype", None) not in ("string", "large_string", "null"):
            raise ValueError(f"dataset {name!r}: column {column!r} must hold strings, got {feature}.")

    # Drop the other columns first: `map` would decode them for every batch.
    used = [column for column in (*shape, *_OPTIONAL_COLUMNS) if column in table.column_names]
    pairs = table.select_columns(used).map(
        _pairs_of_batch,
        batched=True,
        with_indices=True,
        fn_kwargs={"shape": shape},
        remove_columns=used,
        features=_FEATURES,
        desc=f"pairs of {Path(name).name}",
    )
    pairs_per_row = len(_SHAPES[shape](defaultdict(str), 0))
    if dropped := len(table) * pairs_per_row - len(pairs):
        logger.warning("%s: %d pairs with an empty side left out", name, dropped)

    return pairs


def _pairs_of_batch(
    batch: Mapping[str, list], indices: Iterable[int], shape: tuple[str, ...]
) -> dict[str, list[str]]:
    columns: dict[str, list[str]] = {name: [] for name in _ALL_COLUMNS}
    for position, index in enumerate(indices):
        row = defaultdict(str, {name: values[position] or "" for name, values in batch.items()})
        for query, document in _SHAPES[tuple(shape)](row, index):
            if query[0].strip() and document[0].strip():
                values = (*query, *document, row["repository"], row["negative"])
                for name, value in zip(_ALL_COLUMNS, values, strict=True):
                    columns[name].append(str(value))
    return columns
