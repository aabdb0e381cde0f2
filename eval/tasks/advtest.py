"""AdvTest (CodeXGLUE, Lu et al., 2021, arXiv 2102.04664): documentation → Python function without its names.

In the test split, function and variable names are replaced by `Func` and `arg_0`, … . The candidates are all
functions of the split. The code is its tokens joined by spaces, as in CodeXGLUE's pipeline. The column with the
whole function still contains the docstring and must not be used.
"""

from mose.data.retrieval.retrieval_set import RetrievalSet, assemble
from mose.eval.tasks.base import HubSource, Task, TaskReader, relevance_row, text_row


def load(reader: TaskReader) -> list[RetrievalSet]:
    """Return the one set."""
    rows = [(location, row, str(reader.cell(location, row, "document id"))) for location, row in reader.rows()]

    documents = (
        text_row(location, key, reader.text(location, row, "document"), "python") for location, row, key in rows
    )
    queries = (
        text_row(location, reader.cell(location, row, "query id"), reader.text(location, row, "query"), "en")
        for location, row, _ in rows
    )
    judgements = (
        relevance_row(location, reader.cell(location, row, "query id"), key) for location, row, key in rows
    )

    return [assemble(reader.name, documents, queries, judgements)]


TASK = Task(
    name="advtest",
    title="documentation → Python function whose names are gone (CodeXGLUE)",
    source=HubSource(
        "google/code_x_glue_tc_nl_code_search_adv",
        "2d22038b0cdd7a18e53ab010fbbdd345690dea60",
        columns={
            "query id": ("url",),
            "query": ("docstring_tokens",),
            "document id": ("idx", "id"),
            "document": ("function_tokens", "code_tokens"),
        },
    ),
    layout="test.jsonl with url, idx, docstring_tokens and function_tokens or code_tokens (as CodeXGLUE's script "
    "writes it), or a clone of the Hub dataset",
    load=load,
    size="19,210 → 19,210",
)
