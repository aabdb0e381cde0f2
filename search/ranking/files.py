"""Ranking of units that share a file."""

import numpy as np


def agreement(scores: np.ndarray, file_of: np.ndarray, best: np.ndarray) -> np.ndarray:
    """Return how much each unit's file has of the best hits, (units,) in [0, 1].

    A file with several good units is about the subject. One with a single good unit may only mention it.

    Args:
        scores: (units,) at least 0.
        file_of: (units,) file of each unit.
        best: rows of the best units. Others do not count, else long files would win.
    """
    sums = np.bincount(file_of[best], scores[best])
    highest, top = sums.max(initial=0.0), scores.max(initial=0.0)
    if not highest or not top:
        return np.zeros(len(scores))

    shares = np.zeros(int(file_of.max()) + 1)
    shares[: len(sums)] = sums / highest
    # In proportion to the unit's own score: the file does not lift units that do not fit.
    return shares[file_of] * scores / top


def repeats(file_of: np.ndarray) -> np.ndarray:
    """Return how many hits of the same file stand before each hit, (hits,).

    Further hits of a file tell little that its first one did not: its neighbours are a glance away.

    Args:
        file_of: (hits,) file of each hit, best first.
    """
    order = np.argsort(file_of, kind="stable")
    ordered = file_of[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if len(ordered) else np.zeros(0, np.intp)
    counts = np.diff(np.r_[starts, len(ordered)])

    before = np.empty(len(file_of), np.intp)
    before[order] = np.arange(len(file_of)) - np.repeat(starts, counts)
    return before
