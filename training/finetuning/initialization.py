"""Initialisation from existing knowledge: token embeddings from a teacher, deep models from shallow ones."""

import copy
from collections.abc import Iterable, Mapping
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from mose.modeling_mose import MoSEBlock, MoSEExit, MoSEModel


@torch.no_grad()
def start_embeddings_from(
    model: MoSEModel, tokenizer: PreTrainedTokenizerBase, teacher_vectors: np.ndarray
) -> None:
    """Set the token embeddings to the whitened principal components of a teacher's vectors, as in Model2Vec.

    Tokens that spell the same, such as `Parse`, ` parse` and `_parse`, start with similar embeddings. Whitening
    removes the direction that all strings share. Rows are scaled to a root mean square of 1, the scale of the
    residual stream.

    Special tokens, and rows of the model beyond the tokenizer's last token, keep their embeddings.
    `teacher_vectors` (tokens, teacher dim) are the teacher's embeddings of `token_strings(tokenizer)`.

    Raises:
        ValueError: not one vector per token, more tokens than the model has embeddings, or vectors that span
            fewer dimensions than the model has.
    """
    weight = cast(nn.Embedding, model.embed_tokens).weight
    ordinary = ordinary_tokens(model, tokenizer, teacher_vectors)

    components = whitened_components(torch.from_numpy(teacher_vectors.astype(np.float64)), weight.shape[1])
    components /= components.square().mean(dim=1, keepdim=True).sqrt().clamp(min=1e-12)
    weight[ordinary] = components[ordinary].to(weight)


def ordinary_tokens(
    model: MoSEModel, tokenizer: PreTrainedTokenizerBase, teacher_vectors: np.ndarray
) -> list[int]:
    """Return the ids of all tokens but special ones.

    Raises:
        ValueError: not one vector per token, or more tokens than the model has embeddings.
    """
    vocabulary, tokens = model.config.vocab_size, len(tokenizer)
    if len(teacher_vectors) != tokens:
        raise ValueError(f"There must be {tokens} teacher vectors, one per token, got {len(teacher_vectors)}.")
    if tokens > vocabulary:
        raise ValueError(f"The tokenizer must have at most vocab_size={vocabulary} tokens, got {tokens}.")
    return sorted(set(range(tokens)) - set(tokenizer.all_special_ids))


def whitened_components(vectors: Tensor, size: int) -> Tensor:
    """Return the first `size` principal components of the rows, at equal variance: (rows, size)."""
    vectors = vectors - vectors.mean(dim=0)
    _, singular, axes = torch.linalg.svd(vectors, full_matrices=False)

    rank = int((singular > 1e-6 * singular[0]).sum())
    if rank < size:
        raise ValueError(f"The teacher's vectors must span at least {size} dimensions, got {rank}.")
    return vectors @ axes[:size].T / singular[:size]


@torch.no_grad()
def fit_projection(
    model: MoSEModel, exit_layer: int, batches: Iterable[tuple[Tensor, Tensor]], targets: Tensor
) -> None:
    """Set an exit's projection to the ridge regression of a teacher's vectors on the pooled states.

    `batches` are (input_ids, attention_mask), (batch, tokens) each. `targets` (texts, hidden) are the teacher's
    vectors of the same texts in the same order.

    Raises:
        ValueError: fewer texts than the projection has rows, or a projection that is not one linear layer.
    """
    projection = cast(MoSEExit, model.exits[str(exit_layer)]).projection
    if not isinstance(projection, nn.Linear):
        raise ValueError(f"projection_layers must be 1 to fit it, got {model.config.projection_layers}.")
    size = projection.in_features
    if len(targets) < size:
        raise ValueError(f"Fitting needs at least hidden_size={size} texts, got {len(targets)}.")

    # Take the projection's input: the model's output is normalised, and the bias depends on the norm.
    pooled: list[Tensor] = []
    with projection.register_forward_pre_hook(lambda _, inputs: pooled.append(inputs[0].double())):
        for input_ids, attention_mask in batches:
            model(input_ids, attention_mask, exit_layer=exit_layer)

    inputs = torch.cat(pooled)
    if projection.bias is not None:
        inputs = torch.cat((inputs, inputs.new_ones(len(inputs), 1)), dim=1)

    # W = (XᵀX + λI)⁻¹ XᵀY
    gram = inputs.T @ inputs
    gram.diagonal().add_(1e-3 * gram.diagonal().mean())
    solution = torch.linalg.solve(gram, inputs.T @ targets.to(inputs))

    projection.weight.copy_(solution[:size].T)
    if projection.bias is not None:
        projection.bias.copy_(solution[size])


