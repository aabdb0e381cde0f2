"""The training run behind a folder's weights, as its card describes it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

#: File that a finished training run leaves beside its weights.
SUMMARY = "training_summary.json"
_TRAINER_STATE = "trainer_state.json"
#: Characters of a field that a card shows.
LONGEST_FIELD = 200


def training_summary(folder: Path) -> dict[str, Any]:
    """Return the summary of the run that made a folder's weights.

    Reads `training_summary.json`, or else the `trainer_state.json` of transformers' Trainer.

    Returns:
        Keys such as "task", "base_model", "datasets", "steps", "arguments" and "losses". Empty if the folder
        holds neither file.
    """
    summary = _read_object(folder / SUMMARY)
    if summary is not None:
        return summary

    state = _read_object(folder / _TRAINER_STATE)
    if state is None:
        return {}

    # Later entries of the log override earlier ones, so that the last losses remain.
    history = state.get("log_history", [])
    entries = [entry for entry in history if isinstance(entry, dict)] if isinstance(history, list) else []
    return {
        "steps": state.get("global_step"),
        "epochs": state.get("epoch"),
        "arguments": {"per_device_train_batch_size": state.get("train_batch_size")},
        "losses": {name: value for entry in entries for name, value in entry.items() if "loss" in name},
    }


def recipe_table(summary: Mapping[str, Any]) -> str:
    """Return a summary as a markdown table without empty values; "" if nothing is left."""
    rows = {name: summary.get(name) for name in ("task", "examples", "steps", "epochs", "seconds", "device")}
    arguments, losses = summary.get("arguments"), summary.get("losses")
    rows |= arguments if isinstance(arguments, dict) else {}
    rows |= {f"last {name}": value for name, value in losses.items()} if isinstance(losses, dict) else {}

    known = {name: value for name, value in rows.items() if value not in (None, "", [], {})}
    if not known:
        return ""
    lines = [f"| {escape(name.replace('_', ' '))} | {_table_cell(value)} |" for name, value in known.items()]
    return "\n".join(["| | |", "|---|---:|", *lines])


def escape(text: Any) -> str:
    """Return a text as one line that markdown shows as it is: no markup, no HTML, no cells of a table."""
    line = " ".join(str(text).split())
    entities = "".join(f"&#{ord(c)};" if c in "<>&|`*[]()!#~\\" else c for c in line if c.isprintable())
    # What a field of a run holds is short.
    return entities if len(line) <= LONGEST_FIELD else f"{escape(line[:LONGEST_FIELD])}…"


def _read_object(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def _table_cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if type(value) is int else escape(value)
