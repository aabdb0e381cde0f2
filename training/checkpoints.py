"""Finding the checkpoint to go on from."""

from pathlib import Path


def last_whole_checkpoint(output_dir: Path) -> Path | None:
    """The newest checkpoint that was written to its end (its `trainer_state.json` is written last)."""
    whole = [path.parent for path in output_dir.glob("checkpoint-*/trainer_state.json")]
    return max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default=None)
