"""The training run behind a folder's weights, as its card describes it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

#: File that a finished training run leaves beside its weights.
SUMMARY = "training_summary.json"
_TRAINER_STATE = "trainer_state.json"


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
    entries = state.get("log_history", [])
    return {
        "steps": state.get("global_step"),
        "epochs": state.get("epoch"),
        "arguments": {"per_device_train_batch_size": state.get("train_batch_size")},
        "losses": {name: value for entry in entries for name, value in entry.items() if "loss" in name},
    }


def recipe_table(summary: Mapping[str, Any]) -> str:
    """Return a summary as a markdown table without empty values; "" if nothing is left."""
    rows = {name: summary.get(name) for name in ("task", "examples", "steps", "epochs", "seconds", "device")}
    rows |= summary.get("arguments", {})
    rows |= {f"last {name}": value for name, value in summary.get("losses", {}).items()}

    known = {name: value for name, value in rows.items() if value not in (None, "", [], {})}
    if not known:
        return ""
    lines = [f"| {name.replace('_', ' ')} | {_table_cell(value)} |" for name, value in known.items()]
    return "\n".join(["| | |", "|---|---:|", *lines])


def _read_object(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _table_cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if type(value) is int else str(value).replace("|", "\\|")
