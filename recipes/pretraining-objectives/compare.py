"""ICC against NSP against no context objective, at an equal budget, over seeds.

Each run is `train_hf.py pretrain` with another `--context-objective`, then the same short `train_hf.py finetune`,
then retrieval over a set in the BEIR layout at every exit. Runs that are there already are not done again.

    python recipes/pretraining-objectives/compare.py --source-tree DIR --tokenizer DIR --data SET \\
        --output-dir runs/objectives
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

OBJECTIVES = ("icc", "nsp", "none")
SIZES = {
    "hidden_size": 64,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "exit_layers": [1, 2],
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 4096,
}


def call(*words: object) -> None:
    subprocess.run([sys.executable, *map(str, words)], check=True)


def one_run(args: argparse.Namespace, objective: str, seed: int) -> dict[str, float]:
    """MLM loss on held-out repositories, and MRR after fine-tuning, at each exit."""
    out = args.output_dir / f"{objective}-{seed}"
    trees, pair_trees = (
        [word for tree in listed for word in ("--source-tree", tree)]
        for listed in (args.source_tree, args.finetuning_tree or args.source_tree)
    )
    common = [
        *("--use-cpu", "--report-to", "none", "--save-strategy", "no"),
        *("--disable-tqdm", "true", "--seed", seed),
    ]
    capped = ["--files-per-repository", args.files_per_repository] if args.files_per_repository else []
    script = Path(__file__).parents[2] / "train_hf.py"
    if not (out / "pretrained" / "eval_results.json").exists():
        # What is held out, and the tokenizer, depend on no seed and no objective.
        call(
            *(script, "pretrain", "--preset", "mose-nano", "--config-overrides", json.dumps(SIZES), *trees),
            *(*capped, "--tokenizer", args.tokenizer, "--context-objective", objective, "--max-length", 256),
            *("--max-steps", args.steps, "--learning-rate", 3e-3, "--held-out", 0.12, "--eval-examples", 1024),
            *("--per-device-eval-batch-size", 32, "--output-dir", out / "pretrained", *common),
        )
    if not (out / "finetuned" / "model.safetensors").exists():
        call(
            *(script, "finetune", "--model", out / "pretrained", *pair_trees),
            *("--max-steps", args.finetuning_steps, "--learning-rate", 2e-3, "--warmup-steps", 0.1),
            *("--per-device-train-batch-size", 64, "--mini-batch-size", 64),
            *("--max-query-length", 64, "--max-document-length", 96, "--logging-steps", 10),
            *("--output-dir", out / "finetuned", *common),
        )
    report = out / "retrieval.json"
    if not report.exists():
        call(
            *("-m", "mose.eval", "retrieval", "--model", out / "finetuned", "--data", args.data),
            *("--exit-layers", "all", "--json", report),
        )
    measured = json.loads((out / "pretrained" / "eval_results.json").read_text())
    exits = next(iter(json.loads(report.read_text())["sets"].values()))["exits"]
    figures = {f"mlm_loss_exit_{e}": measured[f"eval_mlm_loss_exit_{e}"] for e in exits}
    if f"eval_icc_accuracy_exit_{max(exits, key=int)}" in measured:
        figures |= {f"context_accuracy_exit_{e}": measured[f"eval_icc_accuracy_exit_{e}"] for e in exits}
    return figures | {f"mrr_exit_{e}": row["mrr"] for e, row in exits.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source-tree", action="append", required=True, help="as in train_hf.py; again for more")
    parser.add_argument("--finetuning-tree", action="append", help="what pairs are mined from, if not those")
    parser.add_argument("--files-per-repository", type=int, help="as in train_hf.py")
    parser.add_argument("--tokenizer", required=True, help="folder of a tokenizer of at most 4,096 tokens")
    parser.add_argument("--data", required=True, help="retrieval set in the BEIR layout")
    parser.add_argument("--output-dir", type=Path, required=True, help="where runs and the summary go")
    parser.add_argument("--steps", type=int, default=300, help="of pre-training (default: %(default)s)")
    parser.add_argument("--finetuning-steps", type=int, default=60, help="(default: %(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="(default: %(default)s)")
    args = parser.parse_args()
    summary: dict[str, dict[str, dict[str, float]]] = {}
    for seed in args.seeds:  # an interrupted comparison has whole rounds
        for objective in OBJECTIVES:
            for name, value in one_run(args, objective, seed).items():
                summary.setdefault(name, {}).setdefault(objective, {})[str(seed)] = value
        (args.output_dir / "summary.json").write_text(json.dumps(summary, indent=2))
    for name, row in summary.items():
        cells = []
        for objective, by_seed in row.items():
            values = list(by_seed.values())
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            cells.append(f"{objective} {statistics.mean(values):.4f} ± {spread:.4f}")
        print(f"{name:24}", *cells, sep="  ")
    return 0


if __name__ == "__main__":
    sys.exit(main())
