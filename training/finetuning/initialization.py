"""Starting from knowledge: token embeddings from a teacher, and deeper models from shallower ones."""

import copy
from collections.abc import Iterable
from typing import cast

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from mose.modeling_mose import MoSEBlock, MoSEExit, MoSEModel


@torch.no_grad()
def start_embeddings_from(
    model: MoSEModel, tokenizer: PreTrainedTokenizerBase, teacher_vectors: np.ndarray
) -> None:
    """Sets the token embeddings to the whitened principal components of a teacher's vectors.

    As in Model2Vec: a token means what the teacher takes its
    string to mean, so that `Parse`, ` parse` and `_parse` begin as one. Whitening removes the direction that all
    strings share; rows are scaled to a root mean square of 1, what a residual stream of unit updates expects.

    Args:
        model: Changed in place.
        tokenizer: Its special tokens keep the embeddings that they have.
        teacher_vectors: (tokens, teacher dim), the teacher's embeddings of `token_strings(tokenizer)`. Rows of
            the model beyond the tokenizer's last token keep what they have.

    Raises:
        ValueError: the vectors are not one per token, there are more of them than the model has embeddings, or
            they span fewer dimensions than the model has.
    """
    weight = cast(nn.Embedding, model.embed_tokens).weight
    vocabulary, size = weight.shape
    tokens = len(tokenizer)
    if len(teacher_vectors) != tokens:
        raise ValueError(f"{len(teacher_vectors)} teacher vectors for a tokenizer of {tokens} tokens")
    if tokens > vocabulary:
        raise ValueError(f"a tokenizer of {tokens} tokens for a model of vocab_size={vocabulary}")
    if teacher_vectors.shape[1] < size:
        raise ValueError(f"a teacher of {teacher_vectors.shape[1]} dimensions cannot fill hidden_size={size}")
    vectors = torch.from_numpy(teacher_vectors.astype(np.float64))
    vectors -= vectors.mean(dim=0)
    _, singular, axes = torch.linalg.svd(vectors, full_matrices=False)
    if len(singular) < size or singular[size - 1] <= 1e-6 * singular[0]:
        rank = int((singular > 1e-6 * singular[0]).sum())
        raise ValueError(f"the teacher's vectors span {rank} dimensions: too few for hidden_size={size}")
    components = vectors @ axes[:size].T / singular[:size]
    components /= components.square().mean(dim=1, keepdim=True).sqrt().clamp(min=1e-12)
    ordinary = sorted(set(range(tokens)) - set(tokenizer.all_special_ids))
    weight[ordinary] = components[ordinary].to(weight)


@torch.no_grad()
def fit_projection(
    model: MoSEModel,
    exit_layer: int,
    pooled_from: Iterable[tuple[torch.Tensor, torch.Tensor]],
    targets: torch.Tensor,
) -> None:
    """Sets the projection of an exit to the ridge regression of a teacher's vectors on the pooled states.

    Args:
        model: Changed in place; pooling is taken as it is.
        exit_layer: One of `model.exit_layers`.
        pooled_from: Batches of (input_ids, attention_mask), (batch, tokens) each.
        targets: (texts, hidden), the teacher's vectors of the same texts in the same order.

    Raises:
        ValueError: fewer texts than the projection has rows, or a projection that is not one linear layer.
    """
    projection = cast(MoSEExit, model.exits[str(exit_layer)]).projection
    if not isinstance(projection, nn.Linear):
        raise ValueError(
            f"projection_layers must be 1, got {model.config.projection_layers}. "
            "Fit a teacher with one linear layer per exit."
        )
    size = projection.in_features
    if len(targets) < size:
        raise ValueError(f"{len(targets)} texts: at least hidden_size={size} are needed")
    # What enters the projection, not what leaves the model: that has lost its length, which the bias depends on.
    pooled: list[torch.Tensor] = []
    with projection.register_forward_pre_hook(lambda _, entering: pooled.append(entering[0].double())):
        for input_ids, attention_mask in pooled_from:
            model(input_ids, attention_mask, exit_layer=exit_layer)
    inputs = torch.cat(pooled)
    if projection.bias is not None:
        inputs = torch.cat((inputs, inputs.new_ones(len(inputs), 1)), dim=1)
    gram = inputs.T @ inputs
    gram.diagonal().add_(1e-3 * gram.diagonal().mean())
    solution = torch.linalg.solve(gram, inputs.T @ targets.to(inputs))
    projection.weight.copy_(solution[:size].T)
    if projection.bias is not None:
        projection.bias.copy_(solution[size])


def token_strings(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """What each token spells, without the spaces and underscores around it, in order of ids."""
    texts = [str(tokenizer.decode([token])) for token in range(len(tokenizer))]
    return [text.strip(" _\n\t") or text for text in texts]


@torch.no_grad()
def start_exits_alike(model: MoSEModel) -> None:
    """Gives every exit the projection of the deepest, where projections are untrained: one space to begin with.

    Blocks add to one residual stream, so that exits which project alike begin near each other, where exits with
    projections of their own begin with nothing in common.

    Args:
        model: Changed in place.
    """
    deepest = cast(MoSEExit, model.exits[str(model.exit_layers[-1])])
    for exit_layer in model.exit_layers[:-1]:
        head = cast(MoSEExit, model.exits[str(exit_layer)])
        head.projection.load_state_dict(deepest.projection.state_dict())


@torch.no_grad()
def grow(model: MoSEModel, exit_layer: int) -> MoSEModel:
    """A model of `exit_layer` blocks that computes what `model` computes, whichever exit is asked for.

    New blocks add nothing to the residual stream yet (their output projections and biases are zero), and new
    exits are copies of the deepest exit that `model` has.

    Args:
        model: Built up to an exit; its configuration names the deeper ones.
        exit_layer: One of `config.exit_layers`, deeper than the model.

    Raises:
        ValueError: no such exit, not deeper, or one whose norm (`exit_norm="final"`) the model has not.
    """
    deepest = model.exit_layers[-1]
    config = copy.deepcopy(model.config)
    config.exit_layer = None
    exit_layer = config.resolve_exit_layer(exit_layer)
    if exit_layer <= deepest:
        raise ValueError(f"exit_layer={exit_layer}: the model already reaches exit {deepest}")
    if config.exit_norm == "final" and exit_layer == config.num_hidden_layers:
        raise ValueError(
            f"exit_layer={exit_layer}: with exit_norm='final' that exit alone has a norm, so that it "
            f"cannot begin as a copy of exit {deepest}"
        )
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
