"""The Trainer of classifiers at every exit, and its metrics."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from sklearn.metrics import accuracy_score, precision_recall_fscore_support
from transformers import EvalPrediction

from mose.modeling_mose import MoSEForSequenceClassification
from mose.training.trainer import MoSETrainer


class ClassificationTrainer(MoSETrainer):
    """A Trainer of `MoSEForSequenceClassification`: L = Σ_i w_i · cross-entropy at exit i (paper, section 3).

    The log has `classification_loss_exit_9` and so on; an evaluation also has `exit_metrics`, such as
    `eval_f1_exit_9`.

    Args:
        exit_layer: train the classifier at this exit only, with weight 1.
        positive: with two classes, the one that precision, recall and F1 refer to.
        args, kwargs: as in `Trainer`; `data_collator` is a
            `mose.data.classification.examples.ClassificationCollator`.
    """

    model: MoSEForSequenceClassification
    task = "classification"

    def __init__(self, *args, exit_layer: int | None = None, positive: int = 1, **kwargs):
        super().__init__(*args, compute_metrics=self._metrics, **kwargs)
        self.exit_layer, self.positive = exit_layer, positive
        self.exits = (exit_layer,) if exit_layer is not None else self.model.config.built_exit_layers
        # The loss is a mean over the batch, so Trainer must divide by its accumulation steps.
        self.model_accepts_loss_kwargs = False

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Return the weighted loss of a batch."""
        outputs = model(**inputs, exit_layer=self.exit_layer)
        self._add_losses(outputs)
        return (outputs.loss, outputs) if return_outputs else outputs.loss

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """Return the loss, the logits (batch, exits, classes) and the labels (batch,)."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            outputs = model(**inputs, exit_layer=self.exit_layer, output_all_exits=self.exit_layer is None)

        self._add_losses(outputs)
        logits = torch.stack(outputs.exit_logits or (outputs.logits,), dim=1)
        return outputs.loss.detach(), logits.float().detach(), inputs["labels"]

    def _add_losses(self, outputs: Any) -> None:
        names = [f"classification_loss_exit_{e}" for e in self.exits]
        self.averages.add(self.model.training, names, torch.stack(tuple(outputs.exit_losses)))

    def _metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        logits: Any = prediction.predictions
        metrics: dict[str, float] = {}
        for index, exit_layer in enumerate(self.exits):
            predicted = logits[:, index].argmax(axis=-1)
            values = exit_metrics(predicted, prediction.label_ids, self.positive, logits.shape[-1])
            metrics |= {f"{name}_exit_{exit_layer}": value for name, value in values.items()}
        return metrics


def exit_metrics(predicted: np.ndarray, labels: Any, positive: int = 1, classes: int = 2) -> dict[str, float]:
    """Compute accuracy, precision, recall, F1 and the macro F1 (mean over the classes).

    `predicted` and `labels` (n,) are class ids. Precision, recall and F1 refer to the class `positive`. With more
    than two `classes`, they are means over the classes that occur in either argument; some may not occur.
    """
    average: dict[str, Any] = {"average": "macro"}
    if classes == 2:
        average = {"average": "binary", "pos_label": positive}

    precision, recall, f1, _ = precision_recall_fscore_support(labels, predicted, zero_division=0, **average)
    macro = precision_recall_fscore_support(labels, predicted, zero_division=0, average="macro")[2]
    accuracy = accuracy_score(labels, predicted)

    names = ("accuracy", "precision", "recall", "f1", "f1_macro")
    return dict(zip(names, map(float, (accuracy, precision, recall, f1, macro)), strict=True))


def majority_metrics(labels: Sequence[int], positive: int = 1, classes: int = 2) -> dict[str, float]:
    """Compute `exit_metrics` of the baseline that always predicts the most frequent class of `labels`."""
    ids = np.asarray(labels)
    return exit_metrics(np.full_like(ids, np.bincount(ids).argmax()), ids, positive, classes)
