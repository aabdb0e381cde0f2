"""Loading a MoSE and its tokenizer from a folder or the Hub, only as deep as the requested exits need."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from transformers import AutoConfig, AutoTokenizer

from mose import modeling_mose
from mose.configuration_mose import MoSEConfig
from mose.utils.locations import is_hub_id


def load_model(
    source: str,
    exit_layers: Sequence[int] | None = None,
    device: str | None = None,
    trust_remote_code: bool = False,
) -> tuple[Any, Any, tuple[int, ...]]:
    """Return a MoSE in float32 and evaluation mode, its tokenizer, and the requested exits.

    Blocks beyond the deepest requested exit are neither downloaded nor built.

    Args:
        source: folder or Hub id.
        exit_layers: exits to use; None means all.
        device: device of the model; None means a GPU if there is one.
        trust_remote_code: run the code stored beside the weights. If False, use the installed `mose`.

    Raises:
        ValueError: `source` is not a MoSE or lacks an exit. Raised before any weights are read.
        OSError: there is no model at `source`.
    """
    config = load_mose_config(source, trust_remote_code)
    exits = resolve_exit_layers(config, exit_layers)

    try:
        model = load_class(source, "", trust_remote_code, exit_layer=exits[-1], dtype=torch.float32)
    except SafetensorError as error:
        raise ValueError(f"{source}: the weights are damaged: {error}. Restore them.") from error
    try:
        # Not None, with which transformers asks on stdin.
        tokenizer = AutoTokenizer.from_pretrained(source, config=config, trust_remote_code=trust_remote_code)
    except (OSError, ImportError):
        raise
    except Exception as error:  # the readers of tokenizers raise many types
        raise ValueError(f"{source}: the tokenizer does not load: {error}. Restore its files.") from error
    return model.to(device or default_device()).eval(), tokenizer, exits


def load_class(source: str, head: str, trust_remote_code: bool, **options: Any) -> Any:
    """Return what `from_pretrained` returns for a head, of the installed class or of the one beside the weights.

    Args:
        source: folder or Hub id.
        head: "" for the encoder, or the end of a class's name, such as "ForSequenceClassification".
        trust_remote_code: whether to run the code beside the weights.
        options: further arguments of `from_pretrained`.
    """
    if trust_remote_code:
        auto_class = getattr(transformers, f"AutoModel{head}")
        return auto_class.from_pretrained(source, trust_remote_code=True, **options)
    return getattr(modeling_mose, f"MoSE{head or 'Model'}").from_pretrained(source, **options)


def load_mose_config(source: str, trust_remote_code: bool = False) -> Any:
    """Return the configuration of the MoSE at `source`, a folder or Hub id.

    Raises:
        ValueError: `source` is another kind of model.
        OSError: there is no configuration at `source`.
    """
    # transformers would ask the Hub for a mistyped folder. Callers add the name of `source` to the message.
    if not Path(source).is_dir() and not is_hub_id(source):
        raise FileNotFoundError("no such folder, and not a Hub id (owner/name)")

    if trust_remote_code:
        config = AutoConfig.from_pretrained(source, trust_remote_code=True)
        model_type = config.model_type
    else:
        # The installed class would read any configuration.
        try:
            model_type = MoSEConfig.get_config_dict(source)[0].get("model_type", "")
        except (AttributeError, TypeError, RecursionError) as error:
            raise ValueError(f"{source}: config.json must hold a JSON object. Restore it.") from error
        config = MoSEConfig.from_pretrained(source)
    if model_type != MoSEConfig.model_type and not (trust_remote_code and getattr(config, "exit_layers", None)):
        message = f"a {model_type!r} model has no exits"
        raise ValueError(f"{message}. Pass a MoSE, or use this model as a baseline (--peers).")
    return config


def resolve_exit_layers(config: Any, exit_layers: Sequence[int] | None) -> tuple[int, ...]:
    """Return the requested exits in ascending order without duplicates; None means all that are built.

    Raises:
        ValueError: `exit_layers` is empty or names an exit that is not built.
    """
    if exit_layers is None:
        return config.built_exit_layers
    if not len(exit_layers):
        raise ValueError("exit_layers is empty. Name at least one exit, or pass None for all.")
    return tuple(sorted({config.resolve_exit_layer(exit_layer) for exit_layer in exit_layers}))


def default_device() -> str:
    """Return "cuda" if a GPU is available, else "cpu"."""
    return "cuda" if torch.cuda.is_available() else "cpu"
