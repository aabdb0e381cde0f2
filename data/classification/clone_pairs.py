"""Labelled pairs for clone detection, out of pairs that are known to do the same.

Positive is each pair (code A, code B); to each belongs one negative, its code A with the code B of another task
in the same language, so that neither the language nor the text of one side tells the label.

    python -m mose.data.classification.clone_pairs SOURCE --output-file FILE

`SOURCE` is a dataset with `code_a` and `code_b`, and `text` and `language_b` where it knows them, or a retrieval
set in the BEIR layout whose queries are code.
"""

import argparse
import json
import random
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mose.data.tables import load_table
from mose.utils.files import atomic_write


@dataclass(frozen=True)
class CodePair:
    """Two codes that do the same; `task` is what they do: codes of one task are never made a negative."""

    code_a: str
    code_b: str
    language_b: str
    task: str


def read_code_pairs(source: str | Path, split: str = "train") -> list[CodePair]:
    """The pairs of a dataset or a retrieval set.

    Raises:
        ValueError: it cannot be read, or has other columns.
    """
    if (Path(source) / "qrels.tsv").is_file():
        return list(_of_retrieval_set(Path(source)))
    table = load_table(source, split)
    if missing := {"code_a", "code_b"} - set(table.column_names):
        raise ValueError(f"{source} has the columns {', '.join(table.column_names)}; it lacks {sorted(missing)}")
    return [
        CodePair(row["code_a"], row["code_b"], row.get("language_b") or "", row.get("text") or row["code_a"])
        for row in table
        if (row["code_a"] or "").strip() and (row["code_b"] or "").strip()
    ]


def _of_retrieval_set(folder: Path) -> Iterator[CodePair]:
    from mose.data.retrieval.retrieval_set import load_retrieval_set

    data = load_retrieval_set(folder)
    place = {key: at for at, key in enumerate(data.document_ids)}
    for key, query in zip(data.query_ids, data.queries, strict=True):
        for document in data.qrels[key]:
            at = place[document]
            yield CodePair(query, data.documents[at], data.document_languages[at], key)


def labelled(pairs: Sequence[CodePair], seed: int = 0) -> Iterator[dict[str, str | int]]:
    """Rows of `code_a`, `code_b`, `label`: 1 for each pair, followed by 0 for its negative.

    A pair without another task in its language has no negative, and is left out with it.
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
            if other.task != pair.task and other.code_b not in answers[pair.task]:
                yield {"code_a": pair.code_a, "code_b": pair.code_b, "label": 1}
                yield {"code_a": pair.code_a, "code_b": other.code_b, "label": 0}
                break


def main(argv: list[str] | None = None) -> int:
    """Writes the pairs; returns the exit status: 0 done, 1 failed, 2 bad arguments, 130 interrupted."""
    parser = argparse.ArgumentParser(
        prog="python -m mose.data.classification.clone_pairs", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("source", help="dataset (Hub id, file, folder) or folder in the BEIR layout")
    parser.add_argument("--output-file", required=True, help="a .jsonl file to write")
    parser.add_argument("--split", default="train", help="what to read of a dataset that has several splits")
    parser.add_argument("--seed", type=int, default=0, help="of the negatives")
    args = parser.parse_args(argv)
    try:
        rows = list(labelled(read_code_pairs(args.source, args.split), args.seed))
        if not rows:
            raise ValueError(f"{args.source}: no pair has another task in its language")
        output = Path(args.output_file)
        output.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(output) as file:
            file.write("".join(json.dumps(row) + "\n" for row in rows).encode())
    except ValueError as error:
        print(f"clone_pairs: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"clone_pairs: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("clone_pairs: interrupted", file=sys.stderr)
        return 130
    print(f"{len(rows)} pairs in {args.output_file}, half of them clones")
    return 0


if __name__ == "__main__":
    sys.exit(main())
