"""Functions held out of a source tree, to measure how well each exit finds them by their documentation."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from datasets import Dataset

from mose.data.retrieval.retrieval_set import RetrievalSet
from mose.utils.files import atomic_write_json

HELD_OUT_FILE = "held_out.json"

#: Scores of a model on a retrieval set: exit → metric → value. Called as `evaluate(model, tokenizer, data)`.
Evaluate = Callable[[Any, Any, RetrievalSet], dict[str, dict[str, float]]]


def hold_out(pairs: Dataset, share: float) -> tuple[Dataset, Dataset]:
    """Split pairs of text and code into those to train on and a `share` of the texts to hold out.

    The hash of a text decides. Equal texts stay together, and a tree that has grown holds out the same functions
    as before.

    Raises:
        ValueError: one side is empty.
    """
    limit = share * 2**32
    is_held = [int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) < limit for text in pairs["query"]]
    train, held = ([i for i, out in enumerate(is_held) if out is side] for side in (False, True))

    if not train or not held:
        raise ValueError(
            f"held_out_share={share}: of {len(pairs)} functions {len(held)} would be held out and {len(train)} "
            "trained on. Pass --held-out-share 0, or more functions."
        )
    return pairs.select(train), pairs.select(held)


def as_retrieval_set(pairs: Dataset, held_out: Dataset) -> RetrievalSet:
    """Return the `held_out` texts as queries over the code of all `pairs`, seen and unseen.

    A text that several functions share is one query that all of them answer.
    """
    answers: dict[str, dict[str, int]] = {text: {} for text in held_out["query"]}
    document_ids = tuple(map(str, range(len(pairs))))
    for document_id, text in zip(document_ids, pairs["query"], strict=True):
        if text in answers:
            answers[text][document_id] = 1

    queries = tuple(answers)
    query_ids = tuple(map(str, range(len(queries))))
    return RetrievalSet(
        name="held out",
        document_ids=document_ids,
        documents=tuple(pairs["document"]),
        document_languages=tuple(pairs["document_language"]),
        query_ids=query_ids,
        queries=queries,
        query_languages=("",) * len(queries),
        qrels=dict(zip(query_ids, answers.values(), strict=True)),
    )


class HeldOutReport:
    """Scores on held-out functions before and after training, kept in `held_out.json` of the run's folder.

    `evaluate` scores a model on `data`. A `resumed` run reads the scores from before training from the file.
    """

    def __init__(self, folder: Path, data: RetrievalSet, evaluate: Evaluate, resumed: bool):
        self.path, self.data, self.evaluate = folder / HELD_OUT_FILE, data, evaluate
        self.report: dict[str, Any] = {"queries": len(data.queries), "documents": len(data.documents)}
        if resumed and self.path.is_file():
            self.report = json.loads(self.path.read_text())

    def measure_before(self, model: Any, tokenizer: Any) -> None:
        """Score the untrained model, unless the file has its scores."""
        if "before" not in self.report:
            self._measure("before", model, tokenizer)

    def measure_after(self, model: Any, tokenizer: Any, seconds: float | None) -> str:
        """Score the trained model and return a table for the log; a resumed run does not know its `seconds`."""
        if seconds is not None:
            self.report["training_seconds"] = round(seconds, 1)
        self._measure("after", model, tokenizer)

        before, after = self.report["before"], self.report["after"]
        lines = [f"{len(self.data.queries)} held-out texts, searched among {len(self.data.documents)} functions:"]
        for e in [e for e in after if e in before]:
            lines.append(f"  exit {e}: MRR {before[e]['mrr']:.3f} before, {after[e]['mrr']:.3f} after")
        return "\n".join(lines)

    def _measure(self, when: str, model: Any, tokenizer: Any) -> None:
        self.report[when] = self.evaluate(model, tokenizer, self.data)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_json(self.path, self.report)
