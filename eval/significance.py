"""How sure a figure is: bootstrap intervals of means over queries, the permutation test between two models."""

from collections.abc import Mapping, Sequence

import numpy as np

CONFIDENCE = 0.95
BOOTSTRAP_RESAMPLES = 2_000
PERMUTATION_RESAMPLES = 9_999
BATCH_VALUES = 1 << 22  # values that resampling holds at once


def intervals(
    values: Mapping[str, np.ndarray],
    confidence: float = CONFIDENCE,
    resamples: int = BOOTSTRAP_RESAMPLES,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """Percentile bootstrap interval (Efron and Tibshirani, 1993, chapter 13) of each mean, over queries.

    Args:
        values: name → (queries,), one value per query; all of the same queries, which are resampled together.
        confidence: how often such an interval covers the mean, were the queries drawn anew.
        resamples: at least 1.

    Returns:
        name → (lower, upper). Of a single query both are its value.

    Raises:
        ValueError: no queries.
    """
    from scipy.stats import bootstrap

    if not values:
        return {}
    table = np.stack([np.asarray(of, dtype=np.float64) for of in values.values()])
    if not table.shape[1]:
        raise ValueError("no queries: a mean over none has no interval")
    if table.shape[1] == 1:
        return {name: (float(of[0]), float(of[0])) for name, of in zip(values, table, strict=True)}
    found = bootstrap(
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
    return {name: (float(found.low[at]), float(found.high[at])) for at, name in enumerate(values)}


def permutation_p_value(
    first: Sequence[float] | np.ndarray,
    second: Sequence[float] | np.ndarray,
    resamples: int = PERMUTATION_RESAMPLES,
    seed: int = 0,
) -> float:
    """Two-sided paired permutation test of equal means (Fisher's; the paper compares exits so).

    Under the null hypothesis each query's two values could as well be swapped. Exact where there are no more than
    `resamples` ways to swap, else by that many random ones, and then never below 1 / (1 + `resamples`).

    Args:
        first, second: (queries,), one value per query of each model, such as reciprocal ranks.

    Raises:
        ValueError: none, or not as many of one as of the other.
    """
    from scipy.stats import permutation_test

    difference = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    if difference.ndim != 1 or not len(difference):
        raise ValueError(f"values of shape {difference.shape}: must be (queries,), and at least one")
    difference = difference[difference != 0]  # swapping equal values changes nothing
    if len(difference) < 2:  # the one difference is as large either way
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
