"""The Trainer of classifiers at every exit, and what it measures."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from sklearn.metrics import accuracy_score, precision_recall_fscore_support
from transformers import EvalPrediction

from mose.modeling_mose import MoSEForSequenceClassification
from mose.training.metric_logging import FigureTrainer


class ClassificationTrainer(FigureTrainer):
    """Trains a `MoSEForSequenceClassification`: cross-entropy at every exit, weighed by its depth.

    The log has `classification_loss_exit_K` for every exit K; an evaluation also has what `exit_metrics` gives,
    as `eval_f1_exit_K`.

    Args:
        exit_layer: Train the classifier at this exit alone, with weight 1.
        positive: The class that precision, recall and F1 are of, where there are two.
        Others as in `Trainer`; `data_collator` is a `mose.data.classification.examples.ClassificationCollator`.
    """

    model: MoSEForSequenceClassification
    task = "classification"

    def __init__(self, *args, exit_layer: int | None = None, positive: int = 1, **kwargs):
        super().__init__(*args, compute_metrics=self._metrics, **kwargs)
        self.exit_layer, self.positive = exit_layer, positive
        self.exits = (exit_layer,) if exit_layer is not None else self.model.config.built_exit_layers
        # The loss is a mean over the batch; Trainer is to divide by its accumulation steps.
        self.model_accepts_loss_kwargs = False

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        outputs = model(**inputs, exit_layer=self.exit_layer)
        for exit_layer, loss in zip(self.exits, outputs.exit_losses, strict=True):
            self._note(f"classification_loss_exit_{exit_layer}", loss)
        return (outputs.loss, outputs) if return_outputs else outputs.loss

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """The loss, the logits (batch, exits, classes) and the labels (batch,)."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            outputs = model(**inputs, exit_layer=self.exit_layer, output_all_exits=self.exit_layer is None)
        for exit_layer, loss in zip(self.exits, outputs.exit_losses, strict=True):
            self._note(f"classification_loss_exit_{exit_layer}", loss)
        logits = torch.stack(outputs.exit_logits or (outputs.logits,), dim=1)
        return outputs.loss.detach(), logits.float().detach(), inputs["labels"]

    def _metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        logits: Any = prediction.predictions
        return {
            f"{name}_exit_{e}": value
            for at, e in enumerate(self.exits)
            for name, value in exit_metrics(
                logits[:, at].argmax(axis=-1), prediction.label_ids, self.positive, logits.shape[-1]
            ).items()
        }


def exit_metrics(predicted: np.ndarray, labels: Any, positive: int = 1, classes: int = 2) -> dict[str, float]:
    """Accuracy, precision, recall, F1 and the mean of the classes' F1.

    Args:
        predicted, labels: (n,), class ids.
        positive: Of two classes the one that precision, recall and F1 are of; of more they are means over the
            classes that occur in either argument.
        classes: How many the model tells apart, all of which need not occur.
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
    """What one gets by answering always with the class that is most frequent in `labels`."""
    found = np.asarray(labels)
    return exit_metrics(np.full_like(found, np.bincount(found).argmax()), found, positive, classes)
