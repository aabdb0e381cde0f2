"""What training costs in floating-point operations, and what a device could do: for MFU and for plans.

A multiplication and an addition are two operations; a backward pass costs two forward passes; norms, activations
and softmaxes are left out, as is usual (Kaplan et al., arXiv 2001.08361, section 2.1).
"""

from mose.configuration_mose import MoSEConfig

#: Dense bf16 operations per second by the name that the device gives itself (makers' data sheets).
PEAK_BF16 = {
    "B200": 2250e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "RTX 4090": 165e12,
    "V100": 125e12,
}


def peak_flops(device_name: str) -> float | None:
    """Operations per second in bf16 of a device, None where it is not known."""
    return next((peak for name, peak in PEAK_BF16.items() if name in device_name), None)


def block_flops(config: MoSEConfig, tokens: int) -> float:
    """Forward operations of one block for one token, in a sequence of so many."""
    hidden = config.hidden_size
    keys = hidden * config.num_key_value_heads // config.num_attention_heads
    projections = 2 * hidden * hidden + 2 * hidden * keys + 2 * hidden * config.intermediate_size
    return 2 * projections + 4 * tokens * hidden


def head_flops(config: MoSEConfig, mlm_probability: float = 0.15) -> float:
    """Forward operations of one exit's MLM head for one token, of which a part is masked."""
    hidden = config.hidden_size
    per_masked = 2 * hidden * (hidden + config.conditional_size + config.vocab_size)
    return mlm_probability * per_masked


def training_flops(
    config: MoSEConfig, tokens: int, exits: int | None = None, mlm_probability: float = 0.15
) -> float:
    """Operations of a training step (forward and backward) for one token.

    Args:
        config: The trunk is built up to its deepest exit.
        tokens: Mean length of a sequence.
        exits: How many exits have a loss; by default all that are built.
        mlm_probability: The part of the tokens that is predicted.
    """
    built = config.built_exit_layers
    count = len(built) if exits is None else exits
    return 3 * (built[-1] * block_flops(config, tokens) + count * head_flops(config, mlm_probability))
