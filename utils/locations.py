"""Telling a local folder from the id of a Hub repository."""

from pathlib import Path

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id


def is_hub_id(name: str) -> bool:
    """Return whether `name` is spelled like a Hub id, `owner/name`. Does not ask the Hub."""
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
