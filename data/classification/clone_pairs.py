"""Labelled pairs for clone detection, built from pairs of code that do the same.

Each pair (code A, code B) is a positive. Its negative is its code A with the code B of another task in the same
language, so that neither the language nor the text of one side reveals the label.

    python -m mose.data.classification.clone_pairs SOURCE --output-file FILE

`SOURCE` is a dataset with `code_a` and `code_b`, and optionally `text` and `language_b`, or a retrieval set in
the BEIR layout whose queries are code.
"""

import argparse
import json
import random
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mose.data.retrieval.retrieval_set import load_retrieval_set
from mose.data.tables import load_table, match_columns
from mose.utils.command_line import exit_status
from mose.utils.files import atomic_write_text


@dataclass(frozen=True)
class CodePair:
    """Two snippets that do the same; snippets with the same `task` never become a negative."""

    code_a: str
    code_b: str
    language_b: str
    task: str


def read_code_pairs(source: str | Path, split: str = "train") -> list[CodePair]:
    """Read the pairs of a dataset or a retrieval set.

    Raises:
        ValueError: it cannot be read, or has other columns.
    """
    if (Path(source) / "qrels.tsv").is_file():
        return list(_pairs_of_retrieval_set(Path(source)))

    table = load_table(source, split)
    match_columns(str(source), table, ("code_a", "code_b"))
    return [
        CodePair(row["code_a"], row["code_b"], row.get("language_b") or "", row.get("text") or row["code_a"])
        for row in table
        if (row["code_a"] or "").strip() and (row["code_b"] or "").strip()
    ]


def _pairs_of_retrieval_set(folder: Path) -> Iterator[CodePair]:
    data = load_retrieval_set(folder)
    index_of = {key: index for index, key in enumerate(data.document_ids)}
    for key, query in zip(data.query_ids, data.queries, strict=True):
        for document in data.qrels[key]:
            index = index_of[document]
            yield CodePair(query, data.documents[index], data.document_languages[index], key)


def labelled(pairs: Sequence[CodePair], seed: int = 0) -> Iterator[dict[str, str | int]]:
    """Yield rows of `code_a`, `code_b` and `label`: each pair with label 1, then its negative with label 0.

    A pair without another task in its language has no negative, and is dropped.
    """
    draw = random.Random(seed)
    by_language: dict[str, list[CodePair]] = defaultdict(list)
    answers: dict[str, set[str]] = defaultdict(set)
    for pair in pairs:
        by_language[pair.language_b].append(pair)
        answers[pair.task].add(pair.code_b)

    for pair in pairs:
        others = by_language[pair.language_b]
        start = draw.randrange(len(others))
        for other in (others[(start + step) % len(others)] for step in range(len(others))):
            # Two tasks can have the same answer, which is then no negative.
            if other.task != pair.task and other.code_b not in answers[pair.task]:
                yield {"code_a": pair.code_a, "code_b": pair.code_b, "label": 1}
                yield {"code_a": pair.code_a, "code_b": other.code_b, "label": 0}
                break


def write_clone_pairs(source: str, output_file: Path, split: str, seed: int) -> None:
    """Write the labelled pairs of `source` as JSON lines.

    Raises:
        ValueError: the source cannot be read, or no pair has a negative.
    """
    rows = list(labelled(read_code_pairs(source, split), seed))
    if not rows:
        raise ValueError(f"{source}: no pair has another task in its language")
    output_file.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_text(output_file, "".join(json.dumps(row) + "\n" for row in rows))
    print(f"{len(rows)} pairs in {output_file}, half of them clones")


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the pairs, and return the exit code: 0 on success, 1 failed, 2 bad arguments, 130 interrupted."""
    parser = argparse.ArgumentParser(
        prog="python -m mose.data.classification.clone_pairs", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("source", help="dataset (Hub id, file, folder) or folder in the BEIR layout")
    parser.add_argument("--output-file", type=Path, required=True, help="a .jsonl file to write")
    parser.add_argument("--split", default="train", help="split to read of a dataset that has several")
    parser.add_argument("--seed", type=int, default=0, help="seed of the negatives")
    options = parser.parse_args(arguments)

    return exit_status("clone_pairs", lambda: write_clone_pairs(**vars(options)), bad_arguments=(ValueError,))


if __name__ == "__main__":
    sys.exit(main())
