"""CoSQA (Huang et al., 2021, arXiv 2105.13239): web search query → Python function.

The published candidates are the 6,267 different functions of the whole dataset. CoCLR, the authors' repository,
has them in `code_idx_map.txt` (one JSON object, code → number), and the queries in
`cosqa-retrieval-test-500.json`. The Hub dataset has 20,604 documents in which the same 6,267 texts recur. They
are merged here, or a query's only judged copy would compete with its own duplicates. The task `coir-cosqa`
measures the dataset as CoIR does.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from mose.data.retrieval.retrieval_set import RetrievalSet, RetrievalSetError, assemble, load_retrieval_set
from mose.eval.tasks.base import HubSource, Task, TaskReader, cell, merge_identical, relevance_row, text_row

CODES = "code_idx_map.txt"


def load(reader: TaskReader) -> list[RetrievalSet]:
    """Return the one set."""
    if reader.folder is not None and (reader.folder / CODES).is_file():
        return [_published_set(reader.name, reader.folder, reader.split)]

    if reader.folder is not None:
        data = load_retrieval_set(reader.folder, reader.split)
    else:
        assert reader.source is not None
        data = load_retrieval_set(reader.source.repo, reader.split, revision=reader.source.revision)

    data = replace(
        data,
        name=reader.name,
        query_languages=("en",) * len(data.queries),
        document_languages=("python",) * len(data.documents),
    )
    return [merge_identical(data)]


def _published_set(name: str, folder: Path, split: str) -> RetrievalSet:
    codes_path, queries_path = folder / CODES, folder / f"cosqa-retrieval-{split}-500.json"

    codes = _read_published(codes_path, dict)
    rows = [
        (f"{queries_path} entry {number}", row) for number, row in enumerate(_read_published(queries_path, list))
    ]

    documents = (text_row(str(codes_path), str(number), code, "python") for code, number in codes.items())
    queries = (
        text_row(location, cell(location, row, "idx"), cell(location, row, "doc"), "en") for location, row in rows
    )
    judgements = (
        relevance_row(location, row["idx"], cell(location, row, "retrieval_idx")) for location, row in rows
    )

    return assemble(name, documents, queries, judgements)


def _read_published(path: Path, kind: type) -> Any:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise RetrievalSetError(f"{path}: not JSON: {error}") from None

    if not isinstance(value, kind):
        raise RetrievalSetError(f"{path}: must be one JSON {kind.__name__}, got {type(value).__name__}")
    return value


TASK = Task(
    name="cosqa",
    title="web search query → Python function",
    source=HubSource("CoIR-Retrieval/cosqa", "bc5efb7e9d437246ce393ed19d772e08e4a79535"),
    layout=f"{CODES} and cosqa-retrieval-test-500.json (as CoCLR has them), or a BEIR folder",
    load=load,
    size="500 → 6,267",
)
