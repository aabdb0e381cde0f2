"""Clone detection at every exit: classify pairs of functions; report precision, recall and F1 of the clones."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from sklearn.metrics import precision_recall_fscore_support
from tqdm import tqdm

from mose.eval.tasks.base import PairSet
from mose.inference.encoding import (
    default_token_budget,
    inference_context,
    length_sorted_batches,
    pad_batch,
    token_limit,
)
from mose.inference.loading import default_device, load_class, load_mose_config, resolve_exit_layers
from mose.tokenization.inputs import text_ids
from mose.tokenization.pairs import join_pair

#: Labels of the clone class, in lower case. The first is the label that `train_hf.py classify` writes.
CLONE_LABELS = ("1", "true", "clone", "label_1")


def load_pair_classifier(
    source: str,
    exit_layers: Sequence[int] | None = None,
    device: str | None = None,
    trust_remote_code: bool = False,
) -> tuple[Any, Any, tuple[int, ...]]:
    """Load a MoSE with classification heads in float32, only as deep as the requested exits need.

    Arguments and results are those of `mose.inference.loading.load_model`: model, tokenizer, requested exits.

    Raises:
        ValueError: not a MoSE, an exit that it does not have, or no trained classifier at a requested exit.
        OSError: there is no model at `source`.
    """
    from transformers import AutoTokenizer  # slow to import

    exits = resolve_exit_layers(load_mose_config(source, trust_remote_code), exit_layers)
    options = {"exit_layer": exits[-1], "dtype": torch.float32, "output_loading_info": True}
    model, info = load_class(source, "ForSequenceClassification", trust_remote_code, **options)

    missing = info["missing_keys"]
    untrained = [k for k in exits if any(f"classifiers.{k}." in name for name in missing)]
    if untrained:
        message = f"it has no trained classifier at exit {', '.join(map(str, untrained))}"
        raise ValueError(f"{message}. Train one with `train_hf.py classify`.")
    # Refuse a classifier of something else before hours of work.
    clone_class(model.config)
    tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=trust_remote_code)
    return model.to(device or default_device()).eval(), tokenizer, exits


def clone_class(config: Any) -> int:
    """Return the class of a classifier that means clone, found by its label.

    Raises:
        ValueError: not two classes, or none with a label of `CLONE_LABELS`.
    """
    classes = {str(name).lower(): int(number) for number, name in config.id2label.items()}
    clones = [classes[label] for label in CLONE_LABELS if label in classes]
    if len(classes) != 2 or not clones:
        allowed, actual = ", ".join(CLONE_LABELS), ", ".join(map(str, config.id2label.values()))
        raise ValueError(f"id2label must name two classes, one of them {allowed}; got {actual}")
    return clones[0]


def classify_pairs(
    model: Any,
    tokenizer: Any,
    data: PairSet,
    exit_layers: Sequence[int] | None = None,
    max_length: int | None = None,
    token_budget: int | None = None,
    dtype: torch.dtype | None = None,
    progress: bool = False,
) -> dict[int, np.ndarray]:
    """Return each exit's predictions for pairs of functions. All exits are computed in one pass.

    `model` and `tokenizer` are from `load_pair_classifier`, `data` has at least one pair, and `max_length` limits
    the tokens of a pair. For the other arguments see `mose.inference.encoding.encode`.

    Returns:
        exit -> (pairs,) int64: 1 if the largest logit is that of the clone class, else 0.

    Raises:
        ValueError: an exit that is not built, or a `max_length` too small for a pair.
        FloatingPointError: a logit is NaN, because the weights are broken.
    """
    exits, clone = resolve_exit_layers(model.config, exit_layers), clone_class(model.config)
    reached = [k for k in model.config.built_exit_layers if k <= exits[-1]]
    limit = token_limit(model, tokenizer, max_length)
    budget = token_budget or default_token_budget(model.device)

    # Functions occur in many pairs, so each is tokenized once. None can fill more than the whole input.
    ids = text_ids(tokenizer, list(data.functions), limit)
    # A pair has three special tokens.
    lengths = [min(len(ids[first]) + len(ids[second]), limit) + 3 for first, second in data.pairs]
    result = {k: np.empty(len(data.pairs), dtype=np.int64) for k in exits}

    with inference_context(model, dtype), tqdm(total=len(data.pairs), unit=" pairs", disable=not progress) as bar:
        for rows in length_sorted_batches(lengths, budget):
            pairs = [join_pair(tokenizer, ids[a], ids[b], limit) for a, b in data.pairs[rows]]
            batch = pad_batch(pairs, tokenizer.pad_token_id or 0)
            batch = {key: tensor.to(model.device, non_blocking=True) for key, tensor in batch.items()}
            every_exit = model(**batch, exit_layer=exits[-1], output_all_exits=True).exit_logits

            for k, logits in zip(reached, every_exit, strict=True):
                if k in result:
                    if bool(logits.isnan().any()):
                        message = f"{model.name_or_path}: logits must not be NaN, got NaN at exit {k}"
                        raise FloatingPointError(f"{message}. The weights are broken; load others.")

                    result[k][rows] = (logits.argmax(dim=-1) == clone).long().cpu().numpy()
            bar.update(len(rows))

    return result


def scores(labels: np.ndarray, predictions: np.ndarray) -> dict[str, float]:
    """Return `f1`, `precision` and `recall` of class 1; an undefined score is 0.

    Both arguments are (pairs,) arrays of 0 and 1.

    Raises:
        ValueError: no pairs, or a different number of labels and predictions.
    """
    if not len(labels):
        raise ValueError("no pairs: their scores are undefined. Pass at least one.")

    precision, recall, f1, _ = precision_recall_fscore_support(
        labels, predictions, average="binary", zero_division=0
    )
    return {"f1": float(f1), "precision": float(precision), "recall": float(recall)}


def evaluate_pairs(
    model: Any,
    tokenizer: Any,
    sets: Iterable[PairSet],
    exit_layers: Sequence[int] | None = None,
    max_length: int | None = None,
    dtype: torch.dtype | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Return a report like that of `mose.eval.retrieval.evaluate`, with an empty "speed".

    "queries" is the number of pairs and "documents" the number of functions. For the arguments see
    `classify_pairs`.
    """
    report: dict[str, Any] = {"sets": {}, "speed": {}}

    for data in sets:
        exits = classify_pairs(model, tokenizer, data, exit_layers, max_length, dtype=dtype, progress=progress)
        report["sets"][data.name] = {
            "queries": len(data.pairs),
            "documents": len(data.functions),
            "exits": {str(k): scores(data.labels, predictions) for k, predictions in exits.items()},
            "peers": {},
        }

    return report