def token_strings(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return the string of each token without surrounding spaces and underscores, in order of ids."""
    texts = [str(tokenizer.decode([token])) for token in range(len(tokenizer))]
    return [text.strip(" _\n\t") or text for text in texts]


@torch.no_grad()
def start_from_trunk(model: MoSEModel, weights: Mapping[str, Tensor]) -> None:
    """Set embeddings, blocks and norms to those of a pre-trained model of the same sizes.

    `weights` are its tensors, with or without heads. An exit that it was not pre-trained at takes the norm of the
    next deeper one. Gates, projections and the similarity scale are not pre-trained: the model keeps its own.

    Raises:
        ValueError: a tensor is missing, or has another shape.
    """
    saved = {name.removeprefix("model."): tensor for name, tensor in weights.items()}
    trained = sorted({int(name.split(".")[1]) for name in saved if name.startswith("exits.")})
    state = model.state_dict()

    for name in state:
        if any(part in name for part in ("gate", "projection", "similarity_scale")):
            continue
        source = name
        if name.startswith("exits.") and name not in saved:
            _, exit_layer, rest = name.split(".", 2)
            source = f"exits.{min((e for e in trained if e > int(exit_layer)), default=exit_layer)}.{rest}"
        if source not in saved or saved[source].shape != state[name].shape:
            there = tuple(saved[source].shape) if source in saved else "nothing"
            raise ValueError(f"The trunk must have {source} of {tuple(state[name].shape)}, got {there}.")
        state[name] = saved[source]
    model.load_state_dict(state)


@torch.no_grad()
def start_exits_alike(model: MoSEModel) -> None:
    """Initialise every exit's projection from the deepest exit's; `model` is changed in place.

    Blocks add to one residual stream, so exits with equal projections start near each other. Exits with random
    projections start with nothing in common.
    """
    deepest = cast(MoSEExit, model.exits[str(model.exit_layers[-1])])
    for exit_layer in model.exit_layers[:-1]:
        head = cast(MoSEExit, model.exits[str(exit_layer)])
        head.projection.load_state_dict(deepest.projection.state_dict())


@torch.no_grad()
def grow(model: MoSEModel, exit_layer: int) -> MoSEModel:
    """Return a model of `exit_layer` blocks that computes the same as `model`, at every exit.

    New blocks add nothing to the residual stream yet: their output projections and biases are zero. New exits
    are copies of `model`'s deepest exit.

    Raises:
        ValueError: no such exit, not deeper, or an exit whose norm (`exit_norm="final"`) the model lacks.
    """
    deepest = model.exit_layers[-1]
    config = copy.deepcopy(model.config)
    config.exit_layer = None
    exit_layer = config.resolve_exit_layer(exit_layer)
    if exit_layer <= deepest:
        raise ValueError(f"exit_layer must be above the model's exit {deepest}, got {exit_layer}.")
    if config.exit_norm == "final" and exit_layer == config.num_hidden_layers:
        # It cannot start as a copy of an exit without a norm.
        raise ValueError(f"exit_layer must be below {exit_layer}, got {exit_layer}: exit_norm='final' differs.")

    config.exit_layer = None if exit_layer == config.exit_layers[-1] else exit_layer
    grown = MoSEModel(config)
    state = model.state_dict()
    for name in grown.state_dict():
        if name.startswith("exits.") and name not in state:
            _, _, rest = name.split(".", 2)
            state[name] = state[f"exits.{deepest}.{rest}"]
    grown.load_state_dict(state, strict=False)

    for block in list(grown.layers)[deepest:]:
        block = cast(MoSEBlock, block)
        for output in (block.self_attn.o_proj, block.mlp.c_proj):
            nn.init.zeros_(output.weight)
            if output.bias is not None:
                nn.init.zeros_(output.bias)

    cast(nn.Module, grown).to(model.device, model.dtype)
    return grown.train(model.training)
