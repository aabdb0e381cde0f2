"""SynthCoNL (paper, section 4): a function → its translation into another language.

The dataset has triples (text, code A, code B), where B is A translated by a language model. Queries are all A and
candidates all B, over all languages at once, so that a model which sorts by language first is punished.

The column names of the Hub dataset are not known here; the task reads the names of this project's own builder,
and `--columns code_a=THEIRS …` names others. It is the training set of the paper: of a model that was trained on
it, this says what was remembered, unless a part was held out, such as a local folder's test.jsonl.
"""

from collections.abc import Iterator

from mose.data.retrieval.retrieval_set import RetrievalSet, Row, assemble
from mose.eval.tasks.base import Location, Source, Task
from mose.tokenization.prompts import UNKNOWN_LANGUAGE


def load(at: Location) -> list[RetrievalSet]:
    """The one set."""
    rows = list(at.rows())

    def side(letter: str) -> Iterator[Row]:
        for number, (where, row) in enumerate(rows):
            language = at.optional(row, f"language_{letter}") or UNKNOWN_LANGUAGE
            text = at.cell(where, row, f"code_{letter}")
            yield where, {"_id": f"{letter}{number}", "text": text, "language": language}

    judgements = (
        (where, {"query-id": f"a{number}", "corpus-id": f"b{number}", "score": 1})
        for number, (where, _) in enumerate(rows)
    )
    return [assemble(at.name, side("b"), side("a"), judgements)]


TASK = Task(
    name="synthconl",
    title="function → the same in another language",
    source=Source(
        "modularStarEncoder/SynthCoNL",
        "cdfb446dd3f75934a27d12ba8f10f8b127366ddc",
        "train",
        {name: (name,) for name in ("code_a", "code_b", "language_a", "language_b")},
    ),
    layout="SPLIT.jsonl or SPLIT-*.parquet with code_a and code_b, and language_a and language_b where known",
    load=load,
    measures=("mrr", "ndcg@10", "recall@1", "recall@10"),
    size="1,071,367 → 1,071,367",
    hub_note="The Hub dataset has a train split only, and its columns must be named with --columns.",
)
