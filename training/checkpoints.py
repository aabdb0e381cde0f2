"""Checkpoints that can be verified: each has a manifest of its files, and only complete ones are resumed."""

import hashlib
import json
import logging
import re
from pathlib import Path

from mose.utils.files import PARTIAL_SUFFIX, atomic_write_json

logger = logging.getLogger("mose.train")

MANIFEST = "manifest.json"


def last_whole_checkpoint(output_dir: Path) -> Path | None:
    """Return the newest complete checkpoint in a run's folder, or None.

    Newer checkpoints that are damaged are logged with their fault.
    """
    checkpoints = [path for path in output_dir.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]

    for checkpoint in sorted(checkpoints, key=lambda path: int(path.name.rpartition("-")[2]), reverse=True):
        fault = find_fault(checkpoint)
        if fault is None:
            return checkpoint
        logger.warning("%s is skipped: %s", checkpoint, fault)

    return None


def write_manifest(checkpoint: Path) -> None:
    """Write `manifest.json`: size in bytes and SHA-256 of every file of a checkpoint."""
    # A killed process may have left either of these.
    own = (checkpoint / MANIFEST, checkpoint / f"{MANIFEST}{PARTIAL_SUFFIX}")
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file() and path not in own)

    content = {
        path.relative_to(checkpoint).as_posix(): {"bytes": path.stat().st_size, "sha256": _file_sha256(path)}
        for path in files
    }
    atomic_write_json(checkpoint / MANIFEST, content)


def find_fault(checkpoint: Path) -> str | None:
    """Return what is wrong with a checkpoint, or None if every file is as its manifest says."""
    try:
        content = json.loads((checkpoint / MANIFEST).read_text())

        # Sizes first: they find most damage without reading gigabytes.
        for name, expected in content.items():
            size = (checkpoint / name).stat().st_size
            if size != expected["bytes"]:
                return f"{name} has {size} bytes, not {expected['bytes']}"

        for name, expected in content.items():
            if _file_sha256(checkpoint / name) != expected["sha256"]:
                return f"{name} has changed since it was written (SHA-256)"

    except FileNotFoundError as error:
        missing = Path(str(error.filename)).name
        return "it is incomplete" if missing == MANIFEST else f"{missing} is missing"
    except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
        return f"{MANIFEST}: {error}"
    return None


def _file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
