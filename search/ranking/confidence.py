"""The score of a hit: the confidence that it answers, beside the order.

The order says which unit fits best, even if none fits. Whether any does shows in two things: how similar the most
similar unit is, and how many of the query's words occur together in one unit. A logistic regression puts them
together. A symbol is a single word, which a unit has or has not, so symbols have a bias of their own.
"""

import dataclasses
import math
from collections.abc import Iterable

from mose.search.ranking.ranker import Evidence


@dataclasses.dataclass(frozen=True)
class ConfidenceConstants:
    """Coefficients of the logistic regression, fitted by `benchmarks/fit_ranking.py`.

    They hold for the shipped model at any exit. Other models spread their similarities differently: the order of
    their hits does not suffer, but a score of 0.5 is not even odds.
    """

    bias: float = -17.6
    similarity: float = 21.3
    coverage: float = 17.3
    symbol: float = -7.1


DEFAULT_CONFIDENCE = ConfidenceConstants()
#: Below it, an answer is likelier to be missing than to be there, if both were as frequent.
LOW_CONFIDENCE = 0.5


def confidence_features(evidence: Evidence) -> tuple[float, float, float]:
    """Return the best similarity, the best coverage, and whether the query is a symbol."""
    return float(evidence.similarities.max()), float(evidence.coverage.max()), float(evidence.query.is_symbol)


def query_confidence(evidence: Evidence, constants: ConfidenceConstants = DEFAULT_CONFIDENCE) -> float:
    """Return the probability that the index holds what a query asks for.

    It is right if the index did so for half of all queries. Nobody knows the true share.
    """
    similarity, coverage, symbol = confidence_features(evidence)
    logit = constants.bias + constants.similarity * similarity
    logit += constants.coverage * coverage + constants.symbol * symbol
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
