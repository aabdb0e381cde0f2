"""Files in the formats of CodeXGLUE's evaluators (Lu et al., 2021, arXiv 2102.04664), scored as they score them.

For comparing with published predictions, and for handing in one's own. Their evaluators round to four digits;
these functions do not.
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

#: A rank behind all others, for what a prediction leaves out.
UNFOUND = np.iinfo(np.int64).max


def advtest(answers: str | Path, predictions: str | Path) -> dict[str, float]:
    """MRR of AdvTest.

    Args:
        answers: one object a line with `url` (of the query) and `idx` (of its code), such as test.jsonl itself.
        predictions: `url` and `answers`, the codes' `idx` from best to worst.

    Raises:
        FileNotFoundError: one of the files is not there.
        RetrievalSetError: a malformed line, an id twice, a query without prediction.
    """
    expected = _by_key(answers, "url", "idx")
    found = _by_key(predictions, "url", "answers")
    ranks = [_ranks([code], _of(found, query, predictions)) for query, code in expected.items()]
    return {"mrr": metrics.mrr(ranks)}


def poj104(answers: str | Path, predictions: str | Path) -> dict[str, float]:
    """MAP@R of POJ-104.

    Args:
        answers: `index` and `answers` (the other programs of the same problem); or the programs themselves with
            `index` and `label`, from which those are made, as `extract_answers.py` does.
        predictions: `index` and `answers`, from best to worst, at least as many as there are relevant ones.

    Raises:
        FileNotFoundError: one of the files is not there.
        RetrievalSetError: a malformed line, an id twice, a program without prediction or with too short a one.
    """
    rows = _rows(answers)
    labelled = bool(rows) and "label" in rows[0][1]
    expected = _same_label(rows) if labelled else _by_key(answers, "index", "answers")
    found = _by_key(predictions, "index", "answers")
    ranks = []
    for program, relevant in expected.items():
        ranking = _of(found, program, predictions)
        if len(set(ranking)) < len(relevant):
            raise RetrievalSetError(
                f"{predictions}: {len(set(ranking))} answers for {program!r}, though {len(relevant)} are relevant"
            )
        ranks.append(_ranks(relevant, ranking))
    return {"map@r": metrics.map_at_r(ranks)}


def bigclonebench(answers: str | Path, predictions: str | Path) -> dict[str, float]:
    """F1, precision and recall of BigCloneBench.

    Args:
        answers, predictions: lines of two ids and 0 or 1, between white space.

    Raises:
        FileNotFoundError: one of the files is not there.
        RetrievalSetError: a malformed line, a pair without prediction.
    """
    expected, found = _labels(answers), _labels(predictions)
    missing = [pair for pair in expected if pair not in found]
    if missing:
        raise RetrievalSetError(f"{predictions}: no prediction for the pair {' '.join(missing[0])}")
    return scores(np.array(list(expected.values())), np.array([found[pair] for pair in expected]))


#: Task → what scores its files.
EVALUATORS = {"advtest": advtest, "poj104": poj104, "bigclonebench": bigclonebench}


def _rows(path: str | Path) -> list[Row]:
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file")
    return list(json_rows(Path(path)))


def _by_key(path: str | Path, key: str, value: str) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for where, row in _rows(path):
        name = str(cell(where, row, key))
        if name in table:
            raise RetrievalSetError(f"{where}: {key} {name!r} stands there twice")
        table[name] = cell(where, row, value)
    return table


def _of(found: Mapping[str, Any], key: str, path: str | Path) -> Sequence[Any]:
    if key not in found:
        raise RetrievalSetError(f"{path}: no prediction for {key!r}")
    return found[key]


def _ranks(relevant: Sequence[Any], ranking: Sequence[Any]) -> np.ndarray:
    place: dict[str, int] = {}
    for rank, key in enumerate(ranking, 1):
        place.setdefault(str(key), rank)
    return np.array([place.get(str(key), UNFOUND) for key in relevant], dtype=np.int64)


def _same_label(rows: Sequence[Row]) -> dict[str, list[str]]:
    labels = {str(cell(where, row, "index")): str(cell(where, row, "label")) for where, row in rows}
    members: dict[str, list[str]] = defaultdict(list)
    for key, label in labels.items():
        members[label].append(key)
    return {key: [other for other in members[label] if other != key] for key, label in labels.items()}


def _labels(path: str | Path) -> dict[tuple[str, str], int]:
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file")
    labels: dict[tuple[str, str], int] = {}
    for where, line in lines(Path(path)):
        parts = line.split()
        if len(parts) != 3 or parts[2] not in ("0", "1"):
            raise RetrievalSetError(f"{where}: must be two ids and 0 or 1, not {line!r:.60}")
        labels[parts[0], parts[1]] = int(parts[2])
    return labels
