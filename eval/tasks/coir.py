"""CoIR's ten tasks (Li et al., 2024, arXiv 2407.02883), in the BEIR layout, measured by NDCG@10.

The commits are those that MTEB 2 pins. `ENTRIES` defines what is text and what is code. The data's `language`
column is not used, because it names the language of the pair rather than of the row.
"""

from dataclasses import replace
from functools import partial
from typing import NamedTuple

from mose.data.retrieval.retrieval_set import RetrievalSet, load_retrieval_set
from mose.eval.tasks.base import HubSource, Task, TaskReader
from mose.tokenization.prompts import UNKNOWN_LANGUAGE

SIX = ("python", "javascript", "go", "ruby", "java", "php")
SUBSET = "the subset's own language"
MEASURES = ("ndcg@10", "mrr", "recall@1", "recall@10")


#: Task -> its Hub dataset and the commit that is read.
SOURCES = {
    "apps": ("CoIR-Retrieval/apps", "f22508f96b7a36c2415181ed8bb76f76e04ae2d5"),
    "cosqa": ("CoIR-Retrieval/cosqa", "bc5efb7e9d437246ce393ed19d772e08e4a79535"),
    "synthetic-text2sql": ("CoIR-Retrieval/synthetic-text2sql", "686b87296c3a0191b5d9415a00526c62db9fce09"),
    "codesearchnet": ("CoIR-Retrieval/CodeSearchNet", "4adc7bc41202b5c13543c9c886a25f340634dab3"),
    "codesearchnet-ccr": ("CoIR-Retrieval/CodeSearchNet-ccr", "6e1effa2c03723c5fde48ee912b5ee08d4f211e8"),
    "codetrans-dl": ("CoIR-Retrieval/codetrans-dl", "281562cb8a1265ab5c0824bfa6ddcd9b0a15618f"),
    "codetrans-contest": ("CoIR-Retrieval/codetrans-contest", "20da4eb20a4b17300c0986ee148c90867a7f2a4d"),
    "stackoverflow-qa": ("mteb/StackOverflowQA", "7b46f5ebd2365278c1bb025986dda2fee893bbf5"),
    "codefeedback-mt": ("CoIR-Retrieval/codefeedback-mt", "b0f12fa0c0dd67f59c95a5c33d02aeeb4c398c5f"),
    "codefeedback-st": ("CoIR-Retrieval/codefeedback-st", "d213819e87aab9010628da8b73ab4eb337c89340"),
}


class CoIREntry(NamedTuple):
    """One task of CoIR, with the languages of its queries and documents."""

    title: str
    queries: str
    documents: str
    size: str
    subsets: tuple[str, ...] = ()


ENTRIES = {
    "apps": CoIREntry("programming problem → Python solution", "en", "python", "3,765 → 8,765"),
    "cosqa": CoIREntry("web search query → Python function", "en", "python", "500 → 20,604"),
    "synthetic-text2sql": CoIREntry("question → SQL", "en", "SQL", "5,851 → 105,851"),
    "codesearchnet": CoIREntry(
        "function → its documentation, in six languages", SUBSET, "en", "52,561 → 1,003,765 (six sets)", SIX
    ),
    "codesearchnet-ccr": CoIREntry(
        "first part of a function → its second part, in six languages",
        SUBSET,
        SUBSET,
        "52,561 → 1,005,474 (six sets)",
        SIX,
    ),
    "codetrans-dl": CoIREntry(
        "Python of one deep-learning framework → the same in another", "python", "python", "180 → 816"
    ),
    "codetrans-contest": CoIREntry(
        "contest solution → the same in another language", UNKNOWN_LANGUAGE, UNKNOWN_LANGUAGE, "221 → 1,008"
    ),
    "stackoverflow-qa": CoIREntry(
        "question → answer, both with code among the text", "en", "en", "1,994 → 19,931"
    ),
    "codefeedback-mt": CoIREntry("conversation about code → the next answer", "en", "en", "13,277 → 66,383"),
    "codefeedback-st": CoIREntry("instruction about code → the answer", "en", "en", "31,306 → 156,526"),
}


def _load_entry(entry: CoIREntry, reader: TaskReader) -> list[RetrievalSet]:
    parts = reader.parts(entry.subsets) if entry.subsets else [""]
    return [_entry_set(entry, reader, part) for part in parts]


def _entry_set(entry: CoIREntry, reader: TaskReader, part: str) -> RetrievalSet:
    if reader.folder is None:
        assert reader.source is not None
        data = load_retrieval_set(reader.source.repo, reader.split, revision=reader.source.revision, subset=part)
    else:
        data = load_retrieval_set(reader.folder, reader.split, subset=part)

    queries, documents = (part if kind == SUBSET else kind for kind in (entry.queries, entry.documents))

    # The data's own language column names the pair, see the module's docstring.
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
        source=HubSource(*SOURCES[name]),
        layout="a BEIR folder" + (" per language: python/corpus.jsonl, …" if entry.subsets else ""),
        load=partial(_load_entry, entry),
        measures=MEASURES,
        size=entry.size,
        subsets=entry.subsets,
    )
    for name, entry in ENTRIES.items()
)
