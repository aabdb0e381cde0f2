#!/usr/bin/env python
"""Measure joint training of exits, self-distillation and alignment: equal steps, several seeds.

    python recipes/ablations/ablate.py --source-tree DIR … --pair-file FILE … --data SET … --output-dir OUT

Trains one model after another and keeps the figures of each in a file of its own. Existing files are skipped, so
a killed command resumes, and several processes share the work. `report.py` makes the tables and the heat map.

The arms: `none` (all exits jointly, nothing else), `kl`, `cosine` (self-distillation), `align` (alignment), and
`alone-D`, a model of D blocks trained at exit D only. For one seed, all start from the same weights: token
embeddings of an open teacher (as the shipped model did), blocks as the identity, a random projection per exit.
In `none-alike` and `align-alike` all exits start with the same random projection (`start_exits_alike`).
"""

import argparse
import contextlib
import dataclasses
import itertools
import random
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, concatenate_datasets
from filelock import FileLock, Timeout
from transformers import set_seed

from mose.configuration_mose import MoSEConfig
from mose.data.retrieval.pairs import load_pairs
from mose.data.retrieval.retrieval_set import RetrievalSet, load_retrieval_set
from mose.eval.baselines import bundled
from mose.eval.retrieval import evaluate
from mose.inference.loading import load_model
from mose.modeling_mose import MoSEModel
from mose.training.finetuning.initialization import start_embeddings_from, start_exits_alike, token_strings
from mose.training.finetuning.teacher import teacher_embeddings
from mose.training.setup import load_tokenizer
from mose.utils.command_line import exit_status
from mose.utils.files import atomic_write_json

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent))
from recipe_steps import cached_pairs, evaluation_fingerprints, fine_tuning_trainer, text_fingerprint  # noqa: E402

EXITS = (0, 1, 2, 3)
ARMS: dict[str, dict] = {
    "none": {},
    "kl": {"distillation": "kl"},
    "cosine": {"distillation": "cosine"},
    "align": {"align_exits": True},
    **{f"alone-{depth}": {} for depth in reversed(EXITS)},
    "none-alike": {},
    "align-alike": {"align_exits": True},
}
TEACHER = "all-MiniLM-L6-v2"  # of the token embeddings only
COLLATION = {"max_query_length": 40, "max_document_length": 56, "word_replacement": 0.3}
SETTINGS = {
    "per_device_train_batch_size": 32,
    "mini_batch_size": 32,  # the whole batch: nothing is computed twice
    "learning_rate": 1e-3,
    "learning_rate_multipliers": {"gate": 10, "similarity_scale": 20},
    "weight_decay": 0.01,
    "adam_beta2": 0.98,
    "warmup_steps": 0.1,
    "lr_scheduler_type": "cosine",
    "max_grad_norm": 0.0,  # or arms with more losses would be clipped sooner
    "save_strategy": "no",
    "logging_steps": 10,
    "disable_tqdm": True,
}
QUERIES, DOCUMENTS = 150, 400  # queries of a reduced set; its documents, answers included


def training_pairs(options: argparse.Namespace) -> Dataset:
    """Return equally many pairs of text and code and of code and code, without those of the evaluation sets."""

    def build() -> Dataset:
        excluded = evaluation_fingerprints(map(Path, options.data))

        def is_allowed(row: dict) -> bool:
            return not {text_fingerprint(row["query"]), text_fingerprint(row["document"])} & excluded

        files = load_pairs(datasets=options.pair_file).filter(is_allowed)
        mined = load_pairs(options.source_tree).filter(is_allowed).shuffle(seed=0)

        # A triple gives one row of text and one of code as the query; mined functions make up the difference.
        texts = sum(language == "" for language in files["query_language"])
        count = len(files) - 2 * texts
        return concatenate_datasets([files, mined.select(range(min(count, len(mined))))])

    # Several processes share the folder.
    path = options.output_dir / "pairs.parquet"
    with FileLock(f"{path}.lock"):
        return cached_pairs(path, build)


def untrained_model(arm: str, seed: int, tokenizer: Any, cache: Path) -> MoSEModel:
    """Return the untrained model of an arm: for one seed the same weights, whichever exits it has."""
    set_seed(seed)
    model = MoSEModel(MoSEConfig.from_preset("mose-nano-256", exit_layers=EXITS))
    vectors = teacher_embeddings(token_strings(tokenizer), bundled(TEACHER) or TEACHER, cache)
    start_embeddings_from(model, tokenizer, vectors)

    # Blocks start as the identity: nothing is added to the residual stream.
    for name, parameter in model.named_parameters():
        if ".o_proj." in name or ".c_proj." in name:
            torch.nn.init.zeros_(parameter)

    if arm.endswith("-alike"):
        start_exits_alike(model)
    if not arm.startswith("alone-"):
        return model

    depth = int(arm.removeprefix("alone-"))
    alone = MoSEModel(MoSEConfig.from_preset("mose-nano-256", exit_layers=(depth,), exit_layer=depth))
    alone.load_state_dict(model.state_dict(), strict=False)
    return alone


