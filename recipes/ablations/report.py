#!/usr/bin/env python
"""Make the tables and the heat map of the ablations from the figures of `ablate.py`.

    python recipes/ablations/report.py --runs runs/ablations

Collects the runs in `results.json` beside this file, and writes `docs/finetuning-ablations.md` and
`docs/finetuning-exits.png`. Without `--runs`, both are made again from `results.json`.
"""

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from mose.utils.command_line import exit_status
from mose.utils.files import atomic_write_json, atomic_write_text

HERE = Path(__file__).parent
DOCS = HERE.parents[1] / "docs"
MATRICES = ("none", "kl", "cosine", "align", "none-alike", "align-alike", "shipped")
TITLES = {"kl": "distillation kl", "cosine": "distillation cosine", "shipped": "mose-nano as shipped"}
TITLES |= {"none": "none", "none-alike": "none, exits start alike"}
TITLES |= {"align": "align", "align-alike": "align, exits start alike"}
Run = dict


def collect(folder: Path) -> list[Run]:
    """Return the runs in a folder, by seed and arm."""
    runs = [json.loads(path.read_text()) for path in sorted(folder.glob("*-?.json"))]
    if not runs:
        raise SystemExit(f"{folder}: no runs. Make them with recipes/ablations/ablate.py.")
    return sorted(runs, key=lambda run: (run["seed"], run["arm"]))


def spread(values: np.ndarray, signed: bool = False) -> str:
    """Return mean ± standard deviation over seeds, as text."""
    mean = f"{values.mean():{'+' if signed else ''}.3f}"
    return mean if len(values) < 2 else f"{mean} ± {values.std(ddof=1):.3f}"


def mean_mrr(run: Run, query: str, document: str) -> float:
    """Return the MRR of queries at one exit and documents at another, averaged over the sets."""
    return float(np.mean([matrix[query][document] for matrix in run["mrr"].values()]))


def _markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in (header, *rows)]
    return "\n".join([lines[0], "|---|" + "---:|" * (len(header) - 1), *lines[1:]])


def _same_seed(runs: Sequence[Run], others: Sequence[Run]) -> list[tuple[Run, Run]]:
    return [(run, other) for run in runs for other in others if run["seed"] == other["seed"]]


def depth_table(by_arm: dict[str, list[Run]], exits: Sequence[str], sets: Sequence[str]) -> str:
    """Compare all exits in one model with one model for each depth."""
    rows = []
    for e in exits:
        pairs = _same_seed(by_arm["none"], by_arm.get(f"alone-{e}", []))
        if not pairs:
            continue

        joint, alone = (np.array([mean_mrr(run, e, e) for run in side]) for side in zip(*pairs, strict=True))
        differences = [np.array([m["mrr"][name][e][e] - a["mrr"][name][e][e] for m, a in pairs]) for name in sets]
        cells = [spread(values, signed=True) for values in (joint - alone, *differences)]
        rows.append([f"exit {e}", spread(joint), spread(alone), *cells])

    return _markdown(["", "all exits", "alone", "difference", *(f"difference, {name}" for name in sets)], rows)


def distillation_table(by_arm: dict[str, list[Run]], exits: Sequence[str]) -> str:
    """Compare every arm with `none`, at each exit."""
    rows = []
    for arm in MATRICES[:-1]:
        pairs = _same_seed(by_arm.get(arm, []), by_arm["none"])
        if not pairs:
            continue

        cells = []
        for e in exits:
            values = np.array([mean_mrr(run, e, e) for run in by_arm[arm]])
            change = np.array([mean_mrr(run, e, e) - mean_mrr(plain, e, e) for run, plain in pairs])
            cells.append(spread(values) + ("" if arm == "none" else f" ({spread(change, signed=True)})"))
        rows.append([TITLES[arm], *cells])

    return _markdown(["", *(f"exit {e}" for e in exits)], rows)


def mrr_matrix(runs: Sequence[Run], exits: Sequence[str]) -> np.ndarray:
    """Return MRR (seeds, query exits, document exits), averaged over the sets."""
    return np.array([[[mean_mrr(run, q, d) for d in exits] for q in exits] for run in runs])


