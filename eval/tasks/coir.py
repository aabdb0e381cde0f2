"""CoIR's ten tasks (Li et al., 2024, arXiv 2407.02883), in the BEIR layout, measured by NDCG@10.

Commits are those that MTEB 2 pins. What is text and what is code is set here and not read from the data's
`language` column, which names the language of the pair rather than of the row.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from mose.data.retrieval.retrieval_set import RetrievalSet, load_retrieval_set
from mose.eval.tasks.base import Location, Source, Task
from mose.tokenization.prompts import UNKNOWN_LANGUAGE

SIX = ("python", "javascript", "go", "ruby", "java", "php")
SUBSET = "the subset's own language"
MEASURES = ("ndcg@10", "mrr", "recall@1", "recall@10")


@dataclass(frozen=True)
class _Entry:
    """One line of the table: the Hub dataset, what queries and documents are written in, and the size."""

    repo: str
    revision: str
    queries: str
    documents: str
    size: str
    subsets: tuple[str, ...] = ()


ENTRIES = {
    "apps": _Entry(
        "CoIR-Retrieval/apps", "f22508f96b7a36c2415181ed8bb76f76e04ae2d5", "en", "python", "3,765 → 8,765"
    ),
    "cosqa": _Entry(
        "CoIR-Retrieval/cosqa", "bc5efb7e9d437246ce393ed19d772e08e4a79535", "en", "python", "500 → 20,604"
    ),
    "synthetic-text2sql": _Entry(
        "CoIR-Retrieval/synthetic-text2sql",
        "686b87296c3a0191b5d9415a00526c62db9fce09",
        "en",
        "SQL",
        "5,851 → 105,851",
    ),
    "codesearchnet": _Entry(
        "CoIR-Retrieval/CodeSearchNet",
        "4adc7bc41202b5c13543c9c886a25f340634dab3",
        SUBSET,
        "en",
        "52,561 → 1,003,765 (six sets)",
        SIX,
    ),
    "codesearchnet-ccr": _Entry(
        "CoIR-Retrieval/CodeSearchNet-ccr",
        "6e1effa2c03723c5fde48ee912b5ee08d4f211e8",
        SUBSET,
        SUBSET,
        "52,561 → 1,005,474 (six sets)",
        SIX,
    ),
    "codetrans-dl": _Entry(
        "CoIR-Retrieval/codetrans-dl",
        "281562cb8a1265ab5c0824bfa6ddcd9b0a15618f",
        "python",
        "python",
        "180 → 816",
    ),
    "codetrans-contest": _Entry(
        "CoIR-Retrieval/codetrans-contest",
        "20da4eb20a4b17300c0986ee148c90867a7f2a4d",
        UNKNOWN_LANGUAGE,
        UNKNOWN_LANGUAGE,
        "221 → 1,008",
    ),
    "stackoverflow-qa": _Entry(
        "mteb/StackOverflowQA", "7b46f5ebd2365278c1bb025986dda2fee893bbf5", "en", "en", "1,994 → 19,931"
    ),
    "codefeedback-mt": _Entry(
        "CoIR-Retrieval/codefeedback-mt",
        "b0f12fa0c0dd67f59c95a5c33d02aeeb4c398c5f",
        "en",
        "en",
        "13,277 → 66,383",
    ),
    "codefeedback-st": _Entry(
        "CoIR-Retrieval/codefeedback-st",
        "d213819e87aab9010628da8b73ab4eb337c89340",
        "en",
        "en",
        "31,306 → 156,526",
    ),
}
TITLES = {
    "apps": "programming problem → Python solution",
    "cosqa": "web search query → Python function",
    "synthetic-text2sql": "question → SQL",
    "codesearchnet": "function → its documentation, in six languages",
    "codesearchnet-ccr": "first part of a function → its second part, in six languages",
    "codetrans-dl": "Python of one deep-learning framework → the same in another",
    "codetrans-contest": "contest solution → the same in another language",
    "stackoverflow-qa": "question → answer, both with code among the text",
    "codefeedback-mt": "conversation about code → the next answer",
    "codefeedback-st": "instruction about code → the answer",
}


def _loader(entry: _Entry) -> Callable[[Location], list[RetrievalSet]]:
    def load(at: Location) -> list[RetrievalSet]:
        return [_set(at, entry, part) for part in (at.parts(entry.subsets) if entry.subsets else [""])]

    return load


def _set(at: Location, entry: _Entry, part: str) -> RetrievalSet:
    if at.folder is None:
        data = load_retrieval_set(entry.repo, at.wanted_split, revision=entry.revision, subset=part)
    else:
        data = load_retrieval_set(at.folder, at.wanted_split, subset=part)
    queries, documents = (part if kind == SUBSET else kind for kind in (entry.queries, entry.documents))
    return replace(
        data,
        name=f"{at.name}-{part}" if part else at.name,
        query_languages=(queries,) * len(data.queries),
        document_languages=(documents,) * len(data.documents),
        measures=MEASURES,
    )


TASKS = tuple(
    Task(
        name=f"coir-{name}",
        title=TITLES[name],
        source=Source(
            entry.repo,
            entry.revision,
            "test",
        ),
        layout="a BEIR folder" + (" per language: python/corpus.jsonl, …" if entry.subsets else ""),
        load=_loader(entry),
        measures=MEASURES,
        size=entry.size,
        subsets=entry.subsets,
    )
    for name, entry in ENTRIES.items()
)
