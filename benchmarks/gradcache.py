"""Does memory stay where it is as the batch grows, and what does the second forward pass cost?

A step is all of it: embedding of queries and documents, the CLIP loss at every exit, backward, AdamW. Memory is
measured in a process for each batch size, which does one step; the time of a step with mini-batches, in turn with
that of one whose graph holds the whole batch.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from command import DTYPES, Report, add_device, new_parser, positive, run, table
from timing import interleave

from mose.configuration_mose import PRESETS, MoSEConfig
from mose.modeling_mose import MoSEModel
from mose.training.finetuning.gradcache import embed
from mose.training.finetuning.objective import Batch, Objective

Step = Callable[[int], None]


def new_step(args: argparse.Namespace, batch: int, mini_batch: int) -> Step:
    """A training step of random weights on `batch` pairs of random tokens, half to all of `--tokens` long."""
    torch.manual_seed(0)
    device = torch.device(args.device)
    model = MoSEModel(MoSEConfig.from_preset(args.model)).to(device).train()
    model.set_attn_implementation("eager")
    optimizer = torch.optim.AdamW(model.parameters())
    lengths = torch.randint(args.tokens // 2, args.tokens + 1, (2, batch, 1))
    masks = (torch.arange(args.tokens) < lengths).long().to(device)
    ids = torch.randint(4, model.config.vocab_size, (2, batch, args.tokens)).to(device) * masks
    weights, objective = model.config.exit_weights, Objective()

    def step(round_: int) -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=DTYPES[args.dtype] is torch.bfloat16):
            (queries, documents), scale = embed(model, list(zip(ids, masks, strict=True)), mini_batch)
            loss, _ = objective(Batch(queries, documents, scale), weights)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def peak_bytes(device: str) -> int:
    """Most memory that this process has had at once: of its GPU, or resident."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def one_step(args: argparse.Namespace) -> Report:
    """What the process for one batch size does."""
    step = new_step(args, args.memory_of, args.mini_batch)
    before = peak_bytes(args.device)
    step(0)
    return {"before_bytes": before, "peak_bytes": peak_bytes(args.device)}


def measure(args: argparse.Namespace) -> Report:
    if args.memory_of:
        return one_step(args)
    memory = {}
    for batch in args.batches:
        names = ("model", "tokens", "dtype", "device", "mini_batch")
        flags = [word for name in names for word in (f"--{name.replace('_', '-')}", str(getattr(args, name)))]
        flags += [
            "--memory-of",
            str(batch),
            "--json",
            "-",
            *(["--threads", str(args.threads)] * bool(args.threads)),
        ]
        child = subprocess.run([sys.executable, __file__, *flags], capture_output=True, text=True)
        if child.returncode:
            raise RuntimeError(f"batch {batch}: {child.stderr.strip()}")
        memory[str(batch)] = {k: v for k, v in json.loads(child.stdout).items() if k.endswith("_bytes")}
    times = interleave(
        {
            "cached": new_step(args, args.timed_batch, args.mini_batch),
            "whole": new_step(args, args.timed_batch, args.timed_batch),
        },
        args.rounds,
        synchronise=torch.cuda.synchronize if args.device.startswith("cuda") else lambda: None,
        description="steps",
    )
    seconds = {name: {"seconds": timing.median, "spread": timing.spread} for name, timing in times.items()}
    return {"memory": memory, "time": seconds}


def render(report: Report) -> str:
    if "memory" not in report:
        return f"{report['peak_bytes'] / 1e6:.0f} MB"
    settings, memory = report["settings"], report["memory"]
    first = next(iter(memory.values()))["peak_bytes"]
    rows = [
        [
            batch,
            f"{row['before_bytes'] / 1e6:.0f} MB",
            f"{row['peak_bytes'] / 1e6:.0f} MB",
            f"{row['peak_bytes'] / first:.3f}",
        ]
        for batch, row in memory.items()
    ]
    ratio = report["time"]["cached"]["seconds"] / report["time"]["whole"]["seconds"]
    timed = [
        [name, f"{row['seconds']:.2f} s", f"{100 * row['spread']:.0f} %"] for name, row in report["time"].items()
    ]
    return (
        f"{settings['model']}, {settings['tokens']} tokens, mini-batches of {settings['mini_batch']}\n"
        + table(["pairs", "before the step", "peak", "ratio"], rows)
        + f"\n\nbatches of {settings['timed_batch']}\n"
        + table(["step", "time", "spread"], timed)
        + f"\ncached over whole: {ratio:.2f}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = new_parser("Memory and time of a fine-tuning step with GradCache.", rounds=5)
    add_device(parser)
    parser.add_argument("--model", choices=PRESETS, default="mose-nano", help="preset (default: %(default)s)")
    parser.add_argument(
        "--tokens",
        type=positive,
        default=64,
        metavar="N",
        help="tokens of the longest texts (default: %(default)s)",
    )
    parser.add_argument(
        "--batches",
        type=positive,
        nargs="+",
        default=[256, 2048],
        metavar="N",
        help="pairs in a batch whose memory is measured (default: 256 2048)",
    )
    parser.add_argument(
        "--mini-batch", type=positive, default=32, metavar="N", help="texts in a pass (default: %(default)s)"
    )
    parser.add_argument(
        "--timed-batch",
        type=positive,
        default=128,
        metavar="N",
        help="pairs in the batch whose step is timed both ways (default: %(default)s)",
    )
    parser.add_argument("--memory-of", type=positive, metavar="N", help=argparse.SUPPRESS)
    return run(parser, measure, render, arguments)


if __name__ == "__main__":
    sys.exit(main())
