"""A model's folder as a checkpoint: its configuration, and its weights checked against it."""

import json
import re
from pathlib import Path

import torch
from transformers import PreTrainedModel

from mose import modeling_mose
from mose.configuration_mose import MoSEConfig
from mose.hub.shards import INDEX, TensorSource
from mose.hub.weights import read_weights


def read_config(folder: Path) -> MoSEConfig:
    """Load the configuration of a model's folder.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it belongs to another kind of model, or is not valid.
    """
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder}: no config.json. Pass the folder of a saved model.")

    try:
        content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{folder / 'config.json'} is damaged: {error}. Restore it.") from error

    if not isinstance(content, dict):
        raise ValueError(
            f"{folder / 'config.json'} must be a JSON object, got {type(content).__name__}. Restore it."
        )

    model_type = content.get("model_type")
    if model_type != MoSEConfig.model_type:
        raise ValueError(f"{folder}: model_type must be {MoSEConfig.model_type!r}, got {model_type!r}")
    try:
        return MoSEConfig.from_pretrained(folder)
    except (TypeError, AttributeError, KeyError) as error:  # of fields with values of another type
        raise ValueError(f"{folder / 'config.json'} is damaged: {error}. Restore it.") from error


def model_class(config: MoSEConfig) -> type[PreTrainedModel]:
    """Return the class that the weights were saved from.

    Raises:
        ValueError: the configuration names a class that is not ours.
    """
    name = (config.architectures or ["MoSEModel"])[0]
    allowed = [name for name in modeling_mose.__all__ if name != "MoSEPreTrainedModel"]
    if name not in allowed:
        raise ValueError(f"architectures must name one of {', '.join(allowed)}, got {config.architectures}")
    return getattr(modeling_mose, name)


def read_checkpoint(folder: Path, config: MoSEConfig, index: str = INDEX) -> dict[str, TensorSource]:
    """Return the tensors that a model of this configuration needs, without reading them.

    Tensors of exits deeper than `config.exit_layer` are left out. `index`: see `read_weights`.

    Raises:
        FileNotFoundError: see `read_weights`.
        ValueError: see there; or a tensor is missing, has another shape, or has no place in the model.
    """
    stored = read_weights(folder, index)
    cls = model_class(config)
    with torch.device("meta"):  # names and shapes without memory
        model = cls(config)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    tied = set(model.all_tied_weights_keys)
    deeper = model._keys_to_ignore_on_load_unexpected or ()

    # Tied tensors are stored once, under another name.
    if missing := sorted(expected.keys() - tied - stored.keys()):
        raise ValueError(f"{folder}: {len(missing)} tensors of {cls.__name__} are missing, {missing[0]} first")

    unknown = sorted(stored.keys() - expected.keys())
    unknown = [name for name in unknown if not any(re.search(pattern, name) for pattern in deeper)]
    if unknown:
        raise ValueError(f"{folder}: {len(unknown)} tensors have no place in {cls.__name__}, {unknown[0]} first")

    for name in sorted(expected.keys() & stored.keys()):
        if stored[name].shape != expected[name]:
            raise ValueError(f"{folder}: {name} must have shape {expected[name]}, got {stored[name].shape}")

    return {name: stored[name] for name in expected if name in stored and name not in tied}
