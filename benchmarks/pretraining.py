"""Do five exits cost what one costs? Step time and peak memory of pre-training, beside what the FLOPs predict.

Three ways on the same trunk and batch: the loss at the deepest exit alone, at every exit, and at every exit with
the logits of every token kept, as BERT's code does it. Each way runs in a fresh process, whose growth of resident
memory over the model's own is its peak; times are taken in turn, in one process.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from command import DTYPES, Report, add_device, new_parser, positive, run, table
from timing import interleave
from torch import Tensor
from torch.nn import functional as F

from mose.configuration_mose import PRESETS, MoSEConfig
from mose.modeling_mose import MoSEForPreTraining
from mose.training.pretraining.flops import training_flops

WAYS = ("one exit", "every exit", "naive")


def configuration(args: argparse.Namespace) -> MoSEConfig:
    """Five exits over the trunk asked for; no dropout, which would draw differently in each way."""
    overrides = {name: 0.0 for name in ("attention_dropout", "residual_dropout", "embedding_dropout")}
    exits = [args.blocks * (i + 1) // 5 for i in range(5)]
    return MoSEConfig.from_preset(
        args.preset, num_hidden_layers=args.blocks, exit_layers=exits, attn_implementation="sdpa", **overrides
    )


def only_deepest(config: MoSEConfig) -> MoSEConfig:
    return MoSEConfig.from_dict({**config.to_dict(), "exit_layers": [config.exit_layers[-1]]})


def naive_loss(model: MoSEForPreTraining, batch: dict[str, Tensor]) -> Tensor:
    """Every token's logits at every exit, all kept for the backward pass."""
    total = torch.zeros(())
    ids, mask = batch["input_ids"], batch["attention_mask"]
    exit_states = model.model(ids, mask, output_all_exits=True, output_exit_states=True).exit_states
    for depth, normed in exit_states.items():
        logits = model.predictions(model.condition(normed, depth))
        mlm = F.cross_entropy(logits.flatten(0, 1).float(), batch["labels"].flatten())
        icc = F.cross_entropy(model.context_logits(normed, mask, depth).float(), batch["context_labels"])
        total = total + model.config.exit_weights[depth] * (mlm + icc)
    return total


def step_of(way: str, args: argparse.Namespace) -> Callable[[int], None]:
    """A training step's forward and backward pass, without the optimizer, which is the same for all."""
    torch.manual_seed(0)
    config = configuration(args)
    model = MoSEForPreTraining(only_deepest(config) if way == "one exit" else config).to(args.device).train()
    ids = torch.randint(4, config.vocab_size, (args.batch, args.tokens), device=args.device)
    labels = torch.where(torch.rand(ids.shape, device=args.device) < 0.15, ids, -100)
    context = torch.arange(args.batch, device=args.device) % 2
    batch = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "labels": labels,
        "context_labels": context,
    }
    device_type = torch.device(args.device).type

    def step(_: int) -> None:
        with torch.autocast(device_type, DTYPES[args.dtype], enabled=args.dtype != "fp32"):
            loss = naive_loss(model, batch) if way == "naive" else model(**batch).loss
        loss.backward()
        model.zero_grad(set_to_none=False)  # gradients are part of every step's memory

    return step


def peak_memory(way: str, args: argparse.Namespace) -> int:
    """Bytes at the peak of two steps: of the process on a CPU, of the allocator on a GPU."""
    step = step_of(way, args)
    for at in range(2):
        step(at)
    if torch.device(args.device).type == "cuda":
        return torch.cuda.max_memory_allocated(args.device)
    return resident_peak()


