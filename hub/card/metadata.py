"""Front matter of a card: what every card of ours holds, and the checks that need no Hub."""

from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCard, metadata_load

from mose.utils.locations import is_hub_id

CITATION = """\
@inproceedings{gurioli2026mose,
  title     = {MoSE: Hierarchical Self-Distillation Enhances Early Layer Embeddings},
  author    = {Gurioli and Pennino and Monteiro and Gabbrielli},
  booktitle = {Proceedings of the AAAI Conference on Artificial Intelligence},
  year      = {2026},
  note      = {arXiv:2503.03008}
}"""
TAGS = ["code", "code-search", "code-retrieval", "embeddings", "early-exit", "self-distillation", "mose"]

#: Fields that the Hub needs to file a repository, and fields that may hold several strings.
_REQUIRED, _LISTS = ("license", "library_name", "pipeline_tag"), ("tags", "language", "datasets")


def validate_card(content: str) -> None:
    """Check a card's front matter as far as possible offline. The Hub checks it again when it is uploaded.

    Raises:
        ValueError: there is no front matter, it is not valid YAML, or a field has a form that the Hub refuses.
    """
    try:
        data = ModelCard(content, ignore_metadata_errors=False).data.to_dict()
    except yaml.YAMLError as error:
        raise ValueError(f"README.md: front matter is not valid YAML: {error}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"README.md: front matter is not valid: {error}") from error

    for name in _REQUIRED:
        if not isinstance(data.get(name), str):
            raise ValueError(f"README.md: {name} must be a string, got {name}={data.get(name)!r}")

    for name in _LISTS:
        values = data.get(name, [])
        if not isinstance(values, str | list) or not all(isinstance(value, str) for value in values):
            raise ValueError(f"README.md: {name} must be a string or a list of strings, got {name}={values!r}")

    for example in data.get("widget") or []:
        if not isinstance(example, dict) or not isinstance(example.get("text"), str):
            raise ValueError(f"README.md: each widget example must have a text, got {example!r}")


def source_metadata(folder: Path) -> dict[str, Any]:
    """Return the front matter of the card in a folder; empty if there is none, or none that can be read."""
    try:
        metadata = metadata_load(folder / "README.md") or {}
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return {name: value for name, value in metadata.items() if value is not None}


def public_id(name: Any) -> str | None:
    """Return `name` if it can be a Hub id; None for a path on this machine or anything else."""
    if not isinstance(name, str) or Path(name).exists():
        return None
    return name if is_hub_id(name) else None
