"""Clone detection at every exit: pairs through a classifier; precision, recall and F1 of the clones."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from sklearn.metrics import precision_recall_fscore_support
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from mose.eval.tasks.base import PairSet
from mose.inference.encoding import default_token_budget, inference_context, token_limit
from mose.inference.loading import default_device, load_mose_config, resolve_exit_layers
from mose.tokenization.pairs import join_pair

#: What a classifier may call the clones, in lower case; the first is what `train_hf.py classify` calls them.
CLONE_LABELS = ("1", "true", "clone", "label_1")


def load_classifier(
    source: str, exit_layers: Sequence[int] | None = None, device: str | None = None
) -> tuple[Any, Any, tuple[int, ...]]:
    """A MoSE with classification heads, in float32, as deep as the wanted exits need, and its tokenizer.

    Args:
        source, exit_layers, device: as for `mose.eval.retrieval.load_model`.

    Raises:
        ValueError: no MoSE, an exit that it does not have, or no trained classifier at a wanted exit.
        OSError: nothing to load there.
    """
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    wanted = resolve_exit_layers(load_mose_config(source), exit_layers)
    model, info = AutoModelForSequenceClassification.from_pretrained(
        source,
        trust_remote_code=True,
        exit_layer=wanted[-1],
        dtype=torch.float32,
        output_loading_info=True,
    )
    untrained = [k for k in wanted if any(f"classifiers.{k}." in name for name in info["missing_keys"])]
    if untrained:
        raise ValueError(
            f"it has no trained classifier at exit {', '.join(map(str, untrained))}; "
            "`train_hf.py classify` makes a model that has one"
        )
    clone_class(model.config)
    tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=True)
    return model.to(device or default_device()).eval(), tokenizer, wanted


def clone_class(config: Any) -> int:
    """The class of a classifier that means clone, by its label.

    Raises:
        ValueError: more than two classes, or none with such a label.
    """
    classes = {str(name).lower(): int(number) for number, name in config.id2label.items()}
    found = [classes[label] for label in CLONE_LABELS if label in classes]
    if len(classes) != 2 or not found:
        raise ValueError(
            f"its classes are {', '.join(map(str, config.id2label.values()))}: there must be two, one of them "
            f"called {', '.join(CLONE_LABELS)}"
        )
    return found[0]


def classify(
    model: Any,
    tokenizer: Any,
    data: PairSet,
    exit_layers: Sequence[int] | None = None,
    max_length: int | None = None,
    token_budget: int | None = None,
    dtype: torch.dtype | None = None,
    progress: bool = False,
) -> dict[int, np.ndarray]:
    """Which pairs each exit takes for clones, all exits from one pass.

    Args:
        model, tokenizer: as `load_classifier` gives them.
        data: at least one pair.
        exit_layers: None means all that the model has built.
        max_length: tokens after which a pair is cut off, see `mose.tokenization.pairs`; None means as many as
            model and tokenizer allow.
        token_budget, dtype, progress: as for `mose.inference.encoding.encode`.

    Returns:
        exit → (pairs,) int64, 1 where the greatest logit is that of the clones, in the order of the pairs.

    Raises:
        ValueError: an exit that the model does not have, a `max_length` without room for a pair.
        FloatingPointError: a logit is NaN: the weights are broken.
    """
    exits, clone = resolve_exit_layers(model.config, exit_layers), clone_class(model.config)
    reached = [k for k in model.config.built_exit_layers if k <= exits[-1]]
    limit = token_limit(model, tokenizer, max_length)
    budget = token_budget or default_token_budget(model.device)
    # Functions recur in many pairs: each is tokenized once. None can fill more than the whole input.
    functions = list(data.functions)
    ids = tokenizer(functions, add_special_tokens=False, truncation=True, max_length=limit)["input_ids"]
    lengths = [min(len(ids[first]) + len(ids[second]), limit) for first, second in data.pairs]
    order = sorted(range(len(lengths)), key=lambda at: -lengths[at])
    result = {k: np.empty(len(data.pairs), dtype=np.int64) for k in exits}
    with inference_context(model, dtype), tqdm(total=len(order), unit=" pairs", disable=not progress) as bar:
        start = 0
        while start < len(order):
            rows = order[start : start + max(1, budget // (lengths[order[start]] + 3))]
            start += len(rows)
            pairs = [join_pair(tokenizer, ids[a], ids[b], limit) for a, b in data.pairs[rows]]
            for k, logits in zip(reached, _forward(model, tokenizer, pairs, exits[-1]), strict=True):
                if k in result:
                    if bool(logits.isnan().any()):
                        raise FloatingPointError(f"{model.name_or_path}: NaN at exit {k}; its weights are broken")
                    result[k][rows] = (logits.argmax(dim=-1) == clone).long().cpu().numpy()
            bar.update(len(rows))
    return result


def _forward(model: Any, tokenizer: Any, pairs: list[list[int]], deepest: int) -> tuple[torch.Tensor, ...]:
    tensors = [torch.tensor(pair) for pair in pairs]
    padding = tokenizer.pad_token_id or 0
    batch = {
        "input_ids": pad_sequence(tensors, batch_first=True, padding_value=padding),
        "attention_mask": pad_sequence([torch.ones_like(row) for row in tensors], batch_first=True),
    }
    batch = {key: tensor.to(model.device, non_blocking=True) for key, tensor in batch.items()}
    return model(**batch, exit_layer=deepest, output_all_exits=True).exit_logits


def scores(labels: np.ndarray, predictions: np.ndarray) -> dict[str, float]:
    """`f1`, `precision` and `recall` of class 1; 0 where one of them is not defined.

    Args:
        labels, predictions: (pairs,) of 0 and 1.

    Raises:
        ValueError: none, or not as many of one as of the other.
    """
    if not len(labels):
        raise ValueError("no pairs: the scores of none are not defined")
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
    """A report like that of `mose.eval.retrieval.evaluate`: "queries" counts pairs, "documents" functions.

    Arguments as for `classify`; the report's "speed" is empty.
    """
    report: dict[str, Any] = {"sets": {}, "speed": {}}
    for data in sets:
        found = classify(model, tokenizer, data, exit_layers, max_length, dtype=dtype, progress=progress)
        report["sets"][data.name] = {
            "queries": len(data.pairs),
            "documents": len(data.functions),
            "exits": {str(k): scores(data.labels, predictions) for k, predictions in found.items()},
            "peers": {},
        }
    return report
