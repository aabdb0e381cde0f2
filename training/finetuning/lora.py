"""Low-rank adapters (LoRA, arXiv 2106.09685) on the trunk, by peft; exits and similarity scale trained in full.

An adapter folder holds `adapter_config.json` and `adapter_model.safetensors` as peft writes them, so that
`AutoModel.from_pretrained(folder)` and `PeftModel.from_pretrained(base, folder)` load it. Beyond peft's, the
weights hold `similarity_scale`, a bare parameter that peft has no entry for but loads by its name; and the file's
metadata hold digests of the base's weights, by which a wrong base is told, and what training made of the space
of the embeddings (`SPACE`), which a model of its own would have in its configuration.
"""

import hashlib
import json
import re
import shutil
import warnings
from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub import ModelCard, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from peft import LoraConfig, PeftConfig, PeftModel, PeftModelForFeatureExtraction
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerBase

from mose.hub.files import write_sentence_transformers_files
from mose.modeling_mose import MoSEModel

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
_SCALE = "base_model.model.similarity_scale"
_DIGESTS, _SPACE = "base_digests", "space"
#: Fields of the configuration that fine-tuning sets.
SPACE = ("aligned_exits", "matryoshka_dims")


class LoRAModel(PeftModelForFeatureExtraction):
    """A `MoSEModel` with one adapter, which saves itself as the module's docstring says.

    Args:
        model: The base; it is changed in place.
        config: From `lora_config`, with the base's name.
    """

    def __init__(self, model: MoSEModel, config: LoraConfig):
        base_digests = digests(model)  # before the adapter is put into it
        with warnings.catch_warnings(action="ignore", category=FutureWarning):  # peft's, of transformers' names
            super().__init__(model, config)
        self.base_digests = base_digests
        model.similarity_scale.requires_grad_(True)

    def save_pretrained(self, save_directory: str, **kwargs) -> None:  # type: ignore[override]
        """Saves adapter, exits and scale; arguments as in peft."""
        # The embedding has an adapter; without being told, peft would save the whole embedding beside it.
        super().save_pretrained(save_directory, **{**kwargs, "save_embedding_layers": False})
        if not kwargs.get("is_main_process", True):
            return
        path = Path(save_directory) / WEIGHTS_FILE
        model = cast(MoSEModel, self.get_base_model())
        scale = model.similarity_scale.detach().cpu().clone()
        unfinished = path.with_suffix(".unfinished")
        space = {name: getattr(model.config, name) for name in SPACE}
        metadata = {"format": "pt", _DIGESTS: json.dumps(self.base_digests), _SPACE: json.dumps(space)}
        save_file({**load_file(path), _SCALE: scale}, unfinished, metadata=metadata)
        unfinished.replace(path)
        write_card(Path(save_directory), str(self.active_peft_config.base_model_name_or_path), merged=False)


def lora_config(model: MoSEModel, base: str, r: int = 16, alpha: int = 32, dropout: float = 0.0) -> LoraConfig:
    """Adapters on the token embeddings and on all linear layers of the blocks; the exits in full.

    The embeddings are adapted because exit 0 runs no block and would have no adapter.

    Args:
        model: The base, as deep as it is to be trained.
        base: Its folder or Hub id; a folder is written down as an absolute path.
        r: Rank of the update, at least 1.
        alpha: The update is scaled by alpha / r.
        dropout: Of the adapters' input.
    """
    blocks = "|".join(str(block) for block in range(model.exit_layers[-1]))
    linears = rf"layers\.(?:{blocks})\.(?:self_attn\.[qkvo]_proj|mlp\.c_(?:fc|proj))"
    return LoraConfig(
        task_type="FEATURE_EXTRACTION",
        base_model_name_or_path=str(Path(base).resolve()) if Path(base).is_dir() else base,
        r=r,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=f"embed_tokens|{linears}" if blocks else "embed_tokens",
        # Not the exits as wholes: peft's wrapper hides the parts that the trunk calls one by one.
        modules_to_save=[
            f"exits.{e}.{part}"
            for e in model.exit_layers
            for part, module in model.exits[str(e)].named_children()
            if any(True for _ in module.parameters())
        ],
    )


