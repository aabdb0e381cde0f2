"""AdvTest (CodeXGLUE, Lu et al., 2021, arXiv 2102.04664): documentation → Python function without its names.

In the test split, function and variable names are replaced by `Func` and `arg_0`, … . The candidates are all
functions of the split. The code is its tokens joined by spaces, as in CodeXGLUE's pipeline: the column of the
whole function still holds the docstring.
"""

from collections.abc import Iterator

from mose.data.retrieval.retrieval_set import RetrievalSet, Row, assemble
from mose.eval.tasks.base import Location, Source, Task


def load(at: Location) -> list[RetrievalSet]:
    """The one set."""
    rows = list(at.rows())
    identifiers = [str(at.cell(where, row, "document id")) for where, row in rows]

    def documents() -> Iterator[Row]:
        for key, (where, row) in zip(identifiers, rows, strict=True):
            text = at.words(where, row, "document")
            yield where, {"_id": key, "text": text, "language": "python"}

    def queries() -> Iterator[Row]:
        for where, row in rows:
            key, text = at.cell(where, row, "query id"), at.words(where, row, "query")
            yield where, {"_id": key, "text": text, "language": "en"}

    def judgements() -> Iterator[Row]:
        for key, (where, row) in zip(identifiers, rows, strict=True):
            yield where, {"query-id": at.cell(where, row, "query id"), "corpus-id": key, "score": 1}

    return [assemble(at.name, documents(), queries(), judgements())]


TASK = Task(
    name="advtest",
    title="documentation → Python function whose names are gone (CodeXGLUE)",
    source=Source(
        "google/code_x_glue_tc_nl_code_search_adv",
        "2d22038b0cdd7a18e53ab010fbbdd345690dea60",
        "test",
        {
            "query id": ("url",),
            "query": ("docstring_tokens",),
            "document id": ("idx", "id"),
            "document": ("function_tokens", "code_tokens"),
        },
    ),
    layout="test.jsonl with url, idx, docstring_tokens and function_tokens or code_tokens (as CodeXGLUE's script "
    "writes it), or a clone of the Hub dataset",
    load=load,
    measures=("mrr", "ndcg@10", "recall@1", "recall@10"),
    size="19,210 → 19,210",
)
