"""The default places of indexes: in the user's cache folder, one for each source tree."""

import hashlib
from pathlib import Path

from mose.search.store import Location, SearchIndexError
from mose.utils.locations import cache_folder


def default_location(tree: Path | None, suffix: str = "") -> Location:
    """Return the place of the index of a tree.

    Args:
        tree: the folder. None means that of the nearest folder that has an index, from the current one upwards.
        suffix: tells several indexes of a tree apart.

    Raises:
        SearchIndexError: `tree` is None and there is no such index.
    """
    if tree is not None:
        root = tree.resolve()
        key = hashlib.sha256(str(root).encode("utf-8", "surrogateescape")).hexdigest()[:8]
        return Location(str(cache_folder() / "indexes" / f"{root.name or 'root'}-{key}{suffix}"))

    current = Path.cwd()
    for folder in (current, *current.parents):
        location = default_location(folder)
        if location.exists():
            return location
    advice = "Run: python -m mose.search index DIR, or name an index with --index PATH."
    raise SearchIndexError(f"{current} and the folders around it have no index. {advice}")
