#!/usr/bin/env python
"""Make the tables and the figure of the comparison from the results of `pretrain.py` and `finetune.py`.

    python recipes/depth/depth_report.py --trunks runs/depth --runs runs/depth/results

Collects the runs and their paired tests in `results.json` beside this file, and writes `docs/depth-tables.md` and
`docs/depth.png`. Without `--runs`, both are made again from `results.json`.
"""

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mose.eval.significance import intervals, permutation_p_value
from mose.utils.command_line import exit_status
from mose.utils.files import atomic_write_json, atomic_write_text

HERE = Path(__file__).parent
DOCS = HERE.parents[1] / "docs"
EXITS = (1, 2, 3, 4, 6)
SIZE = "40000x1"
#: Resamples of the tests, so that the least p is 0.0005, and of the intervals.
PERMUTATIONS, BOOTSTRAPS = 1999, 500
#: Sets whose queries are code.
CODE_SETS = ("java-csharp-dev", "mbxp-dev")
#: Comparisons at equal depth: title, first arm, second arm; {e} is the exit.
COMPARISONS = (
    ("all exits, depth weights − one model per exit, same trunk", "multi", "single-{e}"),
    ("all exits, equal weights − one model per exit, same trunk", "multi-equal", "single-{e}"),
    ("all exits, depth weights − one model per exit, trunk trained at its end", "multi", "plain-single-{e}"),
    (
        "all exits, equal weights − one model per exit, trunk trained at its end",
        "multi-equal",
        "plain-single-{e}",
    ),
    ("one model per exit: trunk pre-trained at all exits − at its end", "single-{e}", "plain-single-{e}"),
    ("all exits, equal weights − deep model cut here", "multi-equal", "cut-{e}"),
    ("all exits, equal weights − deep model cut here and distilled", "multi-equal", "cut-distilled-{e}"),
    ("all exits: trunk trained at its end − at all exits", "plain-multi", "multi"),
    ("all exits: random weights − pre-trained", "scratch-multi", "multi"),
    ("all exits: MLM alone − MLM and ICC", "mlm-multi", "multi"),
    ("all exits: self-distillation kl − none", "multi-kl", "multi"),
    ("all exits: self-distillation cosine − none", "multi-cosine", "multi"),
    ("all exits: equal weights − depth weights", "multi-equal", "multi"),
)
#: The same with few pairs.
SCARCE = "4000x2"
SCARCE_COMPARISONS = (
    ("few pairs: all exits, depth weights − one model per exit, same trunk", "multi", "single-{e}"),
    (
        "few pairs: all exits, depth weights − one model per exit, trunk trained at its end",
        "multi",
        "plain-single-{e}",
    ),
)
Ranks = dict[str, np.ndarray]