def digests(model: MoSEModel) -> dict[str, str]:
    """A digest of the embeddings' and of each block's weights, equal for float32 and bfloat16 of the same."""
    parts = {"embed_tokens": model.embed_tokens, **{f"layers.{i}": b for i, b in enumerate(model.layers)}}
    found = {}
    for part, module in parts.items():
        digest = hashlib.sha256()
        for name, tensor in sorted(module.state_dict().items()):
            digest.update(f"{name} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().to("cpu", torch.bfloat16).contiguous().view(torch.int16).numpy())
        found[part] = digest.hexdigest()[:32]
    return found


def is_adapter(folder: str | Path) -> bool:
    """Whether a folder holds a peft adapter."""
    return (Path(folder) / CONFIG_FILE).is_file()


def adapter_base(folder: str | Path) -> str:
    """The base that an adapter names.

    Raises:
        ValueError: `folder` holds no adapter.
    """
    if not is_adapter(folder):
        raise ValueError(f"{folder} holds no LoRA adapter ({CONFIG_FILE})")
    return str(PeftConfig.from_pretrained(str(folder)).base_model_name_or_path)


def check_base(folder: str | Path, found: dict[str, str], base: str) -> None:
    """Compares a base with the one that an adapter was trained on.

    Args:
        folder: The adapter's.
        found: `digests` of the base at hand, which may be less deep.
        base: What it is called.

    Raises:
        ValueError: It is another; the message names both. Or the adapter was not written by `LoRAModel`.
    """
    trained_on = adapter_base(folder)
    expected = _written(folder, _DIGESTS)
    if expected is None:
        raise ValueError(f"adapter {folder}: it does not say which weights it was trained on")
    if different := [part for part in found if part in expected and expected[part] != found[part]]:
        raise ValueError(
            f"adapter {folder} was trained on {trained_on}; the weights of {base} are others "
            f"({different[0]} first), so the adapter does not fit them"
        )


def _written(folder: str | Path, name: str) -> Any:
    """What `LoRAModel` wrote beside an adapter's weights under a name; None where it did not write them."""
    with safe_open(Path(folder) / WEIGHTS_FILE, "pt") as file:
        return json.loads((file.metadata() or {}).get(name, "null"))


def load_adapter(folder: str | Path, base: str | None = None, exit_layer: int | None = None) -> PeftModel:
    """An adapter on its base, in float32, for inference or merging; the base is checked to be the right one.

    Args:
        folder: The adapter's.
        base: Where the base is now, a folder or Hub id; None: where the adapter says.
        exit_layer: One of the exits that the adapter has; None: the deepest of them.

    Raises:
        ValueError: no adapter, another base, or no such exit.
        OSError: the base cannot be found or reached.
    """
    trained_on = adapter_base(folder)
    config = PeftConfig.from_pretrained(str(folder))
    exits = sorted(
        {int(match[1]) for name in config.modules_to_save or () if (match := re.match(r"exits\.(\d+)", name))}
    )
    if not exits:
        raise ValueError(f"adapter {folder} has no exits: `train_hf.py finetune --lora` did not make it")
    if exit_layer is not None and exit_layer not in exits:
        raise ValueError(f"exit_layer={exit_layer}: adapter {folder} has exits {', '.join(map(str, exits))}")
    deepest = exits[-1] if exit_layer is None else exit_layer
    name = base or trained_on
    try:
        model = MoSEModel.from_pretrained(name, dtype="float32", exit_layer=deepest)
    except OSError as error:
        raise OSError(f"the base {name} of adapter {folder}: {error}") from error
    check_base(folder, digests(model), name)
    space = _written(folder, _SPACE) or {}
    for field in space.keys() & set(SPACE):
        setattr(model.config, field, space[field])
    with warnings.catch_warnings(action="ignore", category=FutureWarning):  # as above
        return PeftModel.from_pretrained(model, str(folder))


def save_merged(model: Any, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Folds the adapter into the base and saves a plain MoSE repository; what was in `folder` is replaced.

    Args:
        model: A `PeftModel`; its layers are merged in place.
        tokenizer: Saved beside the weights.
        folder: Written under another name first, so that a failure leaves what was there.
    """
    base = str(model.active_peft_config.base_model_name_or_path)
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    with warnings.catch_warnings(action="ignore"):  # of tied embeddings: `MoSEModel` ties none
        merged = model.merge_and_unload()
    merged.save_pretrained(unfinished)
    tokenizer.save_pretrained(unfinished)
    write_sentence_transformers_files(unfinished)
    write_card(unfinished, base, merged=True)
    if folder.exists():
        shutil.rmtree(folder)
    unfinished.rename(folder)


def write_card(folder: Path, base: str, merged: bool) -> None:
    """A model card that says what was adapted and what was trained in full."""
    try:
        validate_repo_id(base)
        name = base if "/" in base and not Path(base).exists() else None
    except HFValidationError:
        name = None
    data = ModelCardData(
        base_model=name,
        library_name="transformers" if merged else "peft",
        pipeline_tag="feature-extraction",
        tags=["code", "code-retrieval", "embeddings", "lora", "mose"],
    )
    kind = "A MoSE with a LoRA adapter merged into it" if merged else "A LoRA adapter for a MoSE"
    load = 'AutoModel.from_pretrained("FOLDER_OR_HUB_ID", trust_remote_code=True, exit_layer=…)'
    load += "" if merged else "  # reads the base, too; needs peft"
    ModelCard(
        f"---\n{data.to_yaml()}\n---\n# {kind}\n\n"
        f"Base: `{base}`. Low-rank updates (LoRA, arXiv 2106.09685) of the token embeddings and of the blocks' "
        "linear layers; the exits (norm, gate, projection) and the similarity scale were trained in full.\n\n"
        f"```python\nfrom transformers import AutoModel\n\nmodel = {load}\n```\n"
    ).save(folder / "README.md")
