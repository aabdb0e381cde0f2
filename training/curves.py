"""Plot the held-out metrics of a pre-training run per exit: `python -m mose.training.curves OUT --png FILE`."""

import argparse
import json
import re
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from mose.utils.command_line import exit_status

PANELS = {"mlm_loss": "MLM loss (nats)", "mlm_accuracy": "MLM accuracy", "icc_accuracy": "ICC accuracy"}


def read_curves(run: Path) -> dict[str, dict[int, list[tuple[int, float]]]]:
    """Return metric → exit → [(step, value)], in the order of the steps.

    Raises:
        ValueError: the folder has no log, or a log without evaluations.
    """
    path = run / "trainer_state.json"
    try:
        history = json.loads(path.read_text())["log_history"]
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{path} is not the log of a run ({error}). Pass a run's output folder.") from error

    curves: dict[str, dict[int, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for line in history:
        for name, value in line.items():
            if match := re.fullmatch(r"eval_(\w+)_exit_(\d+)", name):
                curves[match[1]][int(match[2])][line["step"]] = value

    if not curves:
        raise ValueError(f"{path} has no evaluation. Train with --eval-strategy steps.")
    return {name: {e: sorted(points.items()) for e, points in exits.items()} for name, exits in curves.items()}


def plot_curves(run: Path, png: Path) -> None:
    """Write the plot of a run; raises what `read_curves` does."""
    curves = read_curves(run)

    # Loaded late: it takes longer than refusing a bad argument.
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    panels = [name for name in PANELS if name in curves]
    figure, axes = pyplot.subplots(1, len(panels), figsize=(4.2 * len(panels), 3.4), squeeze=False)

    for axis, name in zip(axes[0], panels, strict=True):
        for depth, points in sorted(curves[name].items()):
            axis.plot(*zip(*points, strict=True), marker=".", label=f"exit {depth}")
        if name == "icc_accuracy":
            axis.axhline(0.5, color="grey", linestyle=":", label="chance")
        axis.set(title=PANELS[name], xlabel="step")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)

    figure.tight_layout()
    figure.savefig(png, dpi=80)
    pyplot.close(figure)


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit code: 0, or 2 if there is nothing to plot."""
    parser = argparse.ArgumentParser(prog="python -m mose.training.curves", description=__doc__)
    parser.add_argument("run", type=Path, help="output folder of train_hf.py pretrain, or one of its checkpoints")
    parser.add_argument("--png", type=Path, required=True, help="file to write the plot to")
    options = parser.parse_args(arguments)

    return exit_status(parser.prog, lambda: plot_curves(options.run, options.png), (ValueError, OSError))


if __name__ == "__main__":
    sys.exit(main())
