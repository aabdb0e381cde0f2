"""Adaptive depth: answer a query from a shallow exit, and from a deeper one only if the answer is in doubt.

`docs/adaptive.md` has what it brings: `benchmarks/adaptive.py` measures it beside fixed exits at equal cost.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mose.inference.encoders import Encoder

#: Documents over which the entropy is taken, and the inverse temperature of its softmax over cosines.
ENTROPY_DOCUMENTS, ENTROPY_SCALE = 10, 20.0
#: Thresholds that a fit tries, as quantiles of the signal.
QUANTILES = np.linspace(0, 1, 41)


def margin_signal(scores: np.ndarray) -> np.ndarray:
    """Return (queries,): how far the best document is ahead of the second; 0 if there is only one.

    Args:
        scores: (queries, documents).
    """
    best = _best(scores, 2)
    return best[:, 0] - best[:, -1]


def entropy_signal(scores: np.ndarray) -> np.ndarray:
    """Return (queries,): the negative entropy of a softmax over the best documents, in nats.

    Args:
        scores: (queries, documents) cosines.
    """
    best = _best(scores, ENTROPY_DOCUMENTS)
    logits = ENTROPY_SCALE * (best - best[:, :1])
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    # Shares of 0 count nothing, and their logarithm would be infinite.
    return (shares * np.log(np.maximum(shares, np.finfo(shares.dtype).tiny))).sum(axis=1)


#: Name -> function from (queries, documents) scores to (queries,) signals; greater means more certain.
SIGNALS: dict[str, Callable[[np.ndarray], np.ndarray]] = {"margin": margin_signal, "entropy": entropy_signal}


@dataclass(frozen=True)
class AdaptivePolicy:
    """When a query goes from one exit to a deeper one: if its signal is below a threshold.

    Attributes:
        shallow: exit of all queries. Exit 0 loses nothing if a query goes deeper: it has run no block.
        deep: exit of the queries in doubt.
        signal: a key of `SIGNALS`.
        threshold: in the unit of the signal; -inf keeps all queries shallow, inf sends all deeper.
    """

    shallow: int
    deep: int
    signal: str
    threshold: float

    def __post_init__(self) -> None:
        if self.signal not in SIGNALS:
            raise ValueError(f"signal must be one of {', '.join(SIGNALS)}, got {self.signal!r}.")
        if not 0 <= self.shallow < self.deep:
            raise ValueError(f"deep must be deeper than shallow, got exits {self.shallow} and {self.deep}.")

    def in_doubt(self, signals: np.ndarray) -> np.ndarray:
        """Return (queries,) bool: which queries go deeper, by the signals of their shallow scores."""
        return signals < self.threshold


def adaptive_scores(
    encoder: Encoder,
    texts: Sequence[str],
    languages: Sequence[str],
    score: Callable[[np.ndarray, int], np.ndarray],
    policy: AdaptivePolicy,
) -> tuple[np.ndarray, np.ndarray]:
    """Score documents for queries, each at the shallow exit or, if that is in doubt, at the deep one.

    Args:
        encoder: a `MoSEEncoder` with both exits of the policy.
        texts: the queries, at least one.
        languages: one for each query, "" for descriptions.
        score: function of (queries, dim) vectors and their exit that returns (queries, documents) cosines. It
            may search one index, if the exits are aligned, or an index for each exit.
        policy: from `fit_policy`.

    Returns:
        (queries, documents) scores, and (queries,) the exit of each.

    Raises:
        ValueError: no texts, or an exit that the encoder lacks.
    """

    def scores_of(rows: Sequence[int], exit_layer: int) -> np.ndarray:
        chosen, words = [texts[row] for row in rows], [languages[row] for row in rows]
        (vectors,) = encoder.encode(chosen, words, True, [str(exit_layer)]).values()
        return score(vectors, exit_layer)

    scores = np.array(scores_of(range(len(texts)), policy.shallow))  # a copy, which the deep rows overwrite
    doubtful = np.flatnonzero(policy.in_doubt(SIGNALS[policy.signal](scores)))
    exits = np.full(len(texts), policy.shallow)

    if len(doubtful):
        scores[doubtful] = scores_of(doubtful.tolist(), policy.deep)
        exits[doubtful] = policy.deep
    return scores, exits


def fit_policy(
    signal: str,
    signals: np.ndarray,
    quality: Mapping[int, np.ndarray],
    budget: float,
    weights: np.ndarray | None = None,
) -> AdaptivePolicy:
    """Return the policy of the best mean quality on development queries, within a budget of mean blocks.

    A query that goes deeper costs the blocks of both exits.

    Args:
        signal: a key of `SIGNALS`.
        signals: (queries,) its values at the shallowest exit.
        quality: exit -> (queries,), such as reciprocal ranks. Queries start at the shallowest of these exits.
        budget: mean blocks run per query.
        weights: (queries,) of the mean; None weighs all queries the same.

    Raises:
        ValueError: fewer than 2 exits, no queries, or a budget below the shallowest exit.
    """
    shallow, *deeper = sorted(quality)
    if not deeper or not len(signals):
        raise ValueError(f"quality must have 2 exits or more and queries, got {quality.keys()}, {len(signals)}.")
    if budget < shallow:
        raise ValueError(f"budget must be at least {shallow}, the blocks of the shallowest exit, got {budget}.")

    shares = np.ones(len(signals)) if weights is None else np.asarray(weights, float)
    shares = shares / shares.sum()
    best, best_quality = AdaptivePolicy(shallow, deeper[0], signal, -np.inf), float(shares @ quality[shallow])

    for deep in deeper:
        for threshold in [*np.quantile(signals, QUANTILES), np.inf]:
            policy = AdaptivePolicy(shallow, deep, signal, float(threshold))
            doubtful = policy.in_doubt(signals)
            mean = float(shares @ np.where(doubtful, quality[deep], quality[shallow]))
            if shallow + float(shares @ doubtful) * deep <= budget and mean > best_quality:
                best, best_quality = policy, mean
    return best


def _best(scores: np.ndarray, count: int) -> np.ndarray:
    """Return the best scores of each query in descending order: (queries, `count`, or all if fewer)."""
    count = min(count, scores.shape[1])
    return -np.sort(-np.partition(scores, -count, axis=1)[:, -count:], axis=1)
