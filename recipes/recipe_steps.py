"""Steps that the recipes share: training pairs on disk, without the evaluation sets, and a fine-tuning run."""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset

from mose.data.retrieval.collator import PairCollator
from mose.modeling_mose import MoSEModel
from mose.training.finetuning.arguments import FineTuningArguments
from mose.training.finetuning.trainer import FineTuningTrainer
from mose.utils.files import PARTIAL_SUFFIX

#: Columns with the text of a query, a document, or a file.
TEXT_COLUMNS = ("text", "content", "query")


def text_fingerprint(text: str) -> str:
    """Return a text without case, white space and punctuation."""
    return re.sub(r"\W+|_", "", text).lower()


def evaluation_texts(paths: Iterable[Path]) -> Iterator[str]:
    """Yield the texts of evaluation sets, in order.

    Args:
        paths: files of JSON lines with `text`, `content` or `query`, or folders of such files (as BEIR's).

    Raises:
        ValueError: a folder has no such file, or a row no text.
    """
    for path in paths:
        files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
        if not files:
            raise ValueError(f"{path} has no .jsonl file. Name the folder of an evaluation set.")

        for file in files:
            with file.open(encoding="utf-8") as lines:
                for number, row in enumerate(map(json.loads, lines), 1):
                    text = next((row[name] for name in TEXT_COLUMNS if name in row), None)
                    if text is None:
                        raise ValueError(f"{file}, line {number}: no {' or '.join(TEXT_COLUMNS)} in the row.")
                    yield text


def evaluation_fingerprints(folders: Iterable[Path]) -> set[str]:
    """Return the fingerprints of all queries and documents of evaluation sets, read by `evaluation_texts`."""
    return set(map(text_fingerprint, evaluation_texts(folders))) - {""}


def cached_pairs(path: Path, build: Callable[[], Dataset]) -> Dataset:
    """Return the pairs in a .parquet file, built only if it does not exist."""
    if not path.exists():
        partial = path.with_name(path.name + PARTIAL_SUFFIX)
        build().to_parquet(str(partial))
        partial.rename(path)
    return Dataset.from_parquet(str(path))


def fine_tuning_trainer(
    model: MoSEModel,
    tokenizer: Any,
    pairs: Dataset,
    settings: Mapping[str, Any],
    collation: Mapping[str, Any],
    teacher_vectors: torch.Tensor | None = None,
) -> FineTuningTrainer:
    """Return a Trainer of a recipe's stage.

    `settings` are fields of `FineTuningArguments`, `output_dir` and `seed` among them; `collation` are those of
    `PairCollator`.
    """
    model.set_attn_implementation("eager")  # trains faster than the fused kernels on a CPU
    return FineTuningTrainer(
        model=model,
        args=FineTuningArguments(report_to="none", use_cpu=not torch.cuda.is_available(), **settings),
        train_dataset=pairs,
        processing_class=tokenizer,
        teacher_vectors=teacher_vectors,
        data_collator=PairCollator(tokenizer, seed=settings["seed"], **collation),
    )