class RunResults:
    """The runs of a folder: their summaries, and every query's reciprocal rank by arm, size and seed."""

    def __init__(self, folder: Path):
        self.summaries = []
        self.ranks: dict[tuple[str, str], dict[int, Ranks]] = defaultdict(dict)
        for path in sorted(folder.glob("*.json")):
            summary = json.loads(path.read_text())
            size = f"{summary['pairs']}x{summary['epochs']}"
            self.summaries.append(summary | {"size": size})
            with np.load(path.with_suffix(".npz")) as file:
                columns = {name: file[name].astype(np.float64) for name in file.files}
            self.ranks[summary["name"], size][summary["seed"]] = columns

        if not self.summaries:
            raise SystemExit(f"{folder}: no runs. Make them with recipes/depth/finetune.py.")
        first = next(iter(self.ranks["multi", SIZE].values()))
        self.sets = sorted({name.partition("/")[2] for name in first})

    def per_query(self, arm: str, size: str, exit_layer: int, seeds: Sequence[int], sets: Sequence[str]) -> Ranks:
        """Return set -> (queries,) reciprocal ranks at an exit, averaged over seeds."""
        runs = self.ranks[arm, size]
        return {name: np.mean([runs[s][f"{exit_layer}/{name}"] for s in seeds], axis=0) for name in sets}

    def compare(self, title: str, first: str, second: str, size: str) -> dict[str, Any]:
        """Compare two arms at every exit that both have, over the queries of all sets and the seeds of both."""
        cells = {}
        for e in EXITS:
            arms = [arm.format(e=e) for arm in (first, second)]
            if any((arm, size) not in self.ranks for arm in arms):
                continue

            seeds = sorted(set(self.ranks[arms[0], size]) & set(self.ranks[arms[1], size]))
            one, two = (self.per_query(arm, size, e, seeds, self.sets) for arm in arms)
            differences = {name: one[name] - two[name] for name in self.sets}
            pooled = [np.concatenate(list(ranks.values())) for ranks in (one, two)]
            low, high = intervals({"difference": pooled[0] - pooled[1]}, resamples=BOOTSTRAPS)["difference"]
            cells[e] = {
                "mean_of_sets": mean_of_sets(differences),
                "text_sets": mean_of_sets(differences, code=False),
                "code_sets": mean_of_sets(differences, code=True),
                "over_queries": float((pooled[0] - pooled[1]).mean()),
                "interval": [low, high],
                "p": permutation_p_value(*pooled, resamples=PERMUTATIONS),
                "seeds": seeds,
            }
        return {"title": title, "first": first, "second": second, "size": size, "exits": cells}

    def exits_against_best(self, arm: str) -> dict[int, float]:
        """Return exit -> p of a paired test between it and the arm's best exit, over all queries."""
        seeds = sorted(self.ranks[arm, SIZE])
        pooled = {e: np.concatenate(list(self.per_query(arm, SIZE, e, seeds, self.sets).values())) for e in EXITS}
        best = max(EXITS, key=lambda e: pooled[e].mean())
        return {e: permutation_p_value(pooled[e], pooled[best], PERMUTATIONS) for e in EXITS if e != best}


def mean_of_sets(values: Ranks, code: bool | None = None) -> float:
    """Return the mean of the sets' means; of the sets with queries in code or in text alone if asked for."""
    return float(np.mean([v.mean() for name, v in values.items() if code in (None, name in CODE_SETS)]))


def collect_results(runs: Path, trunks: Path) -> dict[str, Any]:
    """Return everything that tables and figure show: pre-training, arms by exit and set, comparisons."""
    results = RunResults(runs)
    arms: dict[str, Any] = {}
    for (arm, size), by_seed in sorted(results.ranks.items()):
        exits = sorted({int(name.partition("/")[0]) for name in next(iter(by_seed.values()))})
        sets = {
            e: {
                name: [round(float(ranks[f"{e}/{name}"].mean()), 4) for _, ranks in sorted(by_seed.items())]
                for name in results.sets
            }
            for e in exits
        }
        arms[f"{arm} {size}"] = {"seeds": sorted(by_seed), "mrr": sets}

    comparisons = [results.compare(*comparison, SIZE) for comparison in COMPARISONS]
    comparisons += [results.compare(*comparison, SCARCE) for comparison in SCARCE_COMPARISONS]
    pretraining = {
        path.parent.name: json.loads(path.read_text()) for path in sorted(trunks.glob("*/pretraining.json"))
    }
    fields = ("name", "size", "seed", "trunk", "learning_rate", "steps", "batch_size", "seconds", "losses")
    return {
        "pretraining": pretraining,
        "queries": {name: len(v) for name, v in results.per_query("multi", SIZE, 1, [0], results.sets).items()},
        "arms": arms,
        "comparisons": comparisons,
        "exits_against_best": {arm: results.exits_against_best(arm) for arm in ("multi", "multi-equal")},
        "runs": [{field: summary[field] for field in fields} for summary in results.summaries],
    }


