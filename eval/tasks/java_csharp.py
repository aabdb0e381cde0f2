"""Java ↔ C# of the same method (CodeXGLUE's code-to-code-trans, arXiv 2102.04664), as retrieval both ways.

CodeXGLUE measures translation. Here, a method of one language searches for its counterpart in the other. Names
make it easy, so BM25 is near the ceiling: a sanity check rather than a comparison of models.
"""

from collections.abc import Iterator
from pathlib import Path

from mose.data.retrieval.retrieval_set import RetrievalSet, RetrievalSetError, Row, assemble, lines
from mose.eval.tasks.base import HubSource, Task, TaskReader, relevance_row, text_row

DIRECTIONS = {"java-csharp": ("java", "csharp"), "csharp-java": ("csharp", "java")}
SUFFIXES = ("java", "cs")


def load(reader: TaskReader) -> list[RetrievalSet]:
    """Return one set per direction."""
    rows = list(_method_rows(reader))

    def side(language: str) -> Iterator[Row]:
        for number, (location, row) in enumerate(rows):
            yield text_row(location, str(number), reader.cell(location, row, language), language)

    # Line N of one side is the counterpart of line N of the other.
    judgements = [relevance_row(location, str(number), str(number)) for number, (location, _) in enumerate(rows)]
    return [
        assemble(name, side(document), side(query), judgements)
        for name, (query, document) in DIRECTIONS.items()
        if not reader.subsets or name in reader.subsets
    ]


def _method_rows(reader: TaskReader) -> Iterator[Row]:
    texts = {} if reader.folder is None else _read_sides(reader.folder, reader.split)
    if not texts:
        yield from reader.rows()
        return

    java_lines, csharp_lines = texts["java"], texts["cs"]
    if len(java_lines) != len(csharp_lines):
        counts = f"{len(java_lines)} lines of Java but {len(csharp_lines)} of C#"
        raise RetrievalSetError(f"{reader.folder}: {counts}. Line N of both must be the same method.")
    for number, (java, csharp) in enumerate(zip(java_lines, csharp_lines, strict=True), 1):
        yield f"{reader.folder} line {number}", {"java": java, "cs": csharp}


def _read_sides(folder: Path, split: str) -> dict[str, list[str]]:
    """Return the lines of CodeXGLUE's two files, or nothing if the folder has neither."""
    files = {side: folder / f"{split}.java-cs.txt.{side}" for side in SUFFIXES}
    if not any(path.is_file() for path in files.values()):
        return {}

    for path in files.values():
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file, though the other side exists")
    return {side: [line for _, line in lines(path)] for side, path in files.items()}


TASK = Task(
    name="java-csharp",
    title="Java ↔ C# of the same method, both directions",
    source=HubSource(
        "google/code_x_glue_cc_code_to_code_trans", "main", columns={"java": ("java",), "csharp": ("cs",)}
    ),
    layout="test.java-cs.txt.java and test.java-cs.txt.cs, line by line (as CodeXGLUE has them), or test.jsonl "
    "with java and cs, or a clone of the Hub dataset",
    load=load,
    size="1,000 → 1,000 (two sets)",
    subsets=tuple(DIRECTIONS),
    hub_note="Reads the dataset's main branch: the commit that holds it as parquet is not known here.",
)
