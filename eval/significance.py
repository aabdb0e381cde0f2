"""Uncertainty of a report's figures: bootstrap intervals of means, and a permutation test between two models."""

from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

import numpy as np

Name = TypeVar("Name", bound=Hashable)
CONFIDENCE = 0.95
BOOTSTRAP_RESAMPLES = 2_000
PERMUTATION_RESAMPLES = 9_999
#: Number of values that resampling holds in memory at once.
BATCH_VALUES = 1 << 22


def intervals(
    values: Mapping[Name, np.ndarray],
    confidence: float = CONFIDENCE,
    resamples: int = BOOTSTRAP_RESAMPLES,
    seed: int = 0,
) -> dict[Name, tuple[float, float]]:
    """Return the percentile bootstrap interval of each mean over queries (Efron and Tibshirani, 1993, ch. 13).

    Args:
        values: name -> (queries,). All arrays are of the same queries, which are resampled together.
        confidence: share of such intervals that cover the mean if the queries were drawn again.
        resamples: number of bootstrap samples, at least 1.
        seed: of the random generator.

    Returns:
        name -> (lower, upper), in the unit of the values.

    Raises:
        ValueError: no queries.
    """
    # An optional extra, and slow to import.
    from scipy.stats import bootstrap

    if not values:
        return {}

    table = np.stack([np.asarray(row, dtype=np.float64) for row in values.values()])
    if not table.shape[1]:
        raise ValueError("no queries: a mean over none has no interval. Pass at least one.")
    # scipy refuses a sample of one, whose mean is always its value.
    if table.shape[1] == 1:
        return {name: (float(row[0]), float(row[0])) for name, row in zip(values, table, strict=True)}

    result = bootstrap(
        (table,),
        np.mean,
        axis=1,
        vectorized=True,
        method="percentile",
        confidence_level=confidence,
        n_resamples=resamples,
        batch=max(1, BATCH_VALUES // table.size),
        rng=np.random.default_rng(seed),
    ).confidence_interval

    bounds = zip(values, result.low, result.high, strict=True)
    return {name: (float(low), float(high)) for name, low, high in bounds}


def permutation_p_value(
    first: Sequence[float] | np.ndarray,
    second: Sequence[float] | np.ndarray,
    resamples: int = PERMUTATION_RESAMPLES,
    seed: int = 0,
) -> float:
    """Return the p-value of a two-sided paired permutation test of equal means (Fisher's, as in the paper).

    Under the null hypothesis, the two values of a query can be swapped. The test is exact if there are at most
    `resamples` ways to swap. Otherwise it draws that many at random, and p is at least 1 / (1 + `resamples`).

    Args:
        first: (queries,), one value per query of a model, such as reciprocal ranks.
        second: (queries,), those of the other model.
        resamples: maximum number of permutations.
        seed: of the random generator.

    Raises:
        ValueError: no values, or a different number for each model.
    """
    # An optional extra, and slow to import.
    from scipy.stats import permutation_test

    difference = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    if difference.ndim != 1 or not len(difference):
        raise ValueError(f"values must have shape (queries,) with at least one query, got {difference.shape}")

    # Swapping equal values changes nothing, and a single difference is as large either way.
    difference = difference[difference != 0]
    if len(difference) < 2:
        return 1.0

    return float(
        permutation_test(
            (difference,),
            np.mean,
            permutation_type="samples",
            vectorized=True,
            n_resamples=resamples,
            batch=max(1, BATCH_VALUES // len(difference)),
            rng=np.random.default_rng(seed),
        ).pvalue
    )
