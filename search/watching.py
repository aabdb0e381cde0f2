"""Keeping an index up to date while its trees change."""

import threading
from collections.abc import Iterator

from mose.search.index import Index
from mose.search.records import BuildReport

#: Seconds after which an index that could not be written is tried again.
_RETRY = 5.0


def watch_trees(index: Index, stop: threading.Event | None = None) -> Iterator[BuildReport | None]:
    """Bring an index up to date whenever a file of its trees changes, and yield what has changed.

    Args:
        index: which is brought up to date at once, too.
        stop: ends the iteration when it is set. None goes on until Ctrl-C.

    Yields:
        Counts of what has changed; None if the index could not be written (`Index.stale`).
    """
    import watchfiles  # a search does without

    if (report := index.refresh()) or index.stale:
        yield report
    roots = [tree.root for tree in index.trees]
    retry = int(1000 * _RETRY)
    for changes in watchfiles.watch(
        *roots, stop_event=stop, debounce=300, rust_timeout=retry, yield_on_timeout=True
    ):
        if not changes and not index.stale:
            continue
        was_stale = bool(index.stale)
        report = index.refresh()
        if report or (index.stale and not was_stale):
            yield report
