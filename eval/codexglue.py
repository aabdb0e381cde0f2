"""Files in the formats of CodeXGLUE's evaluators (Lu et al., 2021, arXiv 2102.04664), scored as they score them.

Use them to compare with published predictions or to check your own before a submission. CodeXGLUE's evaluators
round to four digits; these functions do not.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mose.data.retrieval.retrieval_set import RetrievalSetError, Row, json_rows, lines
from mose.eval import metrics
from mose.eval.classification import scores
from mose.eval.tasks.base import cell

#: Rank of a relevant document that the prediction does not contain.
MISSING_RANK = np.iinfo(np.int64).max


def advtest(answers: str | Path, predictions: str | Path) -> dict[str, float]:
    """Return the MRR of AdvTest.

    Args:
        answers: one object per line with `url` (of the query) and `idx` (of its code), such as test.jsonl itself.
        predictions: `url` and `answers`, the codes' `idx` from best to worst.

    Raises:
        FileNotFoundError: one of the files does not exist.
        RetrievalSetError: a malformed line, an id that occurs twice, or a missing prediction.
    """
    expected = _read_column(answers, "url", "idx")
    predicted = _read_column(predictions, "url", "answers")
    ranks = [
        _answer_ranks([code], _prediction(predicted, query, predictions)) for query, code in expected.items()
    ]
    return {"mrr": metrics.mrr(ranks)}


def poj104(answers: str | Path, predictions: str | Path) -> dict[str, float]:
    """Return the MAP@R of POJ-104; for errors see `advtest`.

    Args:
        answers: `index` and `answers` (the other programs of the same problem). Or the programs with `index` and
            `label`, from which the answers follow, as in `extract_answers.py`.
        predictions: `index` and `answers`, from best to worst, at least as many as there are relevant ones.
    """
    rows = list(json_rows(_existing(answers)))
    labelled = bool(rows) and "label" in rows[0][1]

    expected = _same_label(rows) if labelled else _read_column(answers, "index", "answers")
    predicted = _read_column(predictions, "index", "answers")
    ranks = []

    for program, relevant in expected.items():
        ranking = _prediction(predicted, program, predictions)

        # MAP@R looks at the first R answers, so a shorter list would be scored too low.
        count = len(set(ranking))
        if count < len(relevant):
            message = f"answers for {program!r} must be at least {len(relevant)} (its relevant programs)"
            raise RetrievalSetError(f"{predictions}: {message}, got {count}")
        ranks.append(_answer_ranks(relevant, ranking))

    return {"map@r": metrics.map_at_r(ranks)}


def bigclonebench(answers: str | Path, predictions: str | Path) -> dict[str, float]:
    """Return F1, precision and recall of BigCloneBench; for errors see `advtest`.

    Both files have lines of two ids and 0 or 1, separated by white space.
    """
    expected, predicted = _read_labels(answers), _read_labels(predictions)
    missing = [pair for pair in expected if pair not in predicted]
    if missing:
        raise RetrievalSetError(f"{predictions}: no prediction for the pair {' '.join(missing[0])}")
    return scores(np.array(list(expected.values())), np.array([predicted[pair] for pair in expected]))


#: Task -> the function that scores its files.
EVALUATORS = {"advtest": advtest, "poj104": poj104, "bigclonebench": bigclonebench}


def _existing(path: str | Path) -> Path:
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file")
    return Path(path)


def _read_column(path: str | Path, key: str, value: str) -> dict[str, Any]:
    """Return the `value` of every row by its `key`."""
    table: dict[str, Any] = {}
    for location, row in json_rows(_existing(path)):
        name = str(cell(location, row, key))
        if name in table:
            raise RetrievalSetError(f"{location}: {key} {name!r} occurs twice")

        table[name] = cell(location, row, value)
    return table


def _prediction(predicted: Mapping[str, Any], key: str, path: str | Path) -> Sequence[Any]:
    if key not in predicted:
        raise RetrievalSetError(f"{path}: no prediction for {key!r}")
    return predicted[key]


def _answer_ranks(relevant: Sequence[Any], ranking: Sequence[Any]) -> np.ndarray:
    ranks: dict[str, int] = {}
    for rank, key in enumerate(ranking, 1):
        # A repeated answer counts where it first occurs.
        ranks.setdefault(str(key), rank)

    return np.array([ranks.get(str(key), MISSING_RANK) for key in relevant], dtype=np.int64)


def _same_label(rows: Sequence[Row]) -> dict[str, list[str]]:
    """Return program -> the other programs with its label."""
    labels = {str(cell(location, row, "index")): str(cell(location, row, "label")) for location, row in rows}
    members: dict[str, list[str]] = defaultdict(list)
    for key, label in labels.items():
        members[label].append(key)
    return {key: [other for other in members[label] if other != key] for key, label in labels.items()}


def _read_labels(path: str | Path) -> dict[tuple[str, str], int]:
    labels: dict[tuple[str, str], int] = {}
    for location, line in lines(_existing(path)):
        columns = line.split()
        if len(columns) != 3 or columns[2] not in ("0", "1"):
            raise RetrievalSetError(f"{location}: must be two ids and 0 or 1, got {line!r:.60}")
        labels[columns[0], columns[1]] = int(columns[2])
    return labels
