"""What an exit costs, whatever machine it runs on: parameters, memory for them, FLOPs per token."""

import copy
from typing import Any

import torch

from mose.eval.baselines import SentenceTransformerPeer
from mose.inference.encoders import MoSEEncoder

FLOPS_TOKENS = 256  # length of the sequence whose FLOPs are shared out among its tokens


def flops_per_token(config: Any, exit_layer: int, tokens: int = FLOPS_TOKENS) -> float:
    """Floating-point operations of the matrix products of one forward pass to an exit, over its tokens.

    A multiplication and an addition count as two, as everywhere. With hidden size h, key-value width g, MLP
    width m and T tokens, a block takes 2h(2h + 2g) for its projections, 4hT for scores and mixing, 4hm for the
    MLP; an exit takes 2h for the weighted mean, 2h²/T for the projection of the one vector that comes of it, and
    a gate of width d that sees c tokens 2hcd + 4d. Softmax, norms, activations and the embedding's look-up are
    no matrix products.

    Args:
        config: a `MoSEConfig`.
        exit_layer: one of its exits.
        tokens: length of the sequence; attention is quadratic in it.
    """
    hidden = config.hidden_size
    key_value = config.num_key_value_heads * (hidden // config.num_attention_heads)
    projections = 2 * hidden * (2 * hidden + 2 * key_value)
    block = projections + 4 * hidden * tokens + 4 * hidden * config.intermediate_size
    every_token = config.projection_layers == 2 and config.pooling != "cls"
    projection = config.projection_layers * 2 * hidden * hidden
    head = projection if every_token else projection / tokens
    if config.pooling != "cls":
        head += 2 * hidden
    if config.pooling == "gated":
        head += 2 * hidden * config.gate_kernel_size * config.gate_size + 4 * config.gate_size
    return exit_layer * block + head


def parameters(model: Any, exit_layer: int) -> int:
    """How many parameters a model has that is loaded at an exit: embeddings, blocks, and the exits up to it."""
    config = copy.deepcopy(model.config)
    config.exit_layer = exit_layer
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in type(model)(config).parameters())


def costs(encoder: MoSEEncoder | SentenceTransformerPeer) -> dict[str, dict[str, float]]:
    """Key → `parameters`, `memory_mb` and `flops_per_token` (at `FLOPS_TOKENS` tokens).

    `memory_mb` is what the weights take in the type that they are loaded in, in 10⁶ bytes.
    """
    found: dict[str, dict[str, float]] = {}
    weight = next(encoder.model.parameters()).element_size()
    for key in encoder.keys:
        if isinstance(encoder, MoSEEncoder):
            count = parameters(encoder.model, int(key))
            flops: float | None = flops_per_token(encoder.model.config, int(key))
        else:
            count = sum(parameter.numel() for parameter in encoder.model.parameters())
            flops = counted_flops_per_token(encoder)
        found[key] = {"parameters": count, "memory_mb": count * weight / 1e6}
        if flops is not None:
            found[key]["flops_per_token"] = flops
    return found


def counted_flops_per_token(peer: SentenceTransformerPeer, tokens: int = FLOPS_TOKENS) -> float | None:
    """The same of a sentence-transformers model, counted by torch; None where it has no text model.

    The sequence is no longer than the model takes.
    """
    from torch.utils.flop_counter import FlopCounterMode

    transformer = getattr(peer.model[0], "auto_model", None)
    if transformer is None:
        return None
    tokens = min(tokens, peer.model.max_seq_length or tokens)
    ids = torch.ones(1, tokens, dtype=torch.long, device=peer.device)
    attention = transformer.config._attn_implementation
    transformer.set_attn_implementation("eager")  # torch does not count the fused kernels of a CPU
    try:
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            transformer(input_ids=ids, attention_mask=torch.ones_like(ids))
    finally:
        transformer.set_attn_implementation(attention)
    return counter.get_total_flops() / tokens
