"""Training cost in floating-point operations, peak rates of devices, and throughput.

A multiplication and an addition are two operations. A backward pass costs two forward passes. Norms, activations
and softmaxes are left out, as is usual (Kaplan et al., arXiv 2001.08361, section 2.1).
"""

import time

from mose.configuration_mose import MoSEConfig

#: Dense bf16 operations per second, by the name that the device reports (vendors' data sheets).
PEAK_BF16 = {"B200": 2250e12, "H200": 989e12, "H100 PCIe": 756e12, "H100": 989e12, "A100": 312e12}
PEAK_BF16 |= {"L40S": 362e12, "RTX 4090": 165e12, "V100": 125e12}


def peak_flops(device_name: str) -> float | None:
    """Return the bf16 operations per second of a device, or None if they are unknown."""
    return next((peak for name, peak in PEAK_BF16.items() if name in device_name), None)


def block_flops(config: MoSEConfig, tokens: int) -> float:
    """Return the forward operations of one block per token, in a sequence of `tokens`."""
    hidden = config.hidden_size
    keys = hidden * config.num_key_value_heads // config.num_attention_heads
    projections = 2 * hidden * hidden + 2 * hidden * keys + 2 * hidden * config.intermediate_size
    return 2 * projections + 4 * tokens * hidden


def head_flops(config: MoSEConfig, mlm_probability: float = 0.15) -> float:
    """Return the forward operations of one exit's MLM head per token; only masked tokens go through it."""
    hidden = config.hidden_size
    per_masked = 2 * hidden * (hidden + config.conditional_size + config.vocab_size)
    return mlm_probability * per_masked


def training_flops(
    config: MoSEConfig, tokens: int, exits: int | None = None, mlm_probability: float = 0.15
) -> float:
    """Return the operations of a training step (forward and backward) per token.

    `tokens` is the mean length of a sequence, `exits` the number of exits with a loss (None: all that are built).
    """
    built = config.built_exit_layers
    count = len(built) if exits is None else exits
    return 3 * (built[-1] * block_flops(config, tokens) + count * head_flops(config, mlm_probability))


class ThroughputMeter:
    """Tokens per second since the last reading; `peak` is the bf16 operations per second of all devices."""

    def __init__(self, peak: float | None, mlm_probability: float):
        self.peak, self.mlm_probability = peak, mlm_probability
        self.restart()

    def restart(self) -> None:
        """Forget what was counted, and start the clock."""
        self.tokens = self.sequences = 0
        self.start = time.perf_counter()

    def add(self, sequences: int, tokens: int) -> None:
        """Count the sequences and tokens of a step."""
        self.sequences += sequences
        self.tokens += tokens

    def read(self, config: MoSEConfig) -> dict[str, float]:
        """Return tokens per second, mean length and, if the peak is known, MFU; then restart."""
        seconds, tokens, sequences = time.perf_counter() - self.start, self.tokens, self.sequences
        self.restart()
        if not sequences:
            return {}

        speed = {"tokens_per_second": tokens / seconds, "mean_length": tokens / sequences}
        if self.peak is not None:
            cost = training_flops(config, round(tokens / sequences), mlm_probability=self.mlm_probability)
            speed["mfu"] = speed["tokens_per_second"] * cost / self.peak
        return speed
