"""Does an exit cost what its blocks cost? Forward time of every exit over full depth, beside blocks over depth.

What a forward costs before and after its blocks (embedding, norm, pooling, projection) is the time of exit 0.
Exit k of N blocks is therefore expected to take `fixed + k / N * (time(N) - fixed)`.
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial

import torch
from command import DTYPES, Report, add_device, new_parser, positive, run, table
from timing import interleave

from mose.configuration_mose import PRESETS, MoSEConfig
from mose.modeling_mose import MoSEModel

DEEP_NANO = "mose-nano-12"


def configuration(name: str) -> MoSEConfig:
    """A preset, with exit 0 added where it lacks it; or `DEEP_NANO`, 12 blocks as wide as mose-nano's."""
    if name == DEEP_NANO:
        return MoSEConfig.from_preset("mose-nano", num_hidden_layers=12, exit_layers=[0, 1, 2, 3, 4, 6, 9, 12])
    exits = MoSEConfig.from_preset(name).exit_layers
    return MoSEConfig.from_preset(name, exit_layers=sorted({0, *exits}))


def measure(args: argparse.Namespace) -> Report:
    device = torch.device(args.device)
    synchronise = partial(torch.cuda.synchronize, device) if device.type == "cuda" else lambda: None
    report: Report = {"models": {}}
    for name in args.models:
        torch.manual_seed(0)
        config = configuration(name)
        with device:
            model = MoSEModel(config).to(DTYPES[args.dtype]).eval()
            ids = torch.randint(4, config.vocab_size, (args.batch, args.tokens))
            mask = torch.ones_like(ids)

        def forward(round_: int, exit_layer: int, model=model, ids=ids, mask=mask) -> None:
            model(input_ids=ids, attention_mask=mask, exit_layer=exit_layer)

        with torch.inference_mode():
            times = interleave(
                {k: partial(forward, exit_layer=k) for k in model.exit_layers},
                args.rounds,
                warm_up=2,
                synchronise=synchronise,
                description=name,
            )
        report["models"][name] = compare({k: t.median for k, t in times.items()})
        for k, row in report["models"][name]["exits"].items():
            row["spread"] = times[int(k)].spread
    return report


def compare(seconds: dict[int, float]) -> Report:
    """Times of the exits, 0 and the deepest among them, beside what their blocks let expect."""
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


def render(report: Report) -> str:
    settings, parts = report["settings"], []
    for name, model in report["models"].items():
        rows = [
            [
                k,
                f"{row['ms']:.1f}",
                f"{row['time_share']:.3f}",
                f"{row['block_share']:.3f}",
                f"{row['expected_ms']:.1f}",
                f"{row['deviation_percent']:+.1f} %",
                f"{100 * row['spread']:.0f} %",
            ]
            for k, row in model["exits"].items()
        ]
        parts.append(
            f"{name}: {model['blocks']} blocks, batch {settings['batch']} × {settings['tokens']} tokens, "
            f"{settings['dtype']}\n"
            + table(["exit", "ms", "time(k)/time(N)", "k/N", "expected ms", "deviation", "spread"], rows)
            + f"\nfixed cost {model['fixed_ms']:.1f} ms; largest deviation "
            f"{model['worst_deviation_percent']:+.1f} %"
        )
    return "\n\n".join(parts)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = new_parser("Time of a forward at every exit, beside its share of the blocks.", rounds=10)
    add_device(parser)
    parser.add_argument(
        "--batch", type=positive, default=32, metavar="N", help="sequences (default: %(default)s)"
    )
    parser.add_argument(
        "--tokens", type=positive, default=256, metavar="N", help="tokens of each (default: %(default)s)"
    )
    parser.add_argument(
        "--models",
        nargs="+",
        choices=(DEEP_NANO, *PRESETS),
        default=[DEEP_NANO, "mose-nano"],
        metavar="NAME",
        help=f"presets, with random weights: {', '.join(PRESETS)}; or {DEEP_NANO}, which is 12 blocks as wide as "
        "mose-nano's (default: that and mose-nano)",
    )
    return run(parser, measure, render, arguments)


if __name__ == "__main__":
    sys.exit(main())
