"""Losses and gradients that are not finite: the run stops before they reach the weights, or skips the step."""

import re
from collections.abc import Iterable
from pathlib import Path

import torch

from mose.training.checkpoints import last_whole_checkpoint

ACTIONS = ("stop", "skip")
_ADVICE = (
    "Try a lower --learning-rate, more --warmup-steps, --bf16 instead of --fp16, or --on-nonfinite skip if "
    "single examples are at fault"
)


class NonFiniteError(RuntimeError):
    """A loss, a gradient or a weight is infinite or not a number."""


def concerned(names: Iterable[str]) -> str:
    """Return where in a step numbers were not finite, from the names of the metrics that were not."""
    exits = sorted({int(match[1]) for name in names if (match := re.search(r"_exit_(\d+)$", name))})
    if not exits:
        return "the gradient, while the losses of all exits are finite"
    return f"the loss at exit{'s' if len(exits) > 1 else ''} {', '.join(map(str, exits))}"


def nonfinite_step(step: int, where: str, output_dir: Path, skipped: int = 0) -> NonFiniteError:
    """Return the error for a step, with the checkpoint that is left and what to try."""
    before = f" {skipped} steps were skipped before (--max-skipped-steps)." if skipped else ""
    return NonFiniteError(f"step {step}: {where} is not finite.{before} {_advise(output_dir)}")


def require_finite_weights(model: torch.nn.Module, step: int, output_dir: Path) -> None:
    """Raise NonFiniteError if a weight is not finite, so that no such weights are saved."""
    weights = {name: parameter for name, parameter in model.named_parameters() if parameter.is_floating_point()}
    flags = [parameter.detach().isfinite().all() for parameter in weights.values()]

    # One read for all of them.
    if flags and not bool(torch.stack([flag.to(flags[0].device) for flag in flags]).all()):
        name = next(name for name, flag in zip(weights, flags, strict=True) if not flag)
        raise NonFiniteError(f"step {step}: the weight {name} is not finite. {_advise(output_dir)}")


def _advise(output_dir: Path) -> str:
    checkpoint = last_whole_checkpoint(output_dir)
    if checkpoint is None:
        return f"{_ADVICE}. No checkpoint was saved before."
    return f"{_ADVICE}. {checkpoint} is the last checkpoint; --resume continues from it."
