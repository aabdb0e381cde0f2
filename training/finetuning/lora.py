"""Low-rank adapters (LoRA, arXiv 2106.09685) on the trunk, with peft; exits and similarity scale trained in full.

An adapter folder has `adapter_config.json` and `adapter_model.safetensors` as peft writes them, so that
`AutoModel.from_pretrained(folder)` and `PeftModel.from_pretrained(base, folder)` load it. Its weights also hold
`similarity_scale`, a bare parameter that peft loads by its name. Their metadata holds digests of the base weights
(to detect another base) and the fields of the configuration that training sets (`SPACE_FIELDS`).
"""

import hashlib
import json
import logging
import re
import shutil
import warnings
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, PeftConfig, PeftModel, PeftModelForFeatureExtraction
from safetensors import safe_open
from safetensors.torch import load_file, save
from transformers import PreTrainedTokenizerBase

from mose.hub.card import merged_origin, write_folder_card
from mose.hub.files import write_sentence_transformers_files
from mose.modeling_mose import MoSEModel
from mose.training.finetuning.arguments import MergeArguments
from mose.training.setup import load_tokenizer, recorded_base
from mose.utils.files import PARTIAL_SUFFIX, atomic_write, check_new_folder

logger = logging.getLogger("mose.train")

WEIGHTS_FILE = "adapter_model.safetensors"
SCALE_WEIGHT = "base_model.model.similarity_scale"
#: Keys of the weights' metadata.
DIGESTS, SPACE = "base_digests", "space"
#: Fields of the configuration that fine-tuning sets.
SPACE_FIELDS = ("aligned_exits", "matryoshka_dims")


class LoRAModel(PeftModelForFeatureExtraction):
    """A `MoSEModel`, changed in place, with one adapter, saved as the module's docstring describes."""

    def __init__(self, model: MoSEModel, config: LoraConfig):
        base_digests = digests(model)  # before the adapter is put into it
        # peft warns about transformers' own names.
        with warnings.catch_warnings(action="ignore", category=FutureWarning):
            super().__init__(model, config)

        self.base_digests = base_digests
        model.similarity_scale.requires_grad_(True)

    def save_pretrained(self, save_directory: str, **kwargs) -> None:  # type: ignore[override]
        """Save adapter, exits and scale; arguments as in peft."""
        # By default peft saves the whole embedding beside its adapter.
        super().save_pretrained(save_directory, **{**kwargs, "save_embedding_layers": False})
        if not kwargs.get("is_main_process", True):
            return

        path = Path(save_directory) / WEIGHTS_FILE
        model = cast(MoSEModel, self.get_base_model())
        space = {name: getattr(model.config, name) for name in SPACE_FIELDS}
        metadata = {"format": "pt", DIGESTS: json.dumps(self.base_digests), SPACE: json.dumps(space)}
        weights = load_file(path) | {SCALE_WEIGHT: model.similarity_scale.detach().cpu().clone()}
        with atomic_write(path) as stream:
            stream.write(save(weights, metadata=metadata))

        write_folder_card(path.parent, license=None)


def lora_config(model: MoSEModel, base: str, r: int = 16, alpha: int = 32, dropout: float = 0.0) -> LoraConfig:
    """Return the configuration of adapters on token embeddings and blocks, with the exits trained in full.

    The embeddings are adapted because exit 0 runs no block and would have no adapter.

    `base` is the model's folder (recorded as an absolute path) or Hub id. Updates have rank `r` and are scaled by
    `alpha` / `r`; `dropout` applies to the adapters' input.
    """
    blocks = "|".join(str(block) for block in range(model.exit_layers[-1]))
    linears = rf"layers\.(?:{blocks})\.(?:self_attn\.[qkvo]_proj|mlp\.c_(?:fc|proj))"

    # Parts of exits, not whole exits: peft's wrapper hides the parts that the trunk calls one by one.
    modules_to_save = [
        f"exits.{e}.{part}"
        for e in model.exit_layers
        for part, module in model.exits[str(e)].named_children()
        if any(True for _ in module.parameters())
    ]
    return LoraConfig(
        task_type="FEATURE_EXTRACTION",
        base_model_name_or_path=str(Path(base).resolve()) if Path(base).is_dir() else base,
        r=r,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=f"embed_tokens|{linears}" if blocks else "embed_tokens",
        modules_to_save=modules_to_save,
    )


