"""Fitting the constants of ranking by coordinate search, and judging the fit on repositories left out."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import numpy as np

from mose.search.ranking.constants import RankingConstants

#: Where the search starts: round numbers that know no data.
START = RankingConstants(
    dense_share_of_symbols=0.5,
    dense_share_of_prose=0.5,
    definition=0.5,
    mentioned_definition=0.25,
    function_share=0.75,
    name=0.25,
    file_name=0.25,
    path=0.25,
    test=0.5,
    example=0.5,
    old=0.5,
    stub=0.5,
    entry=0.5,
    agreement=0.25,
    repeat=0.5,
)
_SHARES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
_BOOSTS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.6)
_FACTORS = (0.3, 0.5, 0.7, 1.0)
#: Values that are tried: coarse, since the queries cannot tell finer ones apart.
GRID: Mapping[str, Sequence[float]] = MappingProxyType(
    {
        "dense_share_of_symbols": _SHARES,
        "dense_share_of_prose": _SHARES,
        "definition": (0.0, 0.25, 0.5, 1.0),
        "mentioned_definition": _BOOSTS,
        "function_share": (0.5, 0.75, 1.0),
        "name": _BOOSTS,
        "file_name": _BOOSTS,
        "path": _BOOSTS,
        "test": _FACTORS,
        "example": _FACTORS,
        "old": _FACTORS,
        "stub": _FACTORS,
        "entry": _FACTORS,
        "agreement": _BOOSTS,
        "repeat": (0.2, 0.35, 0.5, 0.7, 1.0),
    }
)
#: A constant moves only for a gain of at least this much: less is noise.
MIN_GAIN = 5e-4

Scorer = Callable[[RankingConstants], np.ndarray]


def fit_constants(
    score: Scorer,
    seen: np.ndarray,
    start: RankingConstants = START,
    grid: Mapping[str, Sequence[float]] = GRID,
    rounds: int = 3,
) -> RankingConstants:
    """Return the constants with the highest mean score, by coordinate search on a grid.

    Args:
        score: constants -> score of each query, (queries,). Called often: cache it.
        seen: (queries,) bool, the queries to fit on.
        start: where to start.
        grid: values to try of each constant.
        rounds: times to go through the constants; fewer if none moves.
    """
    best = start
    highest = score(best)[seen].mean()
    for _ in range(rounds):
        before = best
        for name, values in grid.items():
            tried = [dataclasses.replace(best, **{name: value}) for value in values]
            means = [score(constants)[seen].mean() for constants in tried]
            winner = int(np.argmax(means))
            if means[winner] >= highest + MIN_GAIN:
                best, highest = tried[winner], means[winner]
        if best == before:
            break
    return best


def fit_without_each(score: Scorer, groups: np.ndarray) -> dict[str, tuple[RankingConstants, float]]:
    """Return for each group the constants fitted on all others, and their mean score on the group.

    Args:
        score: as for `fit_constants`.
        groups: (queries,) names.
    """
    fits = {}
    for group in np.unique(groups):
        constants = fit_constants(score, groups != group)
        fits[str(group)] = (constants, float(score(constants)[groups == group].mean()))
    return fits
