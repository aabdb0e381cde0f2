"""Steps that the recipes share: training pairs on disk, without the evaluation sets, and a fine-tuning run."""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset

from mose.data.retrieval.collator import PairCollator
from mose.modeling_mose import MoSEModel
from mose.training.finetuning.arguments import FineTuningArguments
from mose.training.finetuning.trainer import FineTuningTrainer
from mose.utils.files import PARTIAL_SUFFIX


def text_fingerprint(text: str) -> str:
    """Return a text without case, white space and punctuation."""
    return re.sub(r"\W+|_", "", text).lower()


def evaluation_fingerprints(folders: Iterable[Path]) -> set[str]:
    """Return the fingerprints of all queries and documents of evaluation sets (BEIR layout)."""
    fingerprints: set[str] = set()
    for folder in folders:
        for name in ("queries.jsonl", "corpus.jsonl"):
            with (folder / name).open(encoding="utf-8") as lines:
                fingerprints.update(text_fingerprint(json.loads(line)["text"]) for line in lines)
    return fingerprints - {""}


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
