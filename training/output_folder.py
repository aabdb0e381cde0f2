"""The output folder of a run: what it may hold before the run, and the lock that is held during it."""

import json
import logging
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mose.training.checkpoints import MANIFEST, last_whole_checkpoint
from mose.utils.files import PARTIAL_SUFFIX, atomic_write_json

logger = logging.getLogger("mose.train")

#: Says that a training run made the folder; also names its command.
MARK = ".mose-run.json"
LOCK = ".mose-run.lock"
#: What a run writes before its first checkpoint, and can make again.
_REPLACEABLE = {MARK, "teacher", "tokenizer", "runs"}


class OutputLockedError(ValueError):
    """Another process is writing to the output folder."""


@contextmanager
def claim_output(
    folder: Path,
    command: str,
    *,
    resume: bool = False,
    overwrite: bool = False,
    models: Iterable[str | None] = (),
) -> Iterator[None]:
    """Check that a run may write to `folder`, mark the folder as a run's, and hold its lock.

    A folder is free if it is new, empty, or has only what an earlier run can make again. With `resume` it may be
    a run's, with `overwrite` anything: its checkpoints are then deleted, and other files replaced by name.

    Args:
        folder: the output folder.
        command: the training command, for the mark.
        resume: whether to go on with the run in the folder.
        overwrite: whether to replace what is in the folder.
        models: folders or Hub ids that the run reads. None of them may be in the folder.

    Raises:
        ValueError: the folder has other content, or a model that the run reads.
        OutputLockedError: another process writes to the folder.
    """
    import filelock  # saves start-up time

    _check_models(folder, models)
    _check_content(folder, resume, overwrite)
    folder.mkdir(parents=True, exist_ok=True)

    lock = filelock.FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        message = f"{folder} is being written by another run. Wait for its end, or pass another --output-dir."
        raise OutputLockedError(message) from None

    try:
        # Another run may have ended between the check and the lock.
        _check_content(folder, resume, overwrite)
        if overwrite:
            _delete_checkpoints(folder)
        atomic_write_json(folder / MARK, {"command": command})
        yield
    finally:
        lock.release()


def _check_models(folder: Path, models: Iterable[str | None]) -> None:
    for name in models:
        if name and Path(name).exists() and Path(name).resolve().is_relative_to(folder.resolve()):
            raise ValueError(
                f"--output-dir {folder} holds {name}, which the run reads and would replace. Pass another folder."
            )


def _check_content(folder: Path, resume: bool, overwrite: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--output-dir {folder} must be a folder, but is a file. Pass another.")
    if overwrite or not folder.exists():
        return

    # A kill in the first moment of a run leaves these two.
    names = {path.name for path in folder.iterdir()} - {LOCK, MARK + PARTIAL_SUFFIX}
    if not names:
        return

    if not _is_run(folder):
        example = sorted(names)[0]
        raise ValueError(
            f"--output-dir {folder} must be empty or hold a training run, but it has {example}. Pass another "
            "folder, or --overwrite-output-dir to replace what is there."
        )
    if not resume and names - _REPLACEABLE:
        newest = last_whole_checkpoint(folder)
        what = f"has {newest.name}" if newest else "holds an earlier run"
        raise ValueError(
            f"{folder} {what}. Pass --resume, or choose another --output-dir. To begin anew there, pass "
            "--overwrite-output-dir."
        )


def _is_run(folder: Path) -> bool:
    """Return whether a training run made the folder: it has the mark, or a checkpoint of ours."""
    if (folder / MARK).is_file():
        return True

    # Runs of earlier versions left no mark, but a manifest in every checkpoint, and their state.
    return any(_is_own_manifest(path) for path in folder.glob(f"checkpoint-*/{MANIFEST}"))


def _is_own_manifest(path: Path) -> bool:
    """Return whether a manifest lists the files of a checkpoint; a damaged one counts."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return True
    return not isinstance(content, dict) or "trainer_state.json" in content


def _checkpoints(folder: Path) -> list[Path]:
    return [path for path in folder.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]


def _delete_checkpoints(folder: Path) -> None:
    for checkpoint in _checkpoints(folder):
        if checkpoint.is_dir() and not checkpoint.is_symlink():
            logger.info("%s of an earlier run is deleted (--overwrite-output-dir)", checkpoint)
            shutil.rmtree(checkpoint)
