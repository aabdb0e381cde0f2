"""Progress of a build: a bar on stderr, or reports to a caller that has another way to show it."""

from collections.abc import Callable, Collection, Iterator
from typing import Any, Self, TypeAlias

from tqdm import tqdm

#: Receives the step, how much of it is done, and its total. What it raises ends the build.
ReportProgress: TypeAlias = Callable[[str, int, int], None]
#: True for a bar on stderr, False for nothing, or a function to report to.
BuildProgress: TypeAlias = bool | ReportProgress


class ReportingBar:
    """The part of `tqdm` that builds use, reporting to a function.

    Args:
        report: called at the beginning and after each update.
        items: what to iterate over.
        desc: name of the step.
        total: number of items; None means those of `items`.
    """

    def __init__(
        self, report: ReportProgress, items: Collection[Any] = (), desc: str = "", total: int | None = None
    ):
        self._report, self._items, self._step = report, items, desc
        self._done, self._total = 0, len(items) if total is None else total
        self.update(0)

    def __iter__(self) -> Iterator[Any]:
        for item in self._items:
            yield item
            self.update(1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def update(self, count: int) -> None:
        """Count items that are done."""
        self._done += count
        self._report(self._step, self._done, self._total)


def progress_bar(
    progress: BuildProgress,
    items: Collection[Any] | None = None,
    desc: str = "",
    total: int | None = None,
    **options: Any,
) -> "tqdm | ReportingBar":
    """Return a bar that shows progress as asked for; `options` are those of `tqdm`."""
    if callable(progress):
        return ReportingBar(progress, items or (), desc, total)
    return tqdm(items, desc, total, disable=not progress, **options)
