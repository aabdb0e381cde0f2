"""Costs of an exit that do not depend on the machine: parameters, their memory, FLOPs per token."""

import copy
from typing import Any

import torch

from mose.eval.baselines import SentenceTransformerBaseline
from mose.inference.encoders import MoSEEncoder

#: Length of the sequence for which a report counts FLOPs.
FLOPS_TOKENS = 256


def flops_per_token(config: Any, exit_layer: int, tokens: int = FLOPS_TOKENS) -> float:
    """Return the floating-point operations of a forward pass to an exit, divided by its tokens.

    Counts matrix products only, a multiplication and an addition as two. With hidden size h, key-value width g,
    MLP width m and T tokens, a block takes 2h(2h + 2g) for its projections, 4hT for attention and 4hm for the
    MLP. An exit takes 2h for the weighted mean and 2h²/T for the projection of the pooled vector. A gate of
    width d and kernel size c takes 2hcd + 4d.

    Args:
        config: a `MoSEConfig`.
        exit_layer: one of its exits.
        tokens: length of the sequence; attention is quadratic in it.
    """
    hidden = config.hidden_size
    key_value = config.num_key_value_heads * (hidden // config.num_attention_heads)
    projections = 2 * hidden * (2 * hidden + 2 * key_value)
    block = projections + 4 * hidden * tokens + 4 * hidden * config.intermediate_size

    # With two layers, every token is projected before pooling; with one, only the pooled vector.
    every_token = config.projection_layers == 2 and config.pooling != "cls"
    projection = config.projection_layers * 2 * hidden * hidden
    head = projection if every_token else projection / tokens

    if config.pooling != "cls":
        head += 2 * hidden
    if config.pooling == "gated":
        head += 2 * hidden * config.gate_kernel_size * config.gate_size + 4 * config.gate_size
    return exit_layer * block + head


def parameters(model: Any, exit_layer: int) -> int:
    """Return the number of parameters of a model loaded at an exit: embeddings, blocks, and exits up to it."""
    config = copy.deepcopy(model.config)
    config.exit_layer = exit_layer

    # On the meta device no memory is allocated.
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in type(model)(config).parameters())


def costs(encoder: MoSEEncoder | SentenceTransformerBaseline) -> dict[str, dict[str, float]]:
    """Return key -> `parameters`, `memory_mb` and `flops_per_token`.

    `memory_mb` is the size of the loaded weights in 10⁶ bytes. FLOPs are for `FLOPS_TOKENS` tokens; they are
    missing for a baseline without a text model.
    """
    figures: dict[str, dict[str, float]] = {}
    bytes_each = next(encoder.model.parameters()).element_size()

    for key in encoder.keys:
        if isinstance(encoder, MoSEEncoder):
            count = parameters(encoder.model, int(key))
            flops: float | None = flops_per_token(encoder.model.config, int(key))
        else:
            count = sum(parameter.numel() for parameter in encoder.model.parameters())
            flops = counted_flops_per_token(encoder)

        figures[key] = {"parameters": count, "memory_mb": count * bytes_each / 1e6}
        if flops is not None:
            figures[key]["flops_per_token"] = flops
    return figures


def counted_flops_per_token(baseline: SentenceTransformerBaseline, tokens: int = FLOPS_TOKENS) -> float | None:
    """Return the FLOPs per token of a sentence-transformers model, counted by torch; None without a text model.

    The sequence is truncated to the model's maximum length.
    """
    # Slow to import.
    from torch.utils.flop_counter import FlopCounterMode

    transformer = getattr(baseline.model[0], "auto_model", None)
    if transformer is None:
        return None

    tokens = min(tokens, baseline.model.max_seq_length or tokens)
    ids = torch.ones(1, tokens, dtype=torch.long, device=baseline.device)
    attention = transformer.config._attn_implementation

    # torch does not count the fused kernels of a CPU.
    transformer.set_attn_implementation("eager")
    try:
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            transformer(input_ids=ids, attention_mask=torch.ones_like(ids))
    finally:
        transformer.set_attn_implementation(attention)
    return counter.get_total_flops() / tokens
