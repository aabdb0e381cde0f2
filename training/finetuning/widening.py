"""Wider models from trained ones, so that what these know need not be learned again.

After Net2Net (Chen et al., 2016) and bert2BERT (Chen et al., 2022): the wider model starts with the function of
the narrow one. Here new dimensions are not copies of old ones. They hold what the teachers know of a token beside
what its embedding says already, and nothing reads them yet.
"""

import re
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from mose.configuration_mose import MoSEConfig
from mose.modeling_mose import MoSEModel
from mose.training.finetuning.initialization import ordinary_tokens, whitened_components

#: Size of the projections' new rows, as a share of the initial one: they change similarities little.
NEW_ROWS = 0.3
#: Layers that write to the residual stream, whose states every reader norms first.
WRITERS = ("o_proj", "c_proj")
#: Sizes that grow in proportion to the width.
SIZES = ("num_attention_heads", "num_key_value_heads", "intermediate_size")


def wider_config(config: MoSEConfig, hidden_size: int) -> MoSEConfig:
    """Return the configuration with more attention heads of the same size, and an MLP of the same proportion.

    Raises:
        ValueError: not wider, or no whole number of the groups that share a key and value head.
    """
    group = config.hidden_size // config.num_key_value_heads
    if hidden_size <= config.hidden_size or hidden_size % group:
        wanted = f"a multiple of {group}, the size of a group of attention heads, above {config.hidden_size}"
        raise ValueError(f"hidden_size must be {wanted}, got {hidden_size}.")

    wide = config.to_dict()
    for name in SIZES:
        wide[name] = wide[name] * hidden_size // config.hidden_size
    # Cut to the old size, embeddings are the old ones.
    if wide["matryoshka_dims"]:
        wide["matryoshka_dims"] = sorted({config.hidden_size, *wide["matryoshka_dims"]}, reverse=True)
    return MoSEConfig.from_dict(wide | {"hidden_size": hidden_size})


@torch.no_grad()
def widen_model(
    model: MoSEModel, hidden_size: int, tokenizer: PreTrainedTokenizerBase, teacher_vectors: np.ndarray
) -> MoSEModel:
    """Return a model of `hidden_size` whose embeddings begin with those of `model`.

    At exit 0 the first dimensions are exactly `model`'s up to a factor. At deeper exits they nearly are: new
    dimensions count in the layer norms. The other dimensions are small random projections. New heads and neurons
    add nothing yet. A token's new dimensions are the principal components of what `teacher_vectors` (tokens,
    teacher dim), the teachers' embeddings of `token_strings(tokenizer)`, hold beside its embedding.

    Raises:
        ValueError: as `wider_config` and `ordinary_tokens`, exits without a norm (`exit_norm="final"`), or
            vectors that do not span the new dimensions.
    """
    if model.config.exit_norm != "every":
        raise ValueError(f"exit_norm must be 'every' to widen a model, got {model.config.exit_norm!r}.")
    config = wider_config(model.config, hidden_size)
    wide = MoSEModel(config)
    state = wide.state_dict()

    first_exit = f"exits.{config.exit_layers[0]}."
    for name, old in model.state_dict().items():
        if name != "embed_tokens.weight":
            # Exits share one space, so the new rows of their projections are the same.
            new = state[re.sub(r"^exits\.\d+\.", first_exit, name)] if "projection" in name else state[name]
            state[name] = _widen_tensor(name, old.cpu(), new.clone())
    state["embed_tokens.weight"] = _widen_embeddings(model, hidden_size, tokenizer, teacher_vectors)

    wide.load_state_dict(state)
    wide.set_attn_implementation(model.config._attn_implementation)
    cast(nn.Module, wide).to(model.device, model.dtype)
    return wide.train(model.training)


def _widen_tensor(name: str, old: Tensor, new: Tensor) -> Tensor:
    """Return `new` with `old` in its first rows and columns, centred if the layer is one of `WRITERS`.

    The columns beside are 0. The rows below are as initialised, smaller in projections, and 0 in `WRITERS`.
    """
    writes = any(f".{layer}." in name for layer in WRITERS)
    if writes:
        # Layer norms take the mean off. Without it, new dimensions do not shift the old ones.
        old = old - old.mean(dim=0, keepdim=True)
    if old.dim() < 2:
        new[: len(old)] = old
        return new

    rows, columns = old.shape
    if writes:
        new[rows:] = 0
    elif "projection" in name:
        new[rows:] *= NEW_ROWS
    new[:rows, columns:] = 0
    new[:rows, :columns] = old
    return new


def _widen_embeddings(
    model: MoSEModel, size: int, tokenizer: PreTrainedTokenizerBase, teacher_vectors: np.ndarray
) -> Tensor:
    """Return token embeddings (vocabulary, size). The old and new part of a row have mean 0 and one variance."""
    old = cast(nn.Embedding, model.embed_tokens).weight.cpu().double()
    vectors = torch.from_numpy(teacher_vectors.astype(np.float64))
    ordinary = ordinary_tokens(model, tokenizer, teacher_vectors)

    # What a linear map of the embeddings does not tell of the vectors.
    inputs, targets = old[ordinary], vectors[ordinary]
    inputs, targets = inputs - inputs.mean(dim=0), targets - targets.mean(dim=0)
    residual = targets - inputs @ torch.linalg.lstsq(inputs, targets).solution

    new = torch.randn(len(old), size - old.shape[1], dtype=old.dtype)
    new[ordinary] = whitened_components(residual, new.shape[1])

    old, new = (part - part.mean(dim=1, keepdim=True) for part in (old, new))
    scale = old.std(dim=1, correction=0) / new.std(dim=1, correction=0).clamp(min=1e-12)
    return torch.cat((old, new * scale[:, None]), dim=1).float()
