"""Compare pre-training at five exits with pre-training at one: step time and peak memory, beside the FLOPs.

Three losses on the same trunk and batch: at the deepest exit alone, at every exit, and at every exit with the
logits of every token kept, as BERT's code computes it. Peak memory is the growth of a fresh process during two
steps. Times are taken in turn, in one process.
"""

import argparse
import sys
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from mose.benchmarks import command
from mose.benchmarks.command import Benchmark, Report
from mose.configuration_mose import PRESETS, MoSEConfig
from mose.modeling_mose import MoSEForPreTraining
from mose.training.pretraining.flops import training_flops

LOSSES = ("one exit", "every exit", "naive")
COLUMNS = {
    "s": ("seconds", ".3f"),
    "spread": ("spread", ".0%"),
    "over one exit": ("time_over_one", ".3f"),
    "peak": ("bytes", "MB"),
    "over one": ("bytes_over_one", ".3f"),
}


class PreTrainingStep(Benchmark):
    """Time and memory of a pre-training step, with the loss at one or several exits."""

    description = "Pre-training step at five exits over one, beside the FLOPs and a naive implementation."
    rounds = 5

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        command.add_device(parser)
        help_text = "widths (default: %(default)s)"
        parser.add_argument("--preset", choices=tuple(PRESETS), default="mose-nano", help=help_text)
        command.add_count(parser, "--blocks", 10, "a multiple of 5")
        command.add_count(parser, "--batch", 8, "sequences")
        command.add_count(parser, "--tokens", 256, "tokens of each")

    def measure(self, options: argparse.Namespace) -> Report:
        if options.blocks % 5:
            raise ValueError(f"--blocks must be a multiple of 5, got {options.blocks}.")

        # Memory first: each process starts from the libraries alone.
        memory = {loss: command.in_fresh_process(pretraining_memory, loss, options) for loss in LOSSES}
        steps = {loss: pretraining_step(loss, options) for loss in LOSSES}
        times = command.interleave(steps, options.rounds, device=options.device, description=options.preset)
        rows = {
            loss: {"seconds": times[loss].median, "spread": times[loss].spread, "bytes": memory[loss]}
            for loss in LOSSES
        }

        config = five_exit_config(options)
        predicted = training_flops(config, options.tokens) / training_flops(config, options.tokens, exits=1)
        return {"exits": list(config.exit_layers), **compare_losses(rows, predicted)}

    def render(self, report: Report) -> str:
        head = "{preset}, {blocks} blocks, batch {batch} × {tokens} tokens, {dtype}".format_map(
            report["settings"]
        )
        return (
            f"{head}, exits {report['exits']}\n{command.figures_table('loss at', report['losses'], COLUMNS)}\n"
            f"The FLOPs predict {report['flops_ratio']:.3f}; measured over that: {report['time_over_flops']:.3f}."
        )


def five_exit_config(options: argparse.Namespace) -> MoSEConfig:
    """Return a configuration with five evenly spaced exits, and no dropout, whose draws would differ."""
    no_dropout = dict.fromkeys(("attention_dropout", "residual_dropout", "embedding_dropout"), 0.0)
    exits = [options.blocks * (i + 1) // 5 for i in range(5)]
    shape = {"num_hidden_layers": options.blocks, "exit_layers": exits}
    return MoSEConfig.from_preset(options.preset, attn_implementation="sdpa", **shape, **no_dropout)


def pretraining_step(loss_name: str, options: argparse.Namespace) -> Callable[[int], None]:
    """Return a step's forward and backward pass, without the optimizer, whose cost is the same for all losses."""
    torch.manual_seed(0)
    config = five_exit_config(options)
    if loss_name == "one exit":
        config = MoSEConfig.from_dict({**config.to_dict(), "exit_layers": [config.exit_layers[-1]]})
    with torch.device(options.device):
        model = MoSEForPreTraining(config).train()

    # Ids below 4 are special tokens. 15 % of the tokens are predicted.
    ids = torch.randint(4, config.vocab_size, (options.batch, options.tokens), device=options.device)
    batch = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "labels": torch.where(torch.rand(ids.shape, device=options.device) < 0.15, ids, -100),
        "context_labels": torch.arange(options.batch, device=options.device) % 2,
    }
    device_type = torch.device(options.device).type

    def step(round_: int) -> None:
        with torch.autocast(device_type, command.DTYPES[options.dtype], enabled=options.dtype != "fp32"):
            loss = naive_loss(model, batch) if loss_name == "naive" else model(**batch).loss
        loss.backward()
        model.zero_grad(set_to_none=False)  # gradients are part of every step's memory

    return step


def naive_loss(model: MoSEForPreTraining, batch: dict[str, Tensor]) -> Tensor:
    """Return the loss with every token's logits at every exit, all kept for the backward pass."""
    total = torch.zeros(())
    ids, mask = batch["input_ids"], batch["attention_mask"]
    exit_states = model.model(ids, mask, output_all_exits=True, output_exit_states=True).exit_states
    for depth, normed in exit_states.items():
        logits = model.predictions(model.condition(normed, depth))
        mlm = F.cross_entropy(logits.flatten(0, 1).float(), batch["labels"].flatten())
        icc = F.cross_entropy(model.context_logits(normed, mask, depth).float(), batch["context_labels"])
        total = total + model.config.exit_weights[depth] * (mlm + icc)
    return total


def pretraining_memory(loss_name: str, options: argparse.Namespace) -> int:
    """Return the bytes that the model and two steps add to this process, or to the GPU."""
    if options.threads:
        torch.set_num_threads(options.threads)

    def two_steps() -> None:
        step = pretraining_step(loss_name, options)
        step(0)
        step(1)

    before, peak = command.peak_memory(two_steps, options.device)
    return peak - before


def compare_losses(rows: Report, predicted: float) -> Report:
    """Add each loss's time and memory over one exit's, and the time of every exit over what the FLOPs predict."""
    one = rows["one exit"]
    compared = {
        name: {
            **row,
            "time_over_one": row["seconds"] / one["seconds"],
            "bytes_over_one": row["bytes"] / one["bytes"],
        }
        for name, row in rows.items()
    }
    over_flops = compared["every exit"]["time_over_one"] / predicted
    return {"flops_ratio": predicted, "losses": compared, "time_over_flops": over_flops}


if __name__ == "__main__":
    sys.exit(PreTrainingStep().main())
