"""SynthCoNL (paper, section 4): a function → its translation into another language.

The dataset has triples (text, code A, code B), where B is A translated by a language model. Queries are all A and
candidates all B, over all languages at once. A model that sorts by language first therefore scores low.

The column names of the Hub dataset are not known here. The task reads the names of this project's own builder;
`--columns code_a=THEIRS …` names others. The dataset is the paper's training set. For a model trained on it, the
task measures memory, unless a part was held out, such as a local folder's test.jsonl.
"""

from collections.abc import Iterator

from mose.data.retrieval.retrieval_set import RetrievalSet, Row, assemble
from mose.eval.tasks.base import HubSource, Task, TaskReader, relevance_row, text_row
from mose.tokenization.prompts import UNKNOWN_LANGUAGE


def load(reader: TaskReader) -> list[RetrievalSet]:
    """Return the one set."""
    rows = list(reader.rows())

    def side(letter: str) -> Iterator[Row]:
        for number, (location, row) in enumerate(rows):
            language = reader.optional(row, f"language_{letter}") or UNKNOWN_LANGUAGE
            yield text_row(location, f"{letter}{number}", reader.cell(location, row, f"code_{letter}"), language)

    judgements = (relevance_row(location, f"a{n}", f"b{n}") for n, (location, _) in enumerate(rows))
    return [assemble(reader.name, side("b"), side("a"), judgements)]


TASK = Task(
    name="synthconl",
    title="function → the same in another language",
    source=HubSource(
        "modularStarEncoder/SynthCoNL",
        "cdfb446dd3f75934a27d12ba8f10f8b127366ddc",
        "train",
        {name: (name,) for name in ("code_a", "code_b", "language_a", "language_b")},
    ),
    layout="SPLIT.jsonl or SPLIT-*.parquet with code_a and code_b, and language_a and language_b where known",
    load=load,
    size="1,071,367 → 1,071,367",
    hub_note="The Hub dataset has a train split only, and its columns must be named with --columns.",
)
