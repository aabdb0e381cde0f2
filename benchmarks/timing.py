"""Timing things against each other in one run: A B A B …, so that what the machine does meets all alike."""

import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from tqdm import tqdm

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Timing:
    """How long one task took, in seconds, round by round."""

    seconds: tuple[float, ...]

    def percentile(self, percent: float) -> float:
        """Seconds that `percent` of the rounds stayed below."""
        return float(np.percentile(self.seconds, percent))

    @property
    def median(self) -> float:
        """Seconds."""
        return self.percentile(50)

    @property
    def spread(self) -> float:
        """Interquartile range over the median: near 0 on a quiet machine."""
        return (self.percentile(75) - self.percentile(25)) / self.median


def interleave(
    tasks: Mapping[Key, Callable[[int], Any]],
    rounds: int,
    warm_up: int = 1,
    synchronise: Callable[[], Any] = lambda: None,
    description: str = "",
    clock: Callable[[], float] | None = None,
) -> dict[Key, Timing]:
    """Runs every task once a round, for so many rounds.

    Args:
        tasks: what to time; each is called with the number of the round, from 0.
        rounds: at least 1.
        warm_up: rounds before those, which do not count: they allocate, compile and fill caches.
        synchronise: waits until the device has done what was asked of it.
        description: of the progress bar on stderr.
        clock: in seconds; None means `time.perf_counter`.

    Returns:
        a `Timing` of `rounds` values per task.

    Raises:
        ValueError: no rounds to time, or fewer than none to warm up.
    """
    if rounds < 1 or warm_up < 0:
        raise ValueError(f"rounds={rounds}, warm_up={warm_up}: at least 1 round, and no negative warm-up")
    clock = clock or time.perf_counter
    seconds: dict[Key, list[float]] = {key: [] for key in tasks}
    for at in tqdm(range(-warm_up, rounds), desc=description, unit=" rounds", disable=None):
        for key, task in tasks.items():
            synchronise()
            start = clock()
            task(at % rounds)
            synchronise()
            if at >= 0:
                seconds[key].append(clock() - start)
    return {key: Timing(tuple(values)) for key, values in seconds.items()}
