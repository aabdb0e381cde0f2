"""CoIR's ten tasks (Li et al., 2024, arXiv 2407.02883), in the BEIR layout, measured by NDCG@10.

The commits are those that MTEB 2 pins. `ENTRIES` defines what is text and what is code. The data's `language`
column is not used, because it names the language of the pair rather than of the row.
"""

from dataclasses import dataclass, replace
from functools import partial

from mose.data.retrieval.retrieval_set import RetrievalSet, load_retrieval_set
from mose.eval.tasks.base import HubSource, Task, TaskReader
from mose.tokenization.prompts import UNKNOWN_LANGUAGE

SIX = ("python", "javascript", "go", "ruby", "java", "php")
SUBSET = "the subset's own language"
MEASURES = ("ndcg@10", "mrr", "recall@1", "recall@10")


@dataclass(frozen=True)
class CoIREntry:
    """One task of CoIR: its Hub dataset, and the languages of queries and documents."""

    repo: str
    revision: str
    title: str
    queries: str
    documents: str
    size: str
    subsets: tuple[str, ...] = ()


ENTRIES = {
    "apps": CoIREntry(
        "CoIR-Retrieval/apps",
        "f22508f96b7a36c2415181ed8bb76f76e04ae2d5",
        "programming problem → Python solution",
        queries="en",
        documents="python",
        size="3,765 → 8,765",
    ),
    "cosqa": CoIREntry(
        "CoIR-Retrieval/cosqa",
        "bc5efb7e9d437246ce393ed19d772e08e4a79535",
        "web search query → Python function",
        queries="en",
        documents="python",
        size="500 → 20,604",
    ),
    "synthetic-text2sql": CoIREntry(
        "CoIR-Retrieval/synthetic-text2sql",
        "686b87296c3a0191b5d9415a00526c62db9fce09",
        "question → SQL",
        queries="en",
        documents="SQL",
        size="5,851 → 105,851",
    ),
    "codesearchnet": CoIREntry(
        "CoIR-Retrieval/CodeSearchNet",
        "4adc7bc41202b5c13543c9c886a25f340634dab3",
        "function → its documentation, in six languages",
        queries=SUBSET,
        documents="en",
        size="52,561 → 1,003,765 (six sets)",
        subsets=SIX,
    ),
    "codesearchnet-ccr": CoIREntry(
        "CoIR-Retrieval/CodeSearchNet-ccr",
        "6e1effa2c03723c5fde48ee912b5ee08d4f211e8",
        "first part of a function → its second part, in six languages",
        queries=SUBSET,
        documents=SUBSET,
        size="52,561 → 1,005,474 (six sets)",
        subsets=SIX,
    ),
    "codetrans-dl": CoIREntry(
        "CoIR-Retrieval/codetrans-dl",
        "281562cb8a1265ab5c0824bfa6ddcd9b0a15618f",
        "Python of one deep-learning framework → the same in another",
        queries="python",
        documents="python",
        size="180 → 816",
    ),
    "codetrans-contest": CoIREntry(
        "CoIR-Retrieval/codetrans-contest",
        "20da4eb20a4b17300c0986ee148c90867a7f2a4d",
        "contest solution → the same in another language",
        queries=UNKNOWN_LANGUAGE,
        documents=UNKNOWN_LANGUAGE,
        size="221 → 1,008",
    ),
    "stackoverflow-qa": CoIREntry(
        "mteb/StackOverflowQA",
        "7b46f5ebd2365278c1bb025986dda2fee893bbf5",
        "question → answer, both with code among the text",
        queries="en",
        documents="en",
        size="1,994 → 19,931",
    ),
    "codefeedback-mt": CoIREntry(
        "CoIR-Retrieval/codefeedback-mt",
        "b0f12fa0c0dd67f59c95a5c33d02aeeb4c398c5f",
        "conversation about code → the next answer",
        queries="en",
        documents="en",
        size="13,277 → 66,383",
    ),
    "codefeedback-st": CoIREntry(
        "CoIR-Retrieval/codefeedback-st",
        "d213819e87aab9010628da8b73ab4eb337c89340",
        "instruction about code → the answer",
        queries="en",
        documents="en",
        size="31,306 → 156,526",
    ),
}


def _load_entry(entry: CoIREntry, reader: TaskReader) -> list[RetrievalSet]:
    parts = reader.parts(entry.subsets) if entry.subsets else [""]
    return [_entry_set(entry, reader, part) for part in parts]


def _entry_set(entry: CoIREntry, reader: TaskReader, part: str) -> RetrievalSet:
    if reader.folder is None:
        data = load_retrieval_set(entry.repo, reader.split, revision=entry.revision, subset=part)
    else:
        data = load_retrieval_set(reader.folder, reader.split, subset=part)

    queries, documents = (part if kind == SUBSET else kind for kind in (entry.queries, entry.documents))
    return replace(
        data,
        name=f"{reader.name}-{part}" if part else reader.name,
        query_languages=(queries,) * len(data.queries),
        document_languages=(documents,) * len(data.documents),
        measures=MEASURES,
    )


TASKS = tuple(
    Task(
        name=f"coir-{name}",
        title=entry.title,
        source=HubSource(entry.repo, entry.revision),
        layout="a BEIR folder" + (" per language: python/corpus.jsonl, …" if entry.subsets else ""),
        load=partial(_load_entry, entry),
        measures=MEASURES,
        size=entry.size,
        subsets=entry.subsets,
    )
    for name, entry in ENTRIES.items()
)
