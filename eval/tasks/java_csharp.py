"""Java ↔ C# of the same method (CodeXGLUE's code-to-code-trans, arXiv 2102.04664), as retrieval both ways.

CodeXGLUE measures translation; here a method of one language looks for its counterpart among all of the other.
Names make it easy: BM25 is near the ceiling, so it is a check that all is in order more than a comparison.
"""

from collections.abc import Iterator
from pathlib import Path

from mose.data.retrieval.retrieval_set import RetrievalSet, RetrievalSetError, Row, assemble, lines
from mose.eval.tasks.base import Location, Source, Task

DIRECTIONS = {"java-csharp": ("java", "csharp"), "csharp-java": ("csharp", "java")}
SUFFIXES = ("java", "cs")


def load(at: Location) -> list[RetrievalSet]:
    """One set per direction."""
    rows = list(_rows(at))

    def side(language: str) -> Iterator[Row]:
        for number, (where, row) in enumerate(rows):
            yield where, {"_id": str(number), "text": at.cell(where, row, language), "language": language}

    judgements = [
        (where, {"query-id": str(number), "corpus-id": str(number), "score": 1})
        for number, (where, _) in enumerate(rows)
    ]
    return [
        assemble(name, side(document), side(query), judgements)
        for name, (query, document) in DIRECTIONS.items()
        if not at.subsets or name in at.subsets
    ]


def _rows(at: Location) -> Iterator[Row]:
    texts = {} if at.folder is None else _texts(at.folder, at.wanted_split)
    if not texts:
        yield from at.rows()
        return
    if len(texts["java"]) != len(texts["cs"]):
        raise RetrievalSetError(
            f"{at.folder}: {len(texts['java'])} lines of Java but {len(texts['cs'])} of C#; line by line they "
            "are the same method"
        )
    for number, (java, csharp) in enumerate(zip(texts["java"], texts["cs"], strict=True), 1):
        yield f"{at.folder} line {number}", {"java": java, "cs": csharp}


def _texts(folder: Path, split: str) -> dict[str, list[str]]:
    """Both sides of CodeXGLUE's line-by-line files, or nothing where they are not."""
    files = {side: folder / f"{split}.java-cs.txt.{side}" for side in SUFFIXES}
    if not any(path.is_file() for path in files.values()):
        return {}
    for path in files.values():
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file, though the other side is there")
    return {side: [line for _, line in lines(path)] for side, path in files.items()}


TASK = Task(
    name="java-csharp",
    title="Java ↔ C# of the same method, both directions",
    source=Source(
        "google/code_x_glue_cc_code_to_code_trans",
        "main",
        "test",
        {"java": ("java",), "csharp": ("cs",)},
    ),
    layout="test.java-cs.txt.java and test.java-cs.txt.cs, line by line (as CodeXGLUE has them), or test.jsonl "
    "with java and cs, or a clone of the Hub dataset",
    load=load,
    measures=("mrr", "ndcg@10", "recall@1", "recall@10"),
    size="1,000 → 1,000 (two sets)",
    subsets=tuple(DIRECTIONS),
    hub_note="Reads the dataset's main branch: the commit that holds it as parquet is not known here.",
)
