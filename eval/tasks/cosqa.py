"""CoSQA (Huang et al., 2021, arXiv 2105.13239): web search query → Python function.

Published candidates are the 6,267 different functions of the whole dataset. CoCLR, the authors' repository,
keeps them in `code_idx_map.txt` (one JSON object, code → number) and the queries in
`cosqa-retrieval-test-500.json`. The Hub dataset has 20,604 documents, in which the same 6,267 texts recur; here
they are made one again, or a query's only judged copy would compete with its own doubles. The task `coir-cosqa`
measures it as CoIR does.
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from mose.data.retrieval.retrieval_set import RetrievalSet, RetrievalSetError, Row, assemble, load_retrieval_set
from mose.eval.tasks.base import Location, Source, Task, cell, merge_identical

CODES = "code_idx_map.txt"


def load(at: Location) -> list[RetrievalSet]:
    """The one set."""
    if at.folder is not None and (at.folder / CODES).is_file():
        return [_published(at, at.folder)]
    if at.folder is None:
        assert at.source is not None
        data = load_retrieval_set(at.source.repo, at.wanted_split, revision=at.source.revision)
    else:
        data = load_retrieval_set(at.folder, at.wanted_split)
    return [merge_identical(_spoken(at.name, data))]


def _spoken(name: str, data: RetrievalSet) -> RetrievalSet:
    return replace(
        data,
        name=name,
        query_languages=("en",) * len(data.queries),
        document_languages=("python",) * len(data.documents),
    )


def _published(at: Location, folder: Path) -> RetrievalSet:
    codes, asked = _json(folder / CODES, dict), folder / f"cosqa-retrieval-{at.wanted_split}-500.json"
    rows = [(f"{asked} entry {number}", row) for number, row in enumerate(_json(asked, list))]

    def documents() -> Iterator[Row]:
        for code, number in codes.items():
            yield str(folder / CODES), {"_id": str(number), "text": code, "language": "python"}

    def queries() -> Iterator[Row]:
        for where, row in rows:
            yield where, {"_id": cell(where, row, "idx"), "text": cell(where, row, "doc"), "language": "en"}

    def judgements() -> Iterator[Row]:
        for where, row in rows:
            yield where, {"query-id": row["idx"], "corpus-id": cell(where, row, "retrieval_idx"), "score": 1}

    return assemble(at.name, documents(), queries(), judgements())


def _json(path: Path, kind: type) -> Any:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise RetrievalSetError(f"{path}: not JSON: {error}") from None
    if not isinstance(value, kind):
        raise RetrievalSetError(f"{path}: must hold one JSON {kind.__name__}, not {type(value).__name__}")
    return value


TASK = Task(
    name="cosqa",
    title="web search query → Python function",
    source=Source(
        "CoIR-Retrieval/cosqa",
        "bc5efb7e9d437246ce393ed19d772e08e4a79535",
        "test",
    ),
    layout=f"{CODES} and cosqa-retrieval-test-500.json (as CoCLR has them), or a BEIR folder",
    load=load,
    measures=("mrr", "ndcg@10", "recall@1", "recall@10"),
    size="500 → 6,267",
)
