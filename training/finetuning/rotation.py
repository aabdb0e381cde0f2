"""Exits turned towards the deepest one after training: queries at one find documents embedded at another."""

from collections.abc import Mapping
from itertools import pairwise
from typing import cast

import numpy as np
import torch
from torch import nn

from mose.modeling_mose import MoSEModel


@torch.no_grad()
def rotate_exits(model: MoSEModel, embeddings: Mapping[int, np.ndarray]) -> None:
    """Rotate every exit's embeddings as near to the deepest exit's as can be, in place.

    Losses within an exit leave its rotation open, and losses across exits settle it only as far as they go. The
    best rotation is known in closed form (the orthogonal Procrustes problem; Schönemann, 1966). It costs nothing:
    cosines between two embeddings of one exit stay as they are, at full size and at every one of the
    configuration's `matryoshka_dims`, since only dimensions between two of these sizes are mixed.

    Args:
        model: whose last linear layer of every exit is changed, but for the deepest exit.
        embeddings: per exit, (texts, dim), `model`'s own of the same texts, as `mose.inference.encoding.encode`
            returns them. Queries and documents alike; as many as there are dimensions, or more.

    Raises:
        ValueError: exits of the model are missing, or the embeddings' shapes are not those of one set of texts.
    """
    size, deepest = model.config.hidden_size, model.exit_layers[-1]
    if missing := set(model.exit_layers) - set(embeddings):
        raise ValueError(f"embeddings must be of every exit of the model, {min(missing)} is missing.")
    shape = (len(embeddings[deepest]), size)
    for exit_layer in model.exit_layers:
        if embeddings[exit_layer].shape != shape:
            raise ValueError(
                f"embeddings must be of {shape} at every exit, got {embeddings[exit_layer].shape} "
                f"at exit {exit_layer}."
            )

    sizes = list(model.config.matryoshka_dims or ())
    bounds = sorted({0, size, *sizes})
    for exit_layer in model.exit_layers[:-1]:
        projection = last_linear(model, exit_layer)
        for start, end in pairwise(bounds):
            source, target = (embeddings[e][:, start:end].astype(np.float64) for e in (exit_layer, deepest))
            left, _, right = np.linalg.svd(target.T @ source)
            rotation = torch.from_numpy(left @ right)

            for parameter in projection.parameters():
                rows = parameter[start:end]
                rows.copy_(rotation.to(rows.device) @ rows.double())

    model.describe_space(model.config.aligned_exits, sizes or None)


def last_linear(model: MoSEModel, exit_layer: int) -> nn.Linear:
    """Return the layer whose outputs are an exit's embeddings, up to their norm."""
    projection = cast(nn.Module, model.exits[str(exit_layer)].projection)
    return [layer for layer in projection.modules() if isinstance(layer, nn.Linear)][-1]