def arm_mean(
    data: dict[str, Any], arm: str, exit_layer: int, code: bool | None = None, size: str = SIZE
) -> float:
    """Return an arm's MRR at an exit: mean over seeds, then over sets."""
    sets = data["arms"][f"{arm} {size}"]["mrr"][str(exit_layer)]
    return mean_of_sets({name: np.array(values) for name, values in sets.items()}, code)


def _table_of(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in (header, *rows)]
    return "\n".join([lines[0], "|---|" + "---:|" * (len(header) - 1), *lines[1:]])


def tables(data: dict[str, Any]) -> str:
    """Return the page of tables."""
    exits = [f"exit {e}" for e in EXITS]
    arm_rows = []
    for arm in data["arms"]:
        name, _, size = arm.rpartition(" ")
        own = data["arms"][arm]["mrr"]
        cells = [f"{arm_mean(data, name, e, size=size):.3f}" if str(e) in own else "" for e in EXITS]
        arm_rows.append([f"`{name}`", size.replace("x", " × "), str(len(data["arms"][arm]["seeds"])), *cells])

    comparison_rows = [
        [comparison["title"], *(_cell(comparison["exits"].get(str(e))) for e in EXITS)]
        for comparison in data["comparisons"]
    ]
    set_rows = [
        [name, str(count), *(f"{np.mean(_mrr(data, 'multi-equal', e)[name]):.3f}" for e in EXITS)]
        for name, count in data["queries"].items()
    ]
    pretraining_rows = []
    for arm, run in data["pretraining"].items():
        last = run["log"][-1]
        for task in ("mlm", "icc"):
            values = last.get(f"{task}_accuracies", {})
            if values:
                cells = [f"{values[str(e)]:.3f}" if str(e) in values else "" for e in EXITS]
                pretraining_rows.append([f"`{arm}`", task.upper(), *cells])

    parts = [
        "# What depth brings: the tables",
        "Made by `python recipes/depth/depth_report.py`; [depth.md](depth.md) describes the runs and what holds.",
        "## Pre-training: accuracy on held-out repositories",
        _table_of(["arm", "task", *exits], pretraining_rows),
        "## MRR by arm, mean over seeds and sets",
        _table_of(["arm", "pairs × epochs", "seeds", *exits], arm_rows),
        "## Differences at equal depth",
        "MRR, mean of the sets' differences; in brackets p of a paired permutation test over the queries of all "
        "sets, each averaged over the seeds that both arms have.",
        _table_of(["", *exits], comparison_rows),
        "## By set: all exits in one model, equal weights",
        _table_of(["set", "queries", *exits], set_rows),
    ]
    return "\n\n".join(parts) + "\n"


def _mrr(data: dict[str, Any], arm: str, exit_layer: int) -> dict[str, list[float]]:
    return data["arms"][f"{arm} {SIZE}"]["mrr"][str(exit_layer)]


def _cell(values: dict[str, Any] | None) -> str:
    if values is None:
        return ""
    p = "≤ 0.001" if values["p"] <= 0.001 else f"{values['p']:.3f}"
    return f"{values['mean_of_sets']:+.3f} ({p})"


def main() -> int:
    """Collect the runs if there are new ones, write tables and figure, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, help="folder of finetune.py; default: results.json as it is")
    parser.add_argument("--trunks", type=Path, help="folder with the folders of pretrain.py")
    options = parser.parse_args()
    if options.runs and not options.trunks:
        parser.error("--runs needs --trunks, the folder with the folders of pretrain.py.")

    def run() -> None:
        # matplotlib is needed here only.
        from depth_figure import draw_comparison

        path = HERE / "results.json"
        if options.runs:
            atomic_write_json(path, collect_results(options.runs, options.trunks))
        data = json.loads(path.read_text())
        atomic_write_text(DOCS / "depth-tables.md", tables(data))
        draw_comparison(data, DOCS / "depth.png")

    return exit_status(parser.prog, run)


if __name__ == "__main__":
    sys.exit(main())
