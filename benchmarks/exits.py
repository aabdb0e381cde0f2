"""Compare the time of a forward at every exit with the share of blocks that the exit runs.

The time of exit 0 is what a forward costs besides its blocks: embedding, norm, pooling and projection. Exit k of
N blocks is therefore expected to take `fixed + k / N * (time(N) - fixed)`.
"""

import argparse
import sys
from functools import partial

import torch

from mose.benchmarks import command
from mose.benchmarks.command import Benchmark, Report
from mose.configuration_mose import PRESETS, MoSEConfig
from mose.modeling_mose import MoSEModel

DEEP_NANO = "mose-nano-256-deep"
COLUMNS = {
    "ms": ("ms", ".1f"),
    "time(k)/time(N)": ("time_share", ".3f"),
    "k/N": ("block_share", ".3f"),
    "expected ms": ("expected_ms", ".1f"),
    "deviation %": ("deviation_percent", "+.1f"),
    "spread": ("spread", ".0%"),
}


class ExitTimes(Benchmark):
    """Times of random-weight models at every exit."""

    description = "Time of a forward at every exit, beside its share of the blocks."
    rounds = 10

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        command.add_device(parser)
        command.add_count(parser, "--batch", 32, "sequences")
        command.add_count(parser, "--tokens", 256, "tokens of each")
        parser.add_argument(
            "--models",
            nargs="+",
            choices=(DEEP_NANO, *PRESETS),
            default=[DEEP_NANO, "mose-nano-256"],
            metavar="NAME",
            help=f"presets: {', '.join(PRESETS)}; or {DEEP_NANO}, 12 blocks of mose-nano-256's width "
            "(default: that and mose-nano-256)",
        )

    def measure(self, options: argparse.Namespace) -> Report:
        return {"models": {name: self._measure_model(name, options) for name in options.models}}

    def _measure_model(self, name: str, options: argparse.Namespace) -> Report:
        torch.manual_seed(0)
        config = exit_config(name)

        # Random weights and tokens do: the time of a forward does not depend on them.
        with torch.device(options.device):
            model = MoSEModel(config).eval()
            model.to(command.DTYPES[options.dtype])  # type: ignore[arg-type]  # `to` loses its types in transformers
            ids = torch.randint(4, config.vocab_size, (options.batch, options.tokens))
            mask = torch.ones_like(ids)

        @torch.inference_mode()
        def forward(round_: int, exit_layer: int) -> None:
            model(input_ids=ids, attention_mask=mask, exit_layer=exit_layer)

        tasks = {k: partial(forward, exit_layer=k) for k in model.exit_layers}
        times = command.interleave(tasks, options.rounds, warm_up=2, device=options.device, description=name)

        report = compare_with_blocks({k: timing.median for k, timing in times.items()})
        for k, timing in times.items():
            report["exits"][str(k)]["spread"] = timing.spread
        return report

    def render(self, report: Report) -> str:
        batch = "batch {batch} × {tokens} tokens, {dtype}".format_map(report["settings"])
        return "\n\n".join(
            f"{name}: {model['blocks']} blocks, {batch}\n"
            f"{command.figures_table('exit', model['exits'], COLUMNS)}\n"
            f"fixed cost {model['fixed_ms']:.1f} ms; largest deviation {model['worst_deviation_percent']:+.1f} %"
            for name, model in report["models"].items()
        )


def exit_config(name: str) -> MoSEConfig:
    """Return a preset's configuration with exit 0 added, or that of `DEEP_NANO`."""
    if name == DEEP_NANO:
        return MoSEConfig.from_preset(
            "mose-nano-256", num_hidden_layers=12, exit_layers=[0, 1, 2, 3, 4, 6, 9, 12]
        )

    # Exit 0 runs no block: its time is the fixed cost.
    exits = MoSEConfig.from_preset(name).exit_layers
    return MoSEConfig.from_preset(name, exit_layers=sorted({0, *exits}))


def compare_with_blocks(seconds: dict[int, float]) -> Report:
    """Compare the exits' times, 0 and the deepest among them, with what their blocks predict."""
    depth = max(seconds)
    fixed, full = seconds[0], seconds[depth]

    rows = {}
    for k, time in seconds.items():
        expected = fixed + k / depth * (full - fixed)
        rows[str(k)] = {
            "ms": 1000 * time,
            "time_share": time / full,
            "block_share": k / depth,
            "expected_ms": 1000 * expected,
            "deviation_percent": 100 * (time / expected - 1),
        }

    worst = max((row["deviation_percent"] for row in rows.values()), key=abs)
    return {"blocks": depth, "fixed_ms": 1000 * fixed, "worst_deviation_percent": worst, "exits": rows}


if __name__ == "__main__":
    sys.exit(ExitTimes().main())
