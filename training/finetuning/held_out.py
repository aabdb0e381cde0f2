"""Functions held out of a source tree, and how well each exit finds them by their documentation."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset

from mose.data.retrieval.retrieval_set import RetrievalSet
from mose.eval.metrics import score_blocks
from mose.eval.retrieval import score
from mose.inference.encoding import encode
from mose.tokenization.prompts import prompt_for
from mose.utils.files import atomic_write

HELD_OUT_FILE = "held_out.json"


def hold_out(pairs: Dataset, share: float) -> tuple[Dataset, Dataset]:
    """Splits pairs of text and code into those to train on and those held out.

    A text's own hash decides, so that equal texts stay together, and a tree that has grown holds out the same
    functions as before.

    Args:
        pairs: As `mose.data.retrieval.pairs.load_pairs` gives them, of source trees.
        share: Of the texts, from 0 to below 1.

    Raises:
        ValueError: nothing is left on one side.
    """
    limit = share * 2**32
    held = [int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) < limit for text in pairs["query"]]
    rows = [[i for i, out in enumerate(held) if out is side] for side in (False, True)]
    if not all(rows):
        raise ValueError(
            f"held_out_share={share}: of {len(pairs)} functions {len(rows[1])} would be held out and "
            f"{len(rows[0])} trained on; give --held-out-share 0, or more functions"
        )
    return pairs.select(rows[0]), pairs.select(rows[1])


def as_retrieval_set(pairs: Dataset, held_out: Dataset) -> RetrievalSet:
    """The held-out texts as queries, among the code of all functions, seen and unseen, as a search would be.

    A text that several functions have is one query that all of them answer.

    Args:
        pairs: All functions.
        held_out: Those of them that were not trained on.
    """
    answers: dict[str, dict[str, int]] = {text: {} for text in held_out["query"]}
    ids = tuple(map(str, range(len(pairs))))
    for row, text in zip(ids, pairs["query"], strict=True):
        if text in answers:
            answers[text][row] = 1
    queries = tuple(answers)
    query_ids = tuple(map(str, range(len(queries))))
    return RetrievalSet(
        name="held out",
        document_ids=ids,
        documents=tuple(pairs["document"]),
        document_languages=tuple(pairs["document_language"]),
        query_ids=query_ids,
        queries=queries,
        query_languages=("",) * len(queries),
        qrels=dict(zip(query_ids, answers.values(), strict=True)),
    )


def measure(
    model: Any,
    tokenizer: Any,
    data: RetrievalSet,
    max_query_length: int,
    max_document_length: int,
    dtype: torch.dtype | None = None,
) -> dict[str, dict[str, float]]:
    """Exit → `mrr`, `ndcg@10`, `recall@1`, `recall@10` over the whole corpus; arguments as in `encode`."""
    sides = {
        "queries": (data.queries, data.query_languages, max_query_length),
        "documents": (data.documents, data.document_languages, max_document_length),
    }
    vectors = {
        side: encode(
            model,
            tokenizer,
            texts,
            prompts=[prompt_for(language, query=side == "queries") for language in languages],
            max_length=length,
            dtype=dtype,
        )
        for side, (texts, languages, length) in sides.items()
    }
    return {
        str(e): score(data, score_blocks(queries, vectors["documents"][e]))
        for e, queries in vectors["queries"].items()
    }


class HeldOut:
    """Measures before and after training, and keeps both in `held_out.json` of the run's folder.

    Args:
        folder: The run's.
        data: What to search, and for what.
        resumed: Whether the run goes on from a checkpoint: the figures from before are then those written down.
        measuring: Arguments of `measure` after the set.
    """

    def __init__(self, folder: Path, data: RetrievalSet, resumed: bool, **measuring):
        self.path, self.data, self.measuring = folder / HELD_OUT_FILE, data, measuring
        self.report: dict[str, Any] = {"queries": len(data.queries), "documents": len(data.documents)}
        if resumed and self.path.is_file():
            self.report = json.loads(self.path.read_text())

    def before(self, model: Any, tokenizer: Any) -> None:
        if "before" not in self.report:
            self._measure("before", model, tokenizer)

    def after(self, model: Any, tokenizer: Any, seconds: float | None) -> str:
        """Measures, writes, and returns a table; `seconds` is what training took, None where it was resumed."""
        if seconds is not None:
            self.report["training_seconds"] = round(seconds, 1)
        self._measure("after", model, tokenizer)
        before, after = self.report["before"], self.report["after"]
        lines = [f"{len(self.data.queries)} held-out texts, searched among {len(self.data.documents)} functions:"]
        lines += [
            f"  exit {e}: MRR {before[e]['mrr']:.3f} before, {after[e]['mrr']:.3f} after"
            for e in after
            if e in before
        ]
        return "\n".join(lines)

    def _measure(self, when: str, model: Any, tokenizer: Any) -> None:
        self.report[when] = measure(model, tokenizer, self.data, **self.measuring)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(self.path) as file:
            file.write(json.dumps(self.report, indent=2).encode() + b"\n")
