"""A model's folder as a checkpoint: its configuration, and whether its weights are all there."""

import re
from pathlib import Path

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from mose import modeling_mose
from mose.configuration_mose import MoSEConfig
from mose.hub.shards import INDEX, TensorSource
from mose.hub.weights import read_weights


def load_config(folder: Path) -> MoSEConfig:
    """The configuration in a model's folder.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is not a MoSE's, or not valid.
    """
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder}: no config.json is there; give the folder of a saved model")
    kind = PreTrainedConfig.get_config_dict(folder)[0].get("model_type")
    if kind != MoSEConfig.model_type:
        raise ValueError(f"{folder}: its model_type is {kind!r}, not {MoSEConfig.model_type!r}")
    return MoSEConfig.from_pretrained(folder)


def model_class(config: MoSEConfig) -> type[PreTrainedModel]:
    """The class that the weights were saved from.

    Raises:
        ValueError: the configuration names none of ours.
    """
    name = (config.architectures or ["MoSEModel"])[0]
    allowed = [name for name in modeling_mose.__all__ if name != "MoSEPreTrainedModel"]
    if name not in allowed:
        raise ValueError(f"architectures={config.architectures}: allowed are {', '.join(allowed)}")
    return getattr(modeling_mose, name)


def whole_checkpoint(folder: Path, config: MoSEConfig, index: str = INDEX) -> dict[str, TensorSource]:
    """The tensors that a model of this configuration needs, yet to be read; deeper ones are left out.

    Raises:
        FileNotFoundError: as in `read_weights`.
        ValueError: as there; or a tensor is missing, is of another shape, or belongs nowhere.
    """
    stored = read_weights(folder, index)
    cls = model_class(config)
    with torch.device("meta"):
        model = cls(config)
    needed = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    tied = set(model.all_tied_weights_keys)
    deeper = model._keys_to_ignore_on_load_unexpected or ()
    if missing := sorted(needed.keys() - tied - stored.keys()):
        raise ValueError(f"{folder}: {len(missing)} tensors of {cls.__name__} are missing, {missing[0]} first")
    strange = [n for n in sorted(stored.keys() - needed.keys()) if not any(re.search(p, n) for p in deeper)]
    if strange:
        raise ValueError(f"{folder}: {len(strange)} tensors belong nowhere in {cls.__name__}, {strange[0]} first")
    for name in sorted(needed.keys() & stored.keys()):
        if stored[name].shape != needed[name]:
            raise ValueError(
                f"{folder}: {name} has shape {stored[name].shape}; the configuration asks for {needed[name]}"
            )
    return {name: stored[name] for name in needed if name in stored and name not in tied}
