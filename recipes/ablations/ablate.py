#!/usr/bin/env python
"""What training several exits together, self-distillation and alignment are worth: equal steps, several seeds.

    python recipes/ablations/ablate.py --source-tree DIR … --pair-file FILE … --data SET … --output-dir OUT

trains one model after another and keeps each one's figures in a file of its own; what is there already is
skipped, so that a killed command goes on, and several of them share the work. `report.py` beside this file makes
the tables and the heat map.

The arms: `none` (all exits at once, nothing else), `kl` and `cosine` (self-distillation), `align` (alignment),
and `alone-D`, a model of D blocks trained at exit D alone. All start from the same weights for the same seed:
token embeddings from an open teacher's (as the shipped model did), blocks that begin as the identity, projections
at random, and for each exit another one; no weights of the shipped model. In `none-alike` and `align-alike` the
projections are random, too, but the same at every exit (`start_exits_alike`).
"""

import argparse
import dataclasses
import json
import random
import shutil
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import torch
from datasets import Dataset, concatenate_datasets
from filelock import FileLock, Timeout
from transformers import set_seed

from mose.configuration_mose import MoSEConfig
from mose.data.retrieval.collator import PairCollator
from mose.data.retrieval.pairs import load_pairs
from mose.data.retrieval.retrieval_set import RetrievalSet, load_retrieval_set
from mose.eval.baselines import bundled
from mose.eval.metrics import score_blocks
from mose.eval.retrieval import score
from mose.inference.encoding import encode
from mose.inference.loading import load_model
from mose.modeling_mose import MoSEModel
from mose.tokenization.prompts import prompt_for
from mose.training.finetuning.arguments import FineTuningArguments
from mose.training.finetuning.initialization import start_embeddings_from, start_exits_alike, token_strings
from mose.training.finetuning.teacher import teacher_embeddings
from mose.training.finetuning.trainer import FineTuningTrainer
from mose.training.setup import load_tokenizer

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent / "mose-nano"))
from pairs import evaluation_fingerprints, fingerprint  # noqa: E402

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
TEACHER = "all-MiniLM-L6-v2"  # of the token embeddings alone
LENGTHS = {"max_query_length": 40, "max_document_length": 56}
SETTINGS = {
    "per_device_train_batch_size": 32,
    "mini_batch_size": 32,  # it fits: nothing is computed twice
    "learning_rate": 1e-3,
    "learning_rate_multipliers": {"gate": 10, "similarity_scale": 20},
    "weight_decay": 0.01,
    "adam_beta2": 0.98,
    "warmup_steps": 0.1,
    "lr_scheduler_type": "cosine",
    "max_grad_norm": 0.0,  # or an arm whose losses add up to more would be clipped sooner
}
QUERIES, DOCUMENTS = 150, 400  # of a set: so many queries; what answers them, and others up to so many


def training_pairs(options: argparse.Namespace) -> Dataset:
    """As many pairs of text and code as of code and code, without what also stands in the evaluation sets."""
    path = options.output_dir / "pairs.parquet"
    with FileLock(f"{path}.lock"):
        if not path.exists():
            excluded = evaluation_fingerprints(map(Path, options.data))

            def kept(row: dict) -> bool:
                return not {fingerprint(row["query"]), fingerprint(row["document"])} & excluded

            files = load_pairs(datasets=options.pair_file).filter(kept)
            mined = load_pairs(options.source_tree).filter(kept).shuffle(seed=0)
            texts = sum(language == "" for language in files["query_language"])
            wanted = len(files) - 2 * texts
            both = concatenate_datasets([files, mined.select(range(min(wanted, len(mined))))])
            both.to_parquet(path.with_suffix(".unfinished"))
            path.with_suffix(".unfinished").rename(path)
    return Dataset.from_parquet(str(path))


def start(arm: str, seed: int, tokenizer, cache: Path) -> MoSEModel:
    """The untrained model of an arm: the same weights for the same seed, whichever exits it has."""
    set_seed(seed)
    model = MoSEModel(MoSEConfig.from_preset("mose-nano", exit_layers=EXITS))
    strings = token_strings(tokenizer)
    start_embeddings_from(model, tokenizer, teacher_embeddings(strings, bundled(TEACHER) or TEACHER, cache))
    for name, parameter in model.named_parameters():
        if ".o_proj." in name or ".c_proj." in name:
            torch.nn.init.zeros_(parameter)
    if arm.endswith("-alike"):
        start_exits_alike(model)
    if arm.startswith("alone-"):
        depth = int(arm.removeprefix("alone-"))
        alone = MoSEModel(MoSEConfig.from_preset("mose-nano", exit_layers=(depth,), exit_layer=depth))
        alone.load_state_dict(model.state_dict(), strict=False)
        model = alone
    model.set_attn_implementation("eager")  # trains faster than the fused kernels on a CPU
    return model


