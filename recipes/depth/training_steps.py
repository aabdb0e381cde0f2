"""Steps that pre-training and fine-tuning share: device, compiled blocks, optimizer and schedule."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from mose import modeling_mose

WEIGHT_DECAY, BETAS, WARMUP, MAX_NORM = 0.1, (0.9, 0.98), 0.05, 1.0
#: Masked tokens whose logits are in memory at once, on a GPU.
GPU_LOGIT_ROWS = 8192


def choose_device() -> torch.device:
    """Return the GPU if there is one, set up for speed, else the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    torch.set_float32_matmul_precision("high")
    modeling_mose.LOGIT_ROWS = GPU_LOGIT_ROWS
    # Each run has new modules, which share the compiled code of a block.
    torch._dynamo.config.recompile_limit = 64
    torch._dynamo.config.accumulated_recompile_limit = 4096
    return torch.device("cuda")


def compile_blocks(trunk: nn.Module) -> None:
    """Compile the trunk's blocks one by one: they share their code, and what is around them may vary."""
    for block in trunk.layers:
        block.compile(dynamic=False)


@contextmanager
def eager_blocks(trunk: nn.Module) -> Iterator[None]:
    """Run the blocks as they are inside, so that shapes of evaluations compile nothing."""
    compiled = [block._compiled_call_impl for block in trunk.layers]
    for block in trunk.layers:
        block._compiled_call_impl = None
    try:
        yield
    finally:
        for block, call in zip(trunk.layers, compiled, strict=True):
            block._compiled_call_impl = call


def make_optimizer(model: nn.Module, learning_rate: float, multipliers: dict[str, float]) -> torch.optim.AdamW:
    """Return AdamW over the trainable parameters; decay on matrices, `multipliers` by part of a name."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        factor = next((value for part, value in multipliers.items() if part in name), 1.0)
        decay = WEIGHT_DECAY if parameter.dim() > 1 and "embed_tokens" not in name else 0.0
        groups.setdefault((factor, decay), []).append(parameter)

    settings = [
        {
            "params": parameters,
            "lr": learning_rate * factor,
            "peak": learning_rate * factor,
            "weight_decay": decay,
        }
        for (factor, decay), parameters in groups.items()
    ]
    return torch.optim.AdamW(settings, betas=BETAS, eps=1e-6, fused=torch.cuda.is_available())


def set_learning_rate(optimizer: torch.optim.Optimizer, step: int, steps: int) -> None:
    """Set the rates of a step: a linear warm-up, then a cosine to zero."""
    warmup = max(1, round(WARMUP * steps))
    factor = min(1.0, (step + 1) / warmup)
    if step >= warmup:
        factor = 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor
