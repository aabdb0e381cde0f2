"""Compare ICC, NSP and no context objective at an equal budget, over seeds.

Each run is `train_hf.py pretrain` with one `--context-objective`, the same short `train_hf.py finetune`, and
retrieval on a set in the BEIR layout at every exit. Existing results are not computed again.

    python recipes/pretraining-objectives/compare.py --source-tree DIR --tokenizer DIR --data SET --output-dir OUT
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

from mose.utils.command_line import exit_status
from mose.utils.files import atomic_write_json

SCRIPT = Path(__file__).parents[2] / "train_hf.py"
OBJECTIVES = ("icc", "nsp", "none")
SIZES = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "exit_layers": [1, 2]}
SIZES |= {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 4096}
PRETRAINING = (
    *("--preset", "mose-nano", "--config-overrides", json.dumps(SIZES), "--max-length", 256),
    *("--learning-rate", 3e-3, "--held-out", 0.12, "--eval-examples", 1024, "--per-device-eval-batch-size", 32),
)
FINETUNING = (
    *("--learning-rate", 2e-3, "--warmup-steps", 0.1, "--per-device-train-batch-size", 64),
    *("--mini-batch-size", 64, "--max-query-length", 64, "--max-document-length", 96, "--logging-steps", 10),
)
RUN = ("--use-cpu", "--report-to", "none", "--save-strategy", "no", "--disable-tqdm", "true")


def call_python(*words: object) -> None:
    """Run Python with the given command line; raises `subprocess.CalledProcessError` if it fails."""
    subprocess.run([sys.executable, *map(str, words)], check=True)


def run_objective(args: argparse.Namespace, objective: str, seed: int) -> dict[str, float]:
    """Return the MLM loss on held-out repositories and the MRR after fine-tuning, at each exit."""
    folder = args.output_dir / f"{objective}-{seed}"
    pretrained, finetuned, report = folder / "pretrained", folder / "finetuned", folder / "retrieval.json"
    trees, pair_trees = (
        [word for tree in names for word in ("--source-tree", tree)]
        for names in (args.source_tree, args.finetuning_tree or args.source_tree)
    )

    if not (pretrained / "eval_results.json").exists():
        # The held-out repositories and the tokenizer are the same for all seeds and objectives.
        limit = ["--files-per-repository", args.files_per_repository] if args.files_per_repository else []
        call_python(
            *(SCRIPT, "pretrain", *PRETRAINING, *RUN, "--seed", seed, *trees, *limit),
            *("--tokenizer", args.tokenizer, "--context-objective", objective),
            *("--max-steps", args.steps, "--output-dir", pretrained),
        )

    if not (finetuned / "model.safetensors").exists():
        call_python(
            *(SCRIPT, "finetune", "--model", pretrained, *FINETUNING, *RUN, "--seed", seed, *pair_trees),
            *("--max-steps", args.finetuning_steps, "--output-dir", finetuned),
        )
    if not report.exists():
        words = ("retrieval", "--model", finetuned, "--data", args.data, "--exit-layers", "all", "--json", report)
        call_python("-m", "mose.eval", *words)

    evaluation = json.loads((pretrained / "eval_results.json").read_text())
    exits = next(iter(json.loads(report.read_text())["sets"].values()))["exits"]
    figures = {f"mlm_loss_exit_{e}": evaluation[f"eval_mlm_loss_exit_{e}"] for e in exits}

    # Without a context objective there is no accuracy.
    if f"eval_icc_accuracy_exit_{max(exits, key=int)}" in evaluation:
        figures |= {f"context_accuracy_exit_{e}": evaluation[f"eval_icc_accuracy_exit_{e}"] for e in exits}
    return figures | {f"mrr_exit_{e}": row["mrr"] for e, row in exits.items()}


def compare_objectives(args: argparse.Namespace) -> None:
    """Run all objectives and seeds, and print their means."""
    summary: dict[str, dict[str, dict[str, float]]] = {}
    for seed in args.seeds:  # outer, so that an interrupted comparison has complete rounds
        for objective in OBJECTIVES:
            for name, value in run_objective(args, objective, seed).items():
                summary.setdefault(name, {}).setdefault(objective, {})[str(seed)] = value
        atomic_write_json(args.output_dir / "summary.json", summary)

    def cell(objective: str, values: list[float]) -> str:
        deviation = statistics.stdev(values) if len(values) > 1 else 0.0
        return f"{objective} {statistics.mean(values):.4f} ± {deviation:.4f}"

    for name, row in summary.items():
        cells = (cell(objective, list(by_seed.values())) for objective, by_seed in row.items())
        print(f"{name:24}", *cells, sep="  ")


def main() -> int:
    """Parse the arguments, run the comparison and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--source-tree", action="append", required=True, help="as in train_hf.py; may be given several times")
    add("--finetuning-tree", action="append", help="mine pairs from these instead")
    add("--files-per-repository", type=int, help="as in train_hf.py")
    add("--tokenizer", required=True, help="folder of a tokenizer of at most 4,096 tokens")
    add("--data", required=True, help="retrieval set in the BEIR layout")
    add("--output-dir", type=Path, required=True, help="folder for runs and summary")
    add("--steps", type=int, default=300, help="of pre-training (default: %(default)s)")
    add("--finetuning-steps", type=int, default=60, help="(default: %(default)s)")
    add("--seeds", type=int, nargs="+", default=[1, 2, 3], help="(default: %(default)s)")
    args = parser.parse_args()
    return exit_status(parser.prog, lambda: compare_objectives(args))


if __name__ == "__main__":
    sys.exit(main())
