"""Draws what a run measured on held-out repositories: `python -m mose.training.curves OUT --png FILE`.

Three panels over the steps, a line per exit: MLM loss (nats per masked token), MLM accuracy, ICC accuracy.
"""

import argparse
import json
import re
import sys
from collections import defaultdict
from pathlib import Path

PANELS = {"mlm_loss": "MLM loss (nats)", "mlm_accuracy": "MLM accuracy", "icc_accuracy": "ICC accuracy"}


def read_curves(run: Path) -> dict[str, dict[int, list[tuple[int, float]]]]:
    """Of each panel's figure, for each exit, (step, value) in the order of the steps.

    Raises:
        ValueError: the folder holds no log, or one without evaluations.
    """
    path = run / "trainer_state.json"
    try:
        history = json.loads(path.read_text())["log_history"]
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{path}: no log of a run ({error})") from error
    curves: dict[str, dict[int, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for line in history:
        for name, value in line.items():
            if found := re.fullmatch(r"eval_(\w+)_exit_(\d+)", name):
                curves[found[1]][int(found[2])][line["step"]] = value
    if not curves:
        raise ValueError(f"{path}: no evaluation in it; train with --eval-strategy steps")
    return {name: {e: sorted(points.items()) for e, points in exits.items()} for name, exits in curves.items()}


def draw(run: Path, png: Path) -> None:
    """Writes the picture of a run; errors as in `read_curves`."""
    curves = read_curves(run)
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


def main(argv: list[str] | None = None) -> int:
    """Returns 0, or 2 where there is nothing to draw."""
    parser = argparse.ArgumentParser(prog="python -m mose.training.curves", description=draw.__doc__)
    parser.add_argument("run", type=Path, help="output folder of train_hf.py pretrain, or one of its checkpoints")
    parser.add_argument("--png", type=Path, required=True, help="where the picture goes")
    args = parser.parse_args(argv)
    try:
        draw(args.run, args.png)
    except (ValueError, OSError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