def train_arm(arm: str, seed: int, pairs: Dataset, tokenizer: Any, options: argparse.Namespace) -> MoSEModel:
    """Return the trained model of an arm."""
    folder = options.output_dir / f"{arm}-{seed}.training"
    model = untrained_model(arm, seed, tokenizer, options.output_dir / "teacher")

    set_seed(seed)
    run = {"output_dir": str(folder), "seed": seed, "max_steps": options.max_steps}
    fine_tuning_trainer(model, tokenizer, pairs, {**SETTINGS, **ARMS[arm], **run}, COLLATION).train()
    shutil.rmtree(folder, ignore_errors=True)
    return model.eval()


def reduced_set(data: RetrievalSet, queries: int = QUERIES, documents: int = DOCUMENTS) -> RetrievalSet:
    """Return the set with fewer queries, their answers and further documents, drawn the same each time."""

    def take(rows: list[int], *columns: str) -> dict[str, Any]:
        return {name: tuple(getattr(data, name)[row] for row in rows) for name in columns}

    count = len(data.query_ids)
    rows = sorted(random.Random(1).sample(range(count), min(queries, count)))
    data = dataclasses.replace(data, **take(rows, "query_ids", "queries", "query_languages"))
    data = dataclasses.replace(data, qrels={query: data.qrels[query] for query in data.query_ids})

    relevant = {document for grades in data.qrels.values() for document in grades}
    others = [row for row, name in enumerate(data.document_ids) if name not in relevant]
    drawn = random.Random(0).sample(others, max(0, min(len(others), documents - len(relevant))))
    rows = sorted({*drawn, *(row for row, name in enumerate(data.document_ids) if name in relevant)})
    return dataclasses.replace(data, **take(rows, "document_ids", "documents", "document_languages"))


def mrr_across_exits(model: Any, tokenizer: Any, sets: list[RetrievalSet]) -> dict:
    """Return MRR by set, exit of the query and exit of the document."""
    report = evaluate(model, tokenizer, sets, max_length=56, measure_speed=False, certainty=False)
    return {name: data["across_exits"] for name, data in report["sets"].items()}


def run_arms(options: argparse.Namespace, tokenizer: Any, sets: list[RetrievalSet]) -> None:
    """Train and measure all arms and seeds that no other process has started, at most `--max-runs`."""
    pairs = training_pairs(options)
    runs = 0
    for seed, arm in itertools.product(options.seeds, options.arms):
        path = options.output_dir / f"{arm}-{seed}.json"
        if runs == options.max_runs:
            return

        # A lock that is taken: another process works on this run.
        with contextlib.suppress(Timeout), FileLock(f"{path}.lock", timeout=0):
            if path.exists():
                continue
            start = time.perf_counter()
            model = train_arm(arm, seed, pairs, tokenizer, options)
            seconds = time.perf_counter() - start

            facts = {"arm": arm, "seed": seed, "steps": options.max_steps, "pairs": len(pairs)}
            facts |= {"train_seconds": seconds, "mrr": mrr_across_exits(model, tokenizer, sets)}
            atomic_write_json(path, facts, indent=None)
            runs += 1
            print(f"{arm} seed {seed}: {seconds:.0f} s of training", file=sys.stderr)


def run_ablations(options: argparse.Namespace) -> None:
    """Train and measure the arms, or only measure one model."""
    options.output_dir.mkdir(parents=True, exist_ok=True)
    sets = [reduced_set(load_retrieval_set(path)) for path in options.data]
    if not options.measure:
        run_arms(options, load_tokenizer(options.tokenizer), sets)
        return

    model, tokenizer, _ = load_model(options.measure)
    facts = {"arm": "shipped", "seed": 0, "steps": 0, "mrr": mrr_across_exits(model, tokenizer, sets)}
    atomic_write_json(options.output_dir / "shipped-0.json", facts, indent=None)


def main() -> int:
    """Parse the arguments, run the ablations and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--source-tree", nargs="+", required=True, help="folders to mine for documented functions")
    add("--pair-file", nargs="+", required=True, help="JSON lines of code pairs and triples")
    add("--data", nargs="+", required=True, help="retrieval sets (BEIR layout) to measure on")
    add("--tokenizer", default=str(HERE.parents[1]), help="default: the shipped one")
    add("--output-dir", type=Path, default=Path("runs/ablations"), help="folder for the figures")
    add("--arms", nargs="+", choices=ARMS, default=list(ARMS), help="default: all")
    add("--seeds", nargs="+", type=int, default=[0, 1, 2], help="default: %(default)s")
    add("--max-steps", type=int, default=40, help="optimizer steps (default: %(default)s)")
    add("--measure", metavar="MODEL", help="only measure this folder or Hub id, as the arm `shipped`")
    add("--max-runs", type=int, help="stop after this many runs; default: all")
    options = parser.parse_args()
    return exit_status(parser.prog, lambda: run_ablations(options))


if __name__ == "__main__":
    sys.exit(main())
