"""Progress of a build: a bar on stderr, or reports to a caller that has another way to show it."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

from tqdm import tqdm

#: Receives the step, how much of it is done, and its total.
ReportProgress: TypeAlias = Callable[[str, float, float], None]
#: True for a bar on stderr, False for nothing, or a function to report to.
BuildProgress: TypeAlias = bool | ReportProgress


class _ReportingBar(tqdm):
    """A bar that prints nothing and reports to a function, as often as a bar would be drawn."""

    def __init__(self, report: ReportProgress, *arguments: Any, **options: Any):
        self._report = report
        # tqdm draws nothing at all, and counts nothing, if it is disabled.
        with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
            super().__init__(*arguments, file=nowhere, **options)

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:
        """Report in place of drawing."""
        self._report(self.desc.rstrip(": "), self.n, self.total or 0)
        return True

    def close(self) -> None:
        """Report the end, without the final line of a bar."""
        if not self.disable:
            self.disable = True
            self._report(self.desc.rstrip(": "), self.n, self.total or 0)


def progress_bar(progress: BuildProgress, *arguments: Any, **options: Any) -> tqdm:
    """Return a `tqdm` that shows progress as asked for; the other arguments are those of `tqdm`."""
    if callable(progress):
        return _ReportingBar(progress, *arguments, **options)
    return tqdm(*arguments, disable=not progress, **options)