def train(arm: str, seed: int, pairs: Dataset, tokenizer, options: argparse.Namespace) -> MoSEModel:
    folder = options.output_dir / f"{arm}-{seed}.training"
    model = start(arm, seed, tokenizer, options.output_dir / "teacher")
    set_seed(seed)
    arguments = FineTuningArguments(
        output_dir=str(folder),
        seed=seed,
        max_steps=options.max_steps,
        use_cpu=not torch.cuda.is_available(),
        save_strategy="no",
        logging_steps=10,
        report_to="none",
        disable_tqdm=True,
        **{**SETTINGS, **ARMS[arm]},
    )
    collator = PairCollator(tokenizer, word_replacement=0.3, seed=seed, **LENGTHS)
    trainer = FineTuningTrainer(
        model=model, args=arguments, train_dataset=pairs, processing_class=tokenizer, data_collator=collator
    )
    trainer.train()
    shutil.rmtree(folder, ignore_errors=True)
    return model.eval()


def smaller(data: RetrievalSet, queries: int = QUERIES, documents: int = DOCUMENTS) -> RetrievalSet:
    """The set with fewer queries, and documents that answer them or are drawn at random, the same each time."""
    asked = sorted(random.Random(1).sample(range(len(data.query_ids)), min(queries, len(data.query_ids))))
    columns = ("query_ids", "queries", "query_languages")
    data = dataclasses.replace(data, **{name: tuple(getattr(data, name)[at] for at in asked) for name in columns})
    data = dataclasses.replace(data, qrels={query: data.qrels[query] for query in data.query_ids})
    answers = {document for grades in data.qrels.values() for document in grades}
    others = [at for at, name in enumerate(data.document_ids) if name not in answers]
    drawn = random.Random(0).sample(others, max(0, min(len(others), documents - len(answers))))
    kept = sorted({*drawn, *(at for at, name in enumerate(data.document_ids) if name in answers)})
    columns = ("document_ids", "documents", "document_languages")
    return dataclasses.replace(data, **{name: tuple(getattr(data, name)[at] for at in kept) for name in columns})


def measure(model: MoSEModel, tokenizer, sets: Iterable[RetrievalSet]) -> dict:
    """MRR by set, exit of the query and exit of the document."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for data in sets:
        vectors = [
            encode(
                model,
                tokenizer,
                texts,
                prompts=[prompt_for(language, query) for language in languages],
                max_length=56,
            )
            for texts, languages, query in (
                (data.queries, data.query_languages, True),
                (data.documents, data.document_languages, False),
            )
        ]
        found[data.name] = {
            str(asked): {
                str(indexed): score(data, score_blocks(vectors[0][asked], vectors[1][indexed]))["mrr"]
                for indexed in vectors[1]
            }
            for asked in vectors[0]
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--source-tree", nargs="+", required=True, help="folders to mine for documented functions"
    )
    parser.add_argument("--pair-file", nargs="+", required=True, help="JSON lines of code pairs and triples")
    parser.add_argument("--data", nargs="+", required=True, help="retrieval sets (BEIR layout) to measure on")
    parser.add_argument("--tokenizer", default=str(HERE.parents[1]), help="default: the shipped one")
    parser.add_argument("--output-dir", type=Path, default=Path("runs/ablations"), help="where figures are kept")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), help="default: all")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="default: %(default)s")
    parser.add_argument("--max-steps", type=int, default=40, help="optimizer steps (default: %(default)s)")
    parser.add_argument(
        "--measure",
        metavar="MODEL",
        help="train nothing: measure this one (folder or Hub id) as the arm `shipped`",
    )
    parser.add_argument("--max-runs", type=int, help="end after so many; default: when all are done")
    options = parser.parse_args()
    options.output_dir.mkdir(parents=True, exist_ok=True)
    pairs, tokenizer = training_pairs(options), load_tokenizer(options.tokenizer)
    sets = [smaller(load_retrieval_set(path)) for path in options.data]
    if options.measure:
        model, own_tokenizer, _ = load_model(options.measure)
        facts = {"arm": "shipped", "seed": 0, "steps": 0, "mrr": measure(model, own_tokenizer, sets)}
        (options.output_dir / "shipped-0.json").write_text(json.dumps(facts))
        return
    runs = 0
    for seed in options.seeds:
        for arm in options.arms:
            path = options.output_dir / f"{arm}-{seed}.json"
            if runs == options.max_runs:
                return
            try:
                with FileLock(f"{path}.lock", timeout=0):
                    if path.exists():
                        continue
                    began = time.perf_counter()
                    model = train(arm, seed, pairs, tokenizer, options)
                    trained = time.perf_counter()
                    facts = {"arm": arm, "seed": seed, "steps": options.max_steps, "pairs": len(pairs)}
                    facts |= {"train_seconds": trained - began, "mrr": measure(model, tokenizer, sets)}
                    path.with_suffix(".unfinished").write_text(json.dumps(facts))
                    path.with_suffix(".unfinished").rename(path)
                    runs += 1
                    print(f"{arm} seed {seed}: {trained - began:.0f} s of training", file=sys.stderr)
            except Timeout:  # another process is at it
                continue


if __name__ == "__main__":
    main()
