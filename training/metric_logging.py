"""Averages of per-exit metrics between two log lines."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


class MetricAverages:
    """Weighted means of metrics since the last log line; training and evaluation are kept apart.

    Sums stay on the device: reading a value in every step would wait for the step to finish.
    """

    def __init__(self):
        self._sums: dict[bool, dict[tuple[str, ...], Tensor]] = {True: {}, False: {}}

    def add(self, training: bool, names: Sequence[str], values: Tensor, weight: Tensor | float = 1.0) -> None:
        """Add `values` (n,), one per name and detached here, with their scalar weight in the mean.

        The same metrics must come in the same groups of names every time. `training` is False for an evaluation.
        """
        if values.shape != (len(names),):
            raise ValueError(f"values must have shape ({len(names)},), got {tuple(values.shape)}.")

        # MPS has no float64.
        values = values.detach().to(torch.float32 if values.device.type == "mps" else torch.float64)
        weight = torch.as_tensor(weight).to(values)
        entry = torch.cat((values * weight, weight[None]))

        sums, key = self._sums[training], tuple(names)
        sums[key] = sums[key] + entry if key in sums else entry

    def snapshot(self) -> dict[tuple[str, ...], Tensor]:
        """Return the sums while training, for `restore`."""
        return dict(self._sums[True])

    def restore(self, sums: dict[tuple[str, ...], Tensor]) -> None:
        """Take back what was added while training since the `snapshot`."""
        self._sums[True] = dict(sums)

    def nonfinite(self) -> list[str]:
        """Return the names of the metrics while training whose sums are not finite."""
        flags = {names: (~entry.isfinite()).tolist() for names, entry in self._sums[True].items()}
        return [
            name for names, bad in flags.items() for name, is_bad in zip(names, bad[:-1], strict=True) if is_bad
        ]

    def pop(self, training: bool, reduce: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Return the mean of every metric and start anew; `reduce` sums a tensor over all processes."""
        sums, self._sums[training] = self._sums[training], {}
        if not sums:
            return {}

        # One collective and one read for all groups.
        totals = iter(reduce(torch.cat(list(sums.values()))).tolist())
        means: dict[str, float] = {}
        for names in sums:
            values = [next(totals) for _ in names]
            weight = next(totals)
            means |= {name: value / (weight or 1) for name, value in zip(names, values, strict=True)}
        return means
