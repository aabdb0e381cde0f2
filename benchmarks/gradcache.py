"""Measure the memory of a fine-tuning step by batch size, and what GradCache's second pass costs.

A step embeds queries and documents and computes the CLIP loss at every exit, its gradients and the AdamW update.
Memory is measured in one process for each batch size. A step with mini-batches is timed beside a step whose graph
holds the whole batch, and one whose mini-batches keep their graphs.
"""

import argparse
import sys
from collections.abc import Callable
from functools import partial

import torch

from mose.benchmarks import command
from mose.benchmarks.command import Benchmark, Report
from mose.configuration_mose import PRESETS, MoSEConfig
from mose.modeling_mose import MoSEModel
from mose.training.finetuning.gradcache import embed
from mose.training.finetuning.objective import Batch, Objective


class GradCacheStep(Benchmark):
    """Memory of a fine-tuning step by batch size, and its time with and without GradCache."""

    description = "Memory and time of a fine-tuning step with GradCache."
    rounds = 5

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        command.add_device(parser)
        parser.add_argument("--model", choices=PRESETS, default="mose-nano", help="preset (default: %(default)s)")
        command.add_count(parser, "--tokens", 64, "tokens of the longest texts")
        command.add_count(parser, "--mini-batch", 32, "texts in a pass")
        command.add_count(parser, "--timed-batch", 128, "pairs in the batch whose step is timed both ways")
        parser.add_argument(
            "--batches",
            type=command.positive_int,
            nargs="+",
            default=[256, 2048],
            metavar="N",
            help="batch sizes, in pairs, whose memory is measured (default: 256 2048)",
        )

    def measure(self, options: argparse.Namespace) -> Report:
        memory = {}
        for batch in options.batches:
            before, peak = command.in_fresh_process(step_memory, options, batch)
            memory[str(batch)] = {"before_bytes": before, "peak_bytes": peak}

        # A ratio near 1 means that memory does not grow with the batch.
        for row in memory.values():
            row["ratio"] = row["peak_bytes"] / memory[str(options.batches[0])]["peak_bytes"]

        steps = {
            "cached": finetuning_step(options, options.timed_batch, options.mini_batch),
            "kept": finetuning_step(options, options.timed_batch, options.mini_batch, 10**9),
            "whole": finetuning_step(options, options.timed_batch, options.timed_batch),
        }
        times = command.interleave(steps, options.rounds, device=options.device, description="steps")
        seconds = {name: {"seconds": timing.median, "spread": timing.spread} for name, timing in times.items()}
        return {"memory": memory, "time": seconds}

    def render(self, report: Report) -> str:
        cached, kept, whole = (report["time"][name]["seconds"] for name in ("cached", "kept", "whole"))
        memory = {
            "before the step": ("before_bytes", "MB"),
            "peak": ("peak_bytes", "MB"),
            "ratio": ("ratio", ".3f"),
        }
        return (
            "{model}, {tokens} tokens, mini-batches of {mini_batch}\n".format_map(report["settings"])
            + command.figures_table("pairs", report["memory"], memory)
            + "\n\nbatches of {timed_batch}\n".format_map(report["settings"])
            + command.figures_table(
                "step", report["time"], {"s": ("seconds", ".2f"), "spread": ("spread", ".0%")}
            )
            + f"\ncached over whole: {cached / whole:.2f}; kept over cached: {kept / cached:.2f}"
        )


def finetuning_step(
    options: argparse.Namespace, batch: int, mini_batch: int, kept_tokens: int = 0
) -> Callable[[int], None]:
    """Return a training step of random weights on `batch` pairs of random tokens of mixed lengths."""
    torch.manual_seed(0)
    device = torch.device(options.device)
    with device:
        model = MoSEModel(MoSEConfig.from_preset(options.model)).train()
    optimizer = torch.optim.AdamW(model.parameters())

    # Texts of half to all of the tokens, padded on the right.
    lengths = torch.randint(options.tokens // 2, options.tokens + 1, (2, batch, 1))
    masks = (torch.arange(options.tokens) < lengths).long().to(device)
    ids = torch.randint(4, model.config.vocab_size, (2, batch, options.tokens)).to(device) * masks

    weights, objective = model.config.exit_weights, Objective()

    def step(round_: int) -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=command.DTYPES[options.dtype] is torch.bfloat16):
            (queries, documents), scale = embed(
                model, list(zip(ids, masks, strict=True)), mini_batch, kept_tokens
            )
            loss, _ = objective(Batch(queries, documents, scale), weights)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def step_memory(options: argparse.Namespace, batch: int) -> tuple[int, int]:
    """Return the bytes before a step and at its peak."""
    if options.threads:
        torch.set_num_threads(options.threads)
    return command.peak_memory(partial(finetuning_step(options, batch, options.mini_batch), 0), options.device)


if __name__ == "__main__":
    sys.exit(GradCacheStep().main())
