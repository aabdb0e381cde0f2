"""Finding the checkpoint to go on from."""

import json
import re
from pathlib import Path


def last_whole_checkpoint(output_dir: Path) -> Path | None:
    """The newest checkpoint in a run's folder that was written to its end; None where there is none."""
    numbered = [path for path in output_dir.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    numbered.sort(key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)
    return next(filter(_is_whole, numbered), None)


def _is_whole(checkpoint: Path) -> bool:
    try:  # `Trainer` writes the state last, but not in one go
        json.loads((checkpoint / "trainer_state.json").read_text())
    except (OSError, ValueError):
        return False
    return True