def digests(model: MoSEModel) -> dict[str, str]:
    """Return a digest of the embeddings and of each block's weights; float32 and bfloat16 weights agree."""
    parts = {"embed_tokens": model.embed_tokens, **{f"layers.{i}": b for i, b in enumerate(model.layers)}}
    result = {}
    for part, module in parts.items():
        digest = hashlib.sha256()
        for name, tensor in sorted(module.state_dict().items()):
            digest.update(f"{name} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().to("cpu", torch.bfloat16).contiguous().view(torch.int16).numpy())
        result[part] = digest.hexdigest()[:32]
    return result


def check_base(folder: str | Path, base_digests: dict[str, str], base: str) -> None:
    """Check that an adapter was trained on a base, from the base's `digests`; it may have fewer blocks.

    Raises:
        ValueError: the adapter was trained on other weights, or does not record on which.
    """
    expected = _read_metadata(folder, DIGESTS)
    if expected is None:
        raise ValueError(f"adapter {folder} does not record its base weights. Train it with finetune --lora.")

    different = [part for part, digest in base_digests.items() if expected.get(part, digest) != digest]
    if different:
        raise ValueError(
            f"adapter {folder} was trained on {recorded_base(folder)}; the weights of {base} are others "
            f"({different[0]} first). Pass the base that it was trained on."
        )


def _read_metadata(folder: str | Path, key: str) -> Any:
    """Return an entry of the adapter weights' metadata, or None."""
    with safe_open(Path(folder) / WEIGHTS_FILE, "pt") as file:
        return json.loads((file.metadata() or {}).get(key, "null"))


def load_adapter(folder: str | Path, base: str | None = None, exit_layer: int | None = None) -> PeftModel:
    """Load an adapter on its base, in float32, for inference or merging.

    Without `base` it is the one that the adapter names, and without `exit_layer` the adapter's deepest.

    Raises:
        ValueError: no adapter, another base, or no such exit.
        OSError: the base is missing or cannot be reached.
    """
    recorded = recorded_base(folder)
    config = PeftConfig.from_pretrained(str(folder))
    matches = [re.match(r"exits\.(\d+)", name) for name in config.modules_to_save or ()]
    exits = sorted({int(match[1]) for match in matches if match})
    if not exits:
        raise ValueError(f"adapter {folder} has no exits. Train it with `train_hf.py finetune --lora`.")
    if exit_layer is not None and exit_layer not in exits:
        known = ", ".join(map(str, exits))
        raise ValueError(f"exit_layer must be one of {known} for adapter {folder}, got {exit_layer}.")

    name, depth = base or recorded, exits[-1] if exit_layer is None else exit_layer
    try:
        model = MoSEModel.from_pretrained(name, dtype="float32", exit_layer=depth)
    except OSError as error:
        raise OSError(f"the base {name} of adapter {folder}: {error}") from error
    check_base(folder, digests(model), name)

    space = _read_metadata(folder, SPACE) or {}
    model.describe_space(**{field: value for field, value in space.items() if field in SPACE_FIELDS})
    with warnings.catch_warnings(action="ignore", category=FutureWarning):  # as in LoRAModel
        return PeftModel.from_pretrained(model, str(folder))


def save_merged(model: Any, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Merge the adapter into the base and save a plain MoSE repository, replacing `folder`.

    The layers of `model`, a `PeftModel`, are merged in place. A failure leaves the old content of `folder`.
    """
    base = str(model.active_peft_config.base_model_name_or_path)
    with warnings.catch_warnings(action="ignore"):  # peft warns about tied embeddings, MoSEModel has none
        merged = model.merge_and_unload()

    # Not `atomic_folder`, which refuses to replace what an earlier run left.
    partial = folder.with_name(folder.name + PARTIAL_SUFFIX)
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        merged.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        write_sentence_transformers_files(partial)
        write_folder_card(partial, license=None, origin=merged_origin(base))

        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    finally:
        # On a full disk, half of a model must not stay in the way.
        shutil.rmtree(partial, ignore_errors=True)


def merge(args: MergeArguments) -> None:
    """Save the base with its adapter merged into it as a plain MoSE repository.

    Raises what `load_adapter` does, and ValueError if the output folder is in use.
    """
    folder = Path(args.output_dir)
    try:
        check_new_folder(folder)
    except FileExistsError as error:
        raise ValueError(f"--output-dir {error}") from error

    model = load_adapter(args.adapter, args.model, args.exit_layer)
    save_merged(model, load_tokenizer(args.adapter), folder)
    logger.info("merged model in %s", folder)
