"""Checkpoints that are whole or refused by name: written with a manifest, and found by it."""

import hashlib
import json
import logging
import re
from pathlib import Path

from transformers import Trainer
from transformers.trainer_utils import rotate_checkpoints

from mose.utils.files import PARTIAL_SUFFIX, atomic_write

logger = logging.getLogger("mose.train")

MANIFEST = "manifest.json"


def last_whole_checkpoint(output_dir: Path) -> Path | None:
    """The newest checkpoint in a run's folder that is as it was written; None where there is none.

    Newer ones that are not are named in the log, with what is wrong with them.
    """
    numbered = [path for path in output_dir.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    for checkpoint in sorted(numbered, key=lambda path: int(path.name.rpartition("-")[2]), reverse=True):
        fault = find_fault(checkpoint)
        if fault is None:
            return checkpoint
        logger.warning("%s is passed over: %s", checkpoint, fault)
    return None


def write_manifest(checkpoint: Path) -> None:
    """Lists every file of a checkpoint with its size and SHA-256; in place at once or not at all."""
    written = (checkpoint / MANIFEST, checkpoint / f"{MANIFEST}{PARTIAL_SUFFIX}")  # a kill may have left either
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file() and path not in written)
    content = {
        str(path.relative_to(checkpoint)): {"bytes": path.stat().st_size, "sha256": _sha256(path)}
        for path in files
    }
    with atomic_write(checkpoint / MANIFEST) as stream:
        stream.write(json.dumps(content, indent=2).encode())


def find_fault(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint: no manifest, or a file that is not as that says; None where nothing is."""
    try:
        content = json.loads((checkpoint / MANIFEST).read_text())
        for name, expected in content.items():
            size = (checkpoint / name).stat().st_size
            if size != expected["bytes"]:
                return f"{name} has {size} bytes, not {expected['bytes']}"
        for name, expected in content.items():
            if _sha256(checkpoint / name) != expected["sha256"]:
                return f"{name} is not what was written (SHA-256)"
    except FileNotFoundError as error:
        missing = Path(str(error.filename)).name
        return "it was not written to its end" if missing == MANIFEST else f"{missing} is missing"
    except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
        return f"{MANIFEST}: {error}"
    return None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class WholeCheckpoints(Trainer):
    """A `Trainer` whose checkpoints get a manifest once every process has written its part.

    Older checkpoints are deleted only then, so that a kill at any moment leaves a whole one.
    """

    def save_more(self, checkpoint: Path) -> None:
        """Writes what else a checkpoint is to hold; called in every process."""

    def _save_checkpoint(self, model, trial) -> None:
        run = Path(self._get_output_dir(trial=trial))
        checkpoint = run / f"checkpoint-{self.state.global_step}"
        if self.args.should_save:  # one that was passed over may lie there
            (checkpoint / MANIFEST).unlink(missing_ok=True)
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self.args.save_total_limit = limit
        self.save_more(checkpoint)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            write_manifest(checkpoint)
            rotate_checkpoints(
                output_dir=str(run),
                save_total_limit=limit,
                best_model_checkpoint=self.state.best_model_checkpoint,
                use_mtime=True,
            )
