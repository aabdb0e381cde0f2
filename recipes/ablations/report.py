#!/usr/bin/env python
"""Tables and heat map of the ablations, out of what `ablate.py` has kept.

    python recipes/ablations/report.py --runs runs/ablations

gathers the runs in `results.json` beside this file and writes `docs/finetuning-ablations.md` and
`docs/finetuning-exits.png`. Without `--runs` it makes both again from `results.json`.
"""

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
DOCS = HERE.parents[1] / "docs"
MATRICES = ("none", "kl", "cosine", "align", "none-alike", "align-alike", "shipped")
TITLES = {
    "none": "none",
    "kl": "distillation kl",
    "cosine": "distillation cosine",
    "align": "align",
    "none-alike": "none, exits start alike",
    "align-alike": "align, exits start alike",
    "shipped": "mose-nano as shipped",
}
Run = dict


def collect(folder: Path) -> list[Run]:
    """The runs that are there, by seed and arm."""
    runs = [json.loads(path.read_text()) for path in sorted(folder.glob("*-?.json"))]
    if not runs:
        raise SystemExit(f"{folder}: no runs; recipes/ablations/ablate.py makes them")
    return sorted(runs, key=lambda run: (run["seed"], run["arm"]))


def spread(values: np.ndarray, signed: bool = False) -> str:
    """Mean and standard deviation over seeds."""
    sign = "+" if signed else ""
    if len(values) < 2:
        return f"{values.mean():{sign}.3f}"
    return f"{values.mean():{sign}.3f} ± {values.std(ddof=1):.3f}"


def mean_mrr(run: Run, query: str, document: str) -> float:
    """Over the sets."""
    return float(np.mean([matrix[query][document] for matrix in run["mrr"].values()]))


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|---|" + "---:|" * (len(header) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def depth_tables(by_arm: dict[str, list[Run]], exits: Sequence[str], sets: Sequence[str]) -> list[str]:
    """All exits in one model against one model for each depth."""
    rows = []
    for at in exits:
        alone = by_arm.get(f"alone-{at}", [])
        pairs = [(m, a) for m in by_arm["none"] for a in alone if m["seed"] == a["seed"]]
        if not pairs:
            continue
        together, apart = (np.array([mean_mrr(run, at, at) for run in side]) for side in zip(*pairs, strict=True))
        cells = [
            spread(np.array([m["mrr"][name][at][at] - a["mrr"][name][at][at] for m, a in pairs]), signed=True)
            for name in sets
        ]
        rows.append(
            [f"exit {at}", spread(together), spread(apart), spread(together - apart, signed=True), *cells]
        )
    header = ["", "all exits", "alone", "difference", *(f"difference, {name}" for name in sets)]
    return [table(header, rows)]


def distillation_table(by_arm: dict[str, list[Run]], exits: Sequence[str], sets: Sequence[str]) -> str:
    rows = []
    for arm in MATRICES[:-1]:
        runs = by_arm.get(arm, [])
        pairs = [(run, plain) for run in runs for plain in by_arm["none"] if run["seed"] == plain["seed"]]
        if not pairs:
            continue
        cells = []
        for at in exits:
            values = np.array([mean_mrr(run, at, at) for run in runs])
            change = np.array([mean_mrr(run, at, at) - mean_mrr(plain, at, at) for run, plain in pairs])
            cells.append(spread(values) + ("" if arm == "none" else f" ({spread(change, signed=True)})"))
        rows.append([TITLES[arm], *cells])
    return table(["", *(f"exit {at}" for at in exits)], rows)


def matrix(runs: Sequence[Run], exits: Sequence[str]) -> np.ndarray:
    """(seeds, query exits, document exits), the mean over sets."""
    return np.array([[[mean_mrr(run, q, d) for d in exits] for q in exits] for run in runs])


def matrix_table(runs: Sequence[Run], exits: Sequence[str]) -> str:
    values = matrix(runs, exits)
    rows = [[f"query at {q}", *(spread(values[:, i, j]) for j in range(len(exits)))] for i, q in enumerate(exits)]
    return table(["", *(f"documents at {d}" for d in exits)], rows)


def heat_map(by_arm: dict[str, list[Run]], exits: Sequence[str], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    arms = [arm for arm in MATRICES if by_arm.get(arm)]
    figure, axes = pyplot.subplots(1, len(arms), figsize=(2.5 * len(arms), 3.0), sharey=True, squeeze=False)
    for axis, arm in zip(axes[0], arms, strict=True):
        values = matrix(by_arm[arm], exits).mean(axis=0)
        image = axis.imshow(values, vmin=0, vmax=1, cmap="viridis")
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
    by_arm: dict[str, list[Run]] = {}
    for run in runs:
        by_arm.setdefault(run["arm"], []).append(run)
    sets = list(by_arm["none"][0]["mrr"])
    exits = list(by_arm["none"][0]["mrr"][sets[0]])
    counts = ", ".join(f"{arm} {len(of_arm)}" for arm, of_arm in by_arm.items())
    parts = [
        "# Ablations of fine-tuning: the tables",
        "Made by `python recipes/ablations/report.py` from the runs of `recipes/ablations/ablate.py`; "
        "[finetuning.md](finetuning.md) says how they were trained and what they show.",
        f"MRR, mean over {', '.join(sets)} unless a column says otherwise; mean ± standard deviation over seeds; "
        "differences are taken between runs of the same seed. "
        f"{max(run['steps'] for run in runs)} steps each; runs: {counts}.",
        "## All exits in one model against one model for each depth",
        *depth_tables(by_arm, exits, sets),
        "## Self-distillation and alignment, each exit asked about itself",
        "In brackets the change against none.",
        distillation_table(by_arm, exits, sets),
        "## Queries at one exit, documents at another",
        "![Heat maps](finetuning-exits.png)",
    ]
    for arm in MATRICES:
        if by_arm.get(arm):
            parts += [f"### {TITLES[arm]}", matrix_table(by_arm[arm], exits)]
    heat_map(by_arm, exits, DOCS / "finetuning-exits.png")
    return "\n\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, help="folder of ablate.py's runs; default: results.json as it is")
    options = parser.parse_args()
    results = HERE / "results.json"
    if options.runs:
        results.write_text(json.dumps(collect(options.runs), indent=0) + "\n")
    (DOCS / "finetuning-ablations.md").write_text(document(json.loads(results.read_text())))


if __name__ == "__main__":
    main()
