"""The card of a LoRA adapter."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from mose.hub.card.metadata import CITATION, TAGS, public_id
from mose.hub.card.summary import escape, recipe_table, training_summary

TEMPLATE = Path(__file__).with_name("adapter.md")


def adapter_base(folder: Path) -> str:
    """Return the Hub id of the model that an adapter belongs to.

    Raises:
        ValueError: the adapter names no base, or a folder that only this machine has.
    """
    base = _read_adapter(folder)["base_model_name_or_path"]
    if public_id(base) is None:
        raise ValueError(
            f"{folder}: base_model_name_or_path must be a Hub id, got {base!r}, which others cannot load. "
            "Publish the base and write its id into adapter_config.json."
        )
    return base


def adapter_card(
    folder: Path,
    *,
    repo_id: str | None = None,
    license: str | None = "apache-2.0",
    summary: Mapping[str, Any] | None = None,
    allow_local_base: bool = False,
) -> str:
    """Return the text of README.md for a folder that holds a LoRA adapter.

    Args:
        folder: the adapter's.
        repo_id: name under which the example loads it; None means the folder's name.
        license: the Hub's identifier of the weights' licence.
        summary: of the training run; None means `training_summary(folder)`.
        allow_local_base: accept a base that is a folder on this machine. The card's front matter omits it.

    Raises:
        ValueError: see `adapter_base`.
    """
    config = _read_adapter(folder)
    base = config["base_model_name_or_path"] if allow_local_base else adapter_base(folder)
    repo_id = repo_id or folder.absolute().name
    # peft stores a list, or a pattern.
    modules = config.get("target_modules") or []
    modules = modules if isinstance(modules, str) else ", ".join(sorted(map(str, modules)))

    data = ModelCardData(
        license=license,
        library_name="peft",
        pipeline_tag="feature-extraction",
        tags=[*TAGS, "lora"],
        base_model=public_id(base),
    )

    card = ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        name=repo_id.rpartition("/")[2],
        repo_id=repo_id,
        base=base,
        modules=" ".join(modules.replace("`", "").split()) or "its default modules",
        rank=escape(config.get("r", "not given")),
        exits_trained=bool(config.get("modules_to_save")),
        recipe_table=recipe_table(training_summary(folder) if summary is None else summary),
        citation=CITATION,
    )
    return card.content


def _read_adapter(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        config["base_model_name_or_path"]  # must be there
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder}: adapter_config.json names no base model") from error
    return config
