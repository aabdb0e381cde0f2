"""CodeSearchNet (Husain et al., 2019, arXiv 1909.09436) as GraphCodeBERT cleaned it, in six languages.

A query is a function's documentation, and the candidates are the code of the whole language. GraphCodeBERT
(Guo et al., 2021, arXiv 2009.08366; `GraphCodeBERT/codesearch` in github.com/microsoft/CodeBERT) searches every
function of CodeSearchNet's validation and test splits. Its script writes, per language, `test.jsonl` and those
candidates as `codebase.jsonl`. The row with the query's own `url` answers it. The code is the function's tokens
without comments and docstrings, joined by spaces. The column `code` would give the answer away.

The Hub has the same queries (`code_x_glue_ct_code_to_text`), but not the candidates. There, only the cleaned
functions of both splits can be searched, which makes the task easier.
"""

from collections.abc import Iterable, Iterator
from itertools import chain

from mose.data.retrieval.retrieval_set import RetrievalSet, Row, assemble
from mose.eval.tasks.base import HubSource, Task, TaskReader, relevance_row, text_row

LANGUAGES = ("ruby", "javascript", "go", "python", "java", "php")


def load(reader: TaskReader) -> list[RetrievalSet]:
    """Return one set per language."""
    return [_language_set(reader, language) for language in reader.parts(LANGUAGES)]


def _language_set(reader: TaskReader, language: str) -> RetrievalSet:
    rows = list(reader.rows(config=language))

    # The published candidates if the folder has them, otherwise those that the Hub has.
    if reader.has_split("codebase", language):
        candidates: Iterable[Row] = reader.rows("codebase", language)
    else:
        candidates = chain(rows, reader.rows("validation", language))

    keys = [reader.cell(location, row, "id") for location, row in rows]
    documents = (
        text_row(location, reader.cell(location, row, "id"), reader.text(location, row, "document"), language)
        for location, row in candidates
    )
    queries = (
        text_row(location, key, reader.text(location, row, "query"), "en")
        for key, (location, row) in zip(keys, rows, strict=True)
    )
    judgements = (relevance_row(location, key, key) for key, (location, _) in zip(keys, rows, strict=True))

    return assemble(f"{reader.name}-{language}", _drop_repeated(documents), queries, judgements)


def _drop_repeated(rows: Iterable[Row]) -> Iterator[Row]:
    """Drop rows that repeat an earlier one. `assemble` refuses two texts with the same id."""
    seen: dict[str, str] = {}
    for location, row in rows:
        if seen.get(row["_id"]) != row["text"]:
            seen.setdefault(row["_id"], row["text"])
            yield location, row


TASK = Task(
    name="codesearchnet",
    title="documentation → function, in six languages (CodeXGLUE's cleaned CodeSearchNet)",
    source=HubSource(
        "google/code_x_glue_ct_code_to_text",
        "87eae9979d842618e595029c495f1829cace5040",
        columns={"id": ("url",), "query": ("docstring_tokens",), "document": ("code_tokens",)},
    ),
    layout="ruby/test.jsonl and ruby/codebase.jsonl, … for any of the six languages (as GraphCodeBERT's script "
    "writes them), or a clone of the Hub dataset",
    load=load,
    size="52,561 → 183,295 (six sets)",
    subsets=LANGUAGES,
    paper={
        "mrr": {"4": 0.732, "9": 0.773, "18": 0.810, "27": 0.803, "36": 0.796},
        "ndcg": {"best": 0.842},
        "mrr ruby": {"best": 0.741},
        "mrr javascript": {"best": 0.740},
        "mrr go": {"best": 0.825},
        "mrr python": {"best": 0.925},
        "mrr java": {"best": 0.787},
        "mrr php": {"best": 0.845},
    },
    hub_note="The published candidates need a local folder with codebase.jsonl. From the Hub the candidates are "
    "the cleaned functions of the validation and test splits, 97,250 in place of 183,295: figures come out "
    "higher.",
)
