"""Clone-detection scores as an `evaluate` module, thin over scikit-learn. It needs no other file.

import evaluate
evaluate.load("eval/modules/clone_detection").compute(predictions=[1, 0], references=[1, 1])
"""

import datasets
import evaluate
import sklearn.metrics

_DESCRIPTION = """
Precision, recall and F1 of class 1, the clones, as CodeXGLUE measures BigCloneBench. A score that is undefined,
because nothing was predicted or nothing is a clone, is 0.
"""
_KWARGS_DESCRIPTION = """
Args:
    predictions: 0 or 1 per pair.
    references: 0 or 1 per pair, in the same order.
Returns:
    f1, precision, recall.
Raises:
    ValueError: no pairs, or a class other than 0 and 1.
"""


class CloneDetection(evaluate.Metric):
    """A metric of clone detection; see the module's description."""

    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(
                {"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}
            ),
            reference_urls=["https://arxiv.org/abs/2102.04664"],
        )

    def _compute(self, predictions, references):
        if not len(references):
            raise ValueError("no pairs: their scores are undefined. Pass at least one.")
        unknown = {int(value) for value in (*predictions, *references)} - {0, 1}
        if unknown:
            raise ValueError(f"classes must be 0 (other) or 1 (clone), got {min(unknown)}")

        precision, recall, f1, _ = sklearn.metrics.precision_recall_fscore_support(
            references, predictions, average="binary", zero_division=0
        )
        return {"f1": float(f1), "precision": float(precision), "recall": float(recall)}
