"""CodeSearchNet (Husain et al., 2019, arXiv 1909.09436) as GraphCodeBERT cleaned it, in six languages.

A query is a function's documentation, and the candidates are the code of the whole language: GraphCodeBERT
(Guo et al., 2021, arXiv 2009.08366; `GraphCodeBERT/codesearch` in github.com/microsoft/CodeBERT) searches every
function of CodeSearchNet's validation and test split. Its script writes, per language, `test.jsonl` and those
candidates as `codebase.jsonl`, and the row with a query's own `url` answers it. The code is the function's
tokens without comments and docstrings, joined by spaces; a `code` column would give the answer away.

The Hub has the same queries (`code_x_glue_ct_code_to_text`), but not the candidates: there, only the cleaned
functions of both splits can be searched, which makes the task easier.
"""

from collections.abc import Iterable, Iterator
from itertools import chain

from mose.data.retrieval.retrieval_set import RetrievalSet, Row, assemble
from mose.eval.tasks.base import Location, Source, Task

LANGUAGES = ("ruby", "javascript", "go", "python", "java", "php")


def load(at: Location) -> list[RetrievalSet]:
    """One set per language."""
    return [_language(at, language) for language in at.parts(LANGUAGES)]


def _language(at: Location, language: str) -> RetrievalSet:
    queries = list(at.rows(config=language))
    if at.holds("codebase", language):
        candidates: Iterable[Row] = at.rows("codebase", language)
    else:
        candidates = chain(queries, at.rows("validation", language))
    return assemble(
        f"{at.name}-{language}",
        _once(_documents(at, candidates, language)),
        _queries(at, queries),
        _judgements(at, queries),
    )


def _documents(at: Location, rows: Iterable[Row], language: str) -> Iterator[Row]:
    for where, row in rows:
        key, text = at.cell(where, row, "id"), at.words(where, row, "document")
        yield where, {"_id": key, "text": text, "language": language}


def _once(rows: Iterable[Row]) -> Iterator[Row]:
    """Without the rows that repeat an earlier one; two texts under one id are left for `assemble` to refuse."""
    seen: dict[str, str] = {}
    for where, row in rows:
        if seen.get(row["_id"]) != row["text"]:
            seen.setdefault(row["_id"], row["text"])
            yield where, row


def _queries(at: Location, rows: Iterable[Row]) -> Iterator[Row]:
    for where, row in rows:
        yield where, {"_id": at.cell(where, row, "id"), "text": at.words(where, row, "query"), "language": "en"}


def _judgements(at: Location, rows: Iterable[Row]) -> Iterator[Row]:
    for where, row in rows:
        key = at.cell(where, row, "id")
        yield where, {"query-id": key, "corpus-id": key, "score": 1}


TASK = Task(
    name="codesearchnet",
    title="documentation → function, in six languages (CodeXGLUE's cleaned CodeSearchNet)",
    source=Source(
        "google/code_x_glue_ct_code_to_text",
        "87eae9979d842618e595029c495f1829cace5040",
        "test",
        {"id": ("url",), "query": ("docstring_tokens",), "document": ("code_tokens",)},
    ),
    layout="ruby/test.jsonl and ruby/codebase.jsonl, … for any of the six languages (as GraphCodeBERT's script "
    "writes them), or a clone of the Hub dataset",
    load=load,
    measures=("mrr", "ndcg@10", "recall@1", "recall@10"),
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
