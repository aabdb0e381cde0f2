"""The score of a hit: the confidence that it answers, beside the order.

The order says which unit fits best, even if none fits. Whether any does shows in how similar the most similar
unit is, in how many of the query's words occur in one unit, and in whether one unit has both. A logistic
regression puts them together. A symbol is a single word, which a unit has or has not, so symbols have a bias of
their own. Among many units some look similar by chance, so the number of units counts against all.
"""

import dataclasses
import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from mose.search.ranking.ranker import Evidence


class ConfidenceFeatures(NamedTuple):
    """The inputs of the logistic regression."""

    similarity: float  # of the most similar unit
    coverage: float  # highest share of the query's words in one unit
    together: float  # highest product of both, of one unit
    symbol: float  # 1 if the query is a symbol, else 0
    log_units: float  # logarithm of the number of units


@dataclasses.dataclass(frozen=True)
class ConfidenceConstants:
    """Coefficients of `ConfidenceFeatures`, fitted by `benchmarks/fit_ranking.py`.

    They hold for the shipped model at any exit. Other models spread their similarities differently: the order of
    their hits does not suffer, but a score of 0.5 is not even odds.
    """

    bias: float = -9.5
    similarity: float = 20.97
    coverage: float = 9.7
    together: float = 16.03
    symbol: float = -8.33
    log_units: float = -1.04


DEFAULT_CONFIDENCE = ConfidenceConstants()
#: Below it, an answer is likelier to be missing than to be there, if both were as frequent.
LOW_CONFIDENCE = 0.5


def confidence_features(evidence: Evidence) -> ConfidenceFeatures:
    """Return what the confidence in an answer depends on."""
    together = np.maximum(evidence.similarities, 0) * evidence.coverage
    return ConfidenceFeatures(
        similarity=float(evidence.similarities.max()),
        coverage=float(evidence.coverage.max()),
        together=float(together.max()),
        symbol=float(evidence.query.is_symbol),
        log_units=math.log(evidence.among),
    )


def query_confidence(evidence: Evidence, constants: ConfidenceConstants = DEFAULT_CONFIDENCE) -> float:
    """Return the probability that the index holds what a query asks for.

    It is right if the index did so for half of all queries. Nobody knows the true share.
    """
    features = confidence_features(evidence)._asdict()
    logit = constants.bias + sum(getattr(constants, name) * value for name, value in features.items())
    return 1 / (1 + math.exp(-max(min(logit, 500.0), -500.0)))


def hit_scores(confidence: float, fits: Iterable[float]) -> list[float]:
    """Return the score of each hit: the query's confidence for the first, and less for those that fit less.

    Args:
        confidence: from `query_confidence`.
        fits: how well each hit fits, best hit first.

    Returns:
        Scores in [0, 1] that never rise.
    """
    fits = list(fits)
    best = fits[0] if fits else 0.0
    scores: list[float] = []
    for fit in fits:
        score = confidence * fit / best if best > 0 else confidence
        scores.append(min(score, scores[-1]) if scores else confidence)
    return scores
