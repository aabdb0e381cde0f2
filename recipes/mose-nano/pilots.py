#!/usr/bin/env python
"""Compare ingredients of the recipe in short runs of equal steps from one start: pilots.yaml.

    python recipes/mose-nano/pilots.py --develop SET … [flags of recipe.py]

Each arm is a run of one stage with a few settings changed. Arms that are done are not run again.
`pilots-SEED.json` in the output folder has the MRR of every arm, set and exit; the printed table has means over
groups of sets.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from curve import DevelopmentCurve, mean_mrr
from datasets import Dataset
from hard_negatives import attach_negatives
from recipe import HERE, Material, add_arguments, load_recipe, prepare, start_model, train_stage
from transformers import set_seed
from weights import widened_start

from mose.utils.command_line import exit_status
from mose.utils.files import atomic_write_json

#: Columns of the table: name, and how the names of its sets begin.
GROUPS = {"docs": "docs-", "docstring": "docstring-", "cosqa": "cosqa", "mbxp": "mbxp"}
GROUPS |= {"java-csharp": "java-csharp", "all": ""}


def select_rows(pairs: Dataset, arm: Mapping[str, Any]) -> Dataset:
    """Return the pairs of an arm: those with the values of `only`, without those of `without`."""
    keep = list(range(len(pairs)))
    for rule, wanted in (("only", True), ("without", False)):
        for column, values in arm.get(rule, {}).items():
            if missing := set(values) - set(pairs.unique(column)):
                raise ValueError(f"{rule}: no pair has {column} {', '.join(sorted(missing))}. Check pilots.yaml.")
            cells = pairs[column][:]
            keep = [row for row in keep if (cells[row] in values) == wanted]
    return pairs.select(keep)


def run_arm(
    name: str,
    options: argparse.Namespace,
    recipe: Mapping[str, Any],
    pilots: Mapping[str, Any],
    material: Material,
) -> dict[str, dict[str, float]]:
    """Train one arm, unless that is done, and return set -> exit -> MRR at its end, as `DevelopmentCurve`."""
    arm, stage_name = pilots["arms"][name], pilots["stage"]
    folder = options.output_dir / "pilots" / f"{name.replace(' ', '-')}-{recipe['seed']}"
    curve = folder / "curve.jsonl"
    if not (folder / "done").exists():
        if "teachers" in arm:
            material = prepare(options, recipe, arm["teachers"])
        pairs = select_rows(material.pairs, arm)
        if negatives := arm.get("hard_negatives"):
            settings = recipe["hard_negatives"] | negatives
            pairs = attach_negatives(pairs, material.vectors, seed=recipe["seed"], **settings)
        material = material._replace(pairs=pairs)

        set_seed(recipe["seed"])
        stage = recipe["stages"][stage_name] | {"max_steps": pilots["max_steps"], "seed": recipe["seed"]}
        settings = {**recipe["common"], **stage, **arm.get("common", {})}
        exit_layer = settings.pop("exit_layer", None)
        model = start_model(options, recipe, material, options.start, exit_layer)

        folder.mkdir(parents=True, exist_ok=True)
        measure = DevelopmentCurve(name, options.develop, material.tokenizer, curve, options.develop_steps)
        train_stage(folder, settings, model, material, [measure])
    return json.loads(curve.read_text().splitlines()[-1])["mrr"]


def table(results: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """Return the mean MRR of each arm by group of sets at the shallowest and the deepest exit, and mixed."""
    lines = ["| arm | exit | " + " | ".join(GROUPS) + " |", "|---|---|" + "---:|" * len(GROUPS)]
    for name, sets in results.items():
        shallowest, *others = next(iter(sets.values()))
        for exit_layer in (shallowest, *others[-2:]):
            means = [mean_mrr(sets, exit_layer, [start]) for start in GROUPS.values()]
            cells = ["" if mean is None else f"{mean:.4f}" for mean in means]
            lines.append(f"| {name} | {exit_layer} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def run_pilots(options: argparse.Namespace) -> None:
    """Run all arms and write what came of them."""
    if not options.develop:
        raise ValueError("Pilots are compared on development sets. Pass --develop SET …")

    recipe = load_recipe(options.recipe)
    recipe["seed"] = recipe["seed"] if options.seed is None else options.seed
    recipe["hard_negatives"]["share"] = 0.0  # an arm's own
    pilots = yaml.safe_load(options.pilots.read_text())
    names: Sequence[str] = options.arm or list(pilots["arms"])
    if unknown := set(names) - set(pilots["arms"]):
        raise ValueError(f"--arm must be one of {', '.join(pilots['arms'])}, got {', '.join(sorted(unknown))}.")

    material = prepare(options, recipe)
    options.start = widened_start(options, recipe, material.tokenizer, material.teachers)
    results = {}
    for name in names:
        results[name] = run_arm(name, options, recipe, pilots, material)
        atomic_write_json(options.output_dir / f"pilots-{recipe['seed']}.json", results)
    print(table(results))


def main() -> int:
    """Parse the arguments, run the pilots and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    add = parser.add_argument
    add("--pilots", type=Path, default=HERE / "pilots.yaml", help="what is compared")
    add("--arm", nargs="*", help="arms to run; default: all")

    options = parser.parse_args()
    return exit_status(parser.prog, lambda: run_pilots(options))


if __name__ == "__main__":
    sys.exit(main())