def matrix_table(runs: Sequence[Run], exits: Sequence[str]) -> str:
    """Return `mrr_matrix` as a table, with its spread over seeds."""
    values = mrr_matrix(runs, exits)
    rows = [[f"query at {q}", *(spread(values[:, i, j]) for j in range(len(exits)))] for i, q in enumerate(exits)]
    return _markdown(["", *(f"documents at {d}" for d in exits)], rows)


def heat_map(by_arm: dict[str, list[Run]], exits: Sequence[str], path: Path) -> None:
    """Plot the `mrr_matrix` of every arm, averaged over seeds."""
    import matplotlib  # slow to import

    matplotlib.use("Agg")
    from matplotlib import pyplot

    arms = [arm for arm in MATRICES if by_arm.get(arm)]
    figure, axes = pyplot.subplots(1, len(arms), figsize=(2.5 * len(arms), 3.0), sharey=True, squeeze=False)
    for axis, arm in zip(axes[0], arms, strict=True):
        values = mrr_matrix(by_arm[arm], exits).mean(axis=0)
        image = axis.imshow(values, vmin=0, vmax=1, cmap="viridis")

        # Dark text on the bright end of the colour map.
        for (i, j), value in np.ndenumerate(values):
            colour = "black" if value > 0.6 else "white"
            axis.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=8, color=colour)

        axis.set(xticks=range(len(exits)), yticks=range(len(exits)), xticklabels=exits, yticklabels=exits)
        axis.set_title(TITLES[arm].replace(", ", "\n"), fontsize=9)
        axis.set_xlabel("exit of the documents", fontsize=8)

    axes[0][0].set_ylabel("exit of the query")
    figure.colorbar(image, ax=list(axes[0]), label="MRR, mean over sets", shrink=0.8)
    figure.savefig(path, dpi=110, bbox_inches="tight")


def document(runs: list[Run]) -> str:
    """Return the text of `docs/finetuning-ablations.md`, and write its heat map."""
    by_arm: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        by_arm[run["arm"]].append(run)
    sets = list(by_arm["none"][0]["mrr"])
    exits = list(by_arm["none"][0]["mrr"][sets[0]])

    counts = ", ".join(f"{arm} {len(arm_runs)}" for arm, arm_runs in by_arm.items())
    parts = [
        "# Ablations of fine-tuning: the tables",
        "Made by `python recipes/ablations/report.py` from the runs of `recipes/ablations/ablate.py`; "
        "[finetuning.md](finetuning.md) describes the runs and the results.",
        f"MRR, mean over {', '.join(sets)} unless a column says otherwise; mean ± standard deviation over seeds; "
        "differences are taken between runs of the same seed. "
        f"{max(run['steps'] for run in runs)} steps each; runs: {counts}.",
        "## All exits in one model against one model for each depth",
        depth_table(by_arm, exits, sets),
        "## Self-distillation and alignment, queries and documents at the same exit",
        "In brackets: the change from none.",
        distillation_table(by_arm, exits),
        "## Queries at one exit, documents at another",
        "![Heat maps](finetuning-exits.png)",
    ]
    for arm in MATRICES:
        if by_arm.get(arm):
            parts += [f"### {TITLES[arm]}", matrix_table(by_arm[arm], exits)]
    heat_map(by_arm, exits, DOCS / "finetuning-exits.png")
    return "\n\n".join(parts) + "\n"


def make_report(runs: Path | None) -> None:
    """Collect the runs, if a folder of them is given, and write both files."""
    results = HERE / "results.json"
    if runs:
        atomic_write_json(results, collect(runs), indent=0)
    atomic_write_text(DOCS / "finetuning-ablations.md", document(json.loads(results.read_text())))


def main() -> int:
    """Parse the arguments, write the report and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, help="folder of ablate.py's runs; default: use results.json")
    options = parser.parse_args()
    return exit_status(parser.prog, lambda: make_report(options.runs))


if __name__ == "__main__":
    sys.exit(main())