def resident_peak() -> int:
    """Bytes of this process at its peak so far; not `ru_maxrss`, which begins with those of the parent."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status names no VmHWM: peaks on a CPU need Linux")


def memory_in_a_fresh_process(way: str, args: argparse.Namespace) -> int:
    names = ("preset", "blocks", "batch", "tokens", "dtype", "device")
    flags = [word for name in names for word in (f"--{name}", str(getattr(args, name)))]
    command = [sys.executable, str(Path(__file__)), *flags, "--memory-of", way]
    if args.threads:
        command += ["--threads", str(args.threads)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{way}: {done.stderr.strip().splitlines()[-1:] or done.returncode}")
    return json.loads(done.stdout)["bytes"]


def measure(args: argparse.Namespace) -> Report:
    if args.blocks % 5:
        raise ValueError(f"blocks={args.blocks}: must be a multiple of 5, for five exits")
    config = configuration(args)
    synchronise = partial(torch.cuda.synchronize, args.device) if "cuda" in args.device else lambda: None
    empty = 0 if "cuda" in args.device else memory_in_a_fresh_process("nothing", args)
    memory = {way: memory_in_a_fresh_process(way, args) - empty for way in args.ways}
    steps = {way: step_of(way, args) for way in args.ways}
    times = interleave(steps, args.rounds, warm_up=1, synchronise=synchronise, description=args.preset)
    predicted = training_flops(config, args.tokens) / training_flops(config, args.tokens, exits=1)
    rows = {
        way: {"seconds": times[way].median, "spread": times[way].spread, "bytes": memory[way]}
        for way in args.ways
    }
    return {"exits": list(config.exit_layers), "flops_ratio": predicted, "ways": rows, **compare(rows, predicted)}


def compare(rows: Report, predicted: float) -> Report:
    """Every way over one exit, and the time of every exit over what the FLOPs predict."""
    one = rows["one exit"]
    ratios = {way: {name: row[name] / one[name] for name in ("seconds", "bytes")} for way, row in rows.items()}
    return {"over_one_exit": ratios, "time_over_flops": ratios["every exit"]["seconds"] / predicted}


def render(report: Report) -> str:
    settings = report["settings"]
    rows = [
        [
            way,
            f"{1000 * row['seconds']:.0f}",
            f"{100 * row['spread']:.0f} %",
            f"{report['over_one_exit'][way]['seconds']:.3f}",
            f"{row['bytes'] / 2**20:.0f}",
            f"{report['over_one_exit'][way]['bytes']:.3f}",
        ]
        for way, row in report["ways"].items()
    ]
    return (
        f"{settings['preset']}, {settings['blocks']} blocks, exits {report['exits']}, "
        f"batch {settings['batch']} × {settings['tokens']} tokens, {settings['dtype']}\n"
        + table(["loss at", "ms", "spread", "over one", "peak MiB", "over one"], rows)
        + f"\nthe FLOPs predict {report['flops_ratio']:.3f}; measured over that: {report['time_over_flops']:.3f}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = new_parser("Pre-training step at five exits over one, beside the FLOPs and the naive way.", rounds=5)
    add_device(parser)
    parser.add_argument(
        "--preset", choices=tuple(PRESETS), default="mose-nano", help="widths (default: %(default)s)"
    )
    parser.add_argument(
        "--blocks", type=positive, default=10, metavar="N", help="a multiple of 5 (default: %(default)s)"
    )
    parser.add_argument("--batch", type=positive, default=8, metavar="N", help="sequences (default: %(default)s)")
    parser.add_argument(
        "--tokens", type=positive, default=256, metavar="N", help="tokens of each (default: %(default)s)"
    )
    parser.add_argument(
        "--ways", nargs="+", choices=WAYS, default=list(WAYS), help="what to compare (default: all)"
    )
    parser.add_argument("--memory-of", choices=(*WAYS, "nothing"), help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.memory_of:
        if args.threads:
            torch.set_num_threads(args.threads)
        found = resident_peak() if args.memory_of == "nothing" else peak_memory(args.memory_of, args)
        print(json.dumps({"bytes": found}))
        return 0
    if not {"one exit", "every exit"} <= set(args.ways):
        parser.error("--ways: 'one exit' and 'every exit' are what is compared")
    return run(parser, measure, render, arguments)


if __name__ == "__main__":
    sys.exit(main())
