"""Model and adapter cards: the one place that writes README.md for a folder of weights."""

from pathlib import Path
from typing import Any

from mose.hub.card.adapter import adapter_base, adapter_card
from mose.hub.card.metadata import validate_card
from mose.hub.card.model import Origin, merged_origin, model_card
from mose.hub.card.summary import SUMMARY, training_summary
from mose.utils.files import atomic_write_text

__all__ = ["SUMMARY", "Origin", "adapter_base", "adapter_card", "folder_card", "merged_origin", "model_card"]
__all__ += ["training_summary", "validate_card", "write_folder_card"]


def folder_card(folder: Path, **options: Any) -> str:
    """Return the card of a folder: an adapter's if `adapter_config.json` is there, else a model's.

    Options and errors are those of `model_card`. An adapter has no use for `language`, `report` and `origin`.
    """
    if not (folder / "adapter_config.json").is_file():
        return model_card(folder, **options)

    unused = ("language", "report", "origin")
    return adapter_card(folder, **{name: value for name, value in options.items() if name not in unused})


def write_folder_card(folder: Path, **options: Any) -> str:
    """Write `folder_card(folder, **options)` to its README.md, and return the text.

    Here, an adapter's base may still be a folder on this machine.
    """
    if (folder / "adapter_config.json").is_file():
        options["allow_local_base"] = True

    text = folder_card(folder, **options)
    atomic_write_text(folder / "README.md", text)
    return text
