"""Locations of models and files: the package's own folder, the cache, and "local folder or Hub id?"."""

import os
from pathlib import Path

import platformdirs


def is_hub_id(name: str) -> bool:
    """Return whether `name` is spelled like a Hub id, `owner/name`. Does not ask the Hub."""
    # A folder needs no client of the Hub, which takes longer to import than a search.
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return "/" in name


def is_local_folder(source: str | Path) -> bool:
    """Return True for an existing folder and False for a Hub id.

    Raises:
        FileNotFoundError: `source` is neither.
    """
    if Path(source).is_dir():
        return True
    if is_hub_id(str(source)):
        return False
    raise FileNotFoundError(f"{source}: no such folder, and not a Hub id (owner/name).")


def package_folder() -> Path:
    """Return the folder of the `mose` package. It is also the shipped model's folder. Treat it as read-only."""
    return Path(__file__).resolve().parents[1]


def cache_folder() -> Path:
    """Return the folder for files that can be rebuilt: `$MOSE_CACHE`, or "mose" in the user's cache folder."""
    return Path(os.environ.get("MOSE_CACHE") or platformdirs.user_cache_dir("mose", appauthor=False))
