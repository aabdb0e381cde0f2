#!/usr/bin/env python
"""Train mose-nano from shards of source files to the files that ship, in resumable stages.

    python recipes/mose-nano/recipe.py --shards SHARD.jsonl … --pair-file FILE … --output-dir runs/mose-nano

README.md describes where the shards come from. Each stage leaves its result in the output folder and is skipped
if that exists. A killed training stage resumes from its last checkpoint.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from curve import DevelopmentCurve
from datasets import Dataset, concatenate_datasets
from hard_negatives import attach_negatives
from safetensors.torch import load_file
from transformers import AutoModel, PreTrainedTokenizerBase, TrainerCallback, set_seed

from mose.data.retrieval.collator import PairCollator
from mose.eval.baselines import bundled
from mose.hub.files import write_sentence_transformers_files
from mose.hub.weights import order_by_exit
from mose.modeling_mose import MoSEModel
from mose.tokenization.build import build_tokenizer
from mose.training.checkpoints import last_whole_checkpoint
from mose.training.finetuning.initialization import (
    fit_projection,
    grow,
    start_embeddings_from,
    start_from_trunk,
    token_strings,
)
from mose.training.finetuning.objective import project_teacher
from mose.training.finetuning.teacher import (
    SIDES,
    Teacher,
    attach_teacher,
    cached_embeddings,
    joint_embeddings,
    text_key,
)
from mose.training.setup import load_tokenizer
from mose.utils.command_line import exit_status
from mose.utils.files import atomic_write_json

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent))
from overlap import leave_out_near_duplicate_questions, leave_out_near_duplicates  # noqa: E402
from pairs import KINDS, build_pairs  # noqa: E402
from questions import best_matches, distinct_documents, question_rows, read_questions  # noqa: E402
from recipe_steps import cached_pairs, evaluation_fingerprints, fine_tuning_trainer  # noqa: E402
from weights import (  # noqa: E402
    Teachers,
    average_weights,
    check_sizes,
    model_config,
    rotate_weights,
    weights_to_average,
    widened_start,
)

COLLATION = ("max_query_length", "max_document_length", "instruction_dropout", "token_dropout")
RUN = {"bf16": True, "logging_steps": 20, "save_steps": 100, "save_total_limit": 2, "dataloader_num_workers": 0}
#: Pairs that the projection of exit 0 is fitted to, and how many are embedded at once.
FIT_PAIRS, FIT_BATCH = 6000, 100


class Material(NamedTuple):
    """The tokenizer, pairs and teachers of all stages; pairs name rows of `vectors`, (n, teacher dim)."""

    tokenizer: PreTrainedTokenizerBase
    pairs: Dataset
    vectors: torch.Tensor
    teachers: Teachers


def load_recipe(paths: Sequence[Path]) -> dict[str, Any]:
    """Return the recipe of some files. An entry of a later file replaces that of an earlier one."""
    recipe: dict[str, Any] = {}
    for path in paths:
        recipe |= yaml.safe_load(path.read_text())
    return recipe


def load_recipe_tokenizer(recipe: Mapping[str, Any], folder: Path, pairs: Dataset) -> PreTrainedTokenizerBase:
    """Return the tokenizer, built from a sample of the pairs on the first run."""
    if not folder.exists():
        config = model_config(recipe)
        sample = pairs.shuffle(seed=recipe["seed"])
        sample = sample.select(range(min(len(sample), recipe["tokenizer_texts"] // 2)))
        texts = sample["query"][:] + sample["document"][:]
        build_tokenizer(texts, config.vocab_size, config.max_position_embeddings).save_pretrained(folder)
    return load_tokenizer(str(folder))


def model_from_teacher(recipe: Mapping[str, Any], material: Material) -> MoSEModel:
    """Return the untrained model at exit 0, with token embeddings and projection fitted to the teachers."""
    tokenizer, pairs = material.tokenizer, material.pairs
    model = MoSEModel(model_config(recipe, exit_layer=0)).eval()
    start_embeddings_from(model, tokenizer, joint_embeddings(token_strings(tokenizer), *material.teachers))

    sample = pairs.shuffle(seed=recipe["seed"]).select(range(min(len(pairs), FIT_PAIRS)))
    lengths = (recipe["common"]["max_query_length"], recipe["common"]["max_document_length"])
    collator = PairCollator(tokenizer, *lengths)

    batches, rows = [], []
    examples = sample.to_list()
    for start in range(0, len(examples), FIT_BATCH):
        chunk = examples[start : start + FIT_BATCH]
        batch = collator(chunk)
        for side in ("query", "document"):
            batches.append((batch[f"{side}_input_ids"], batch[f"{side}_attention_mask"]))
            rows += [row[f"teacher_{side}"] for row in chunk]

    targets = project_teacher(material.vectors, model.config.embedding_size)
    fit_projection(model, 0, batches, targets[rows])
    return model


def model_from_trunk(recipe: Mapping[str, Any], trunk: Path) -> MoSEModel:
    """Return the whole model, with embeddings, blocks and norms of a pre-trained trunk of the same sizes."""
    model = MoSEModel(model_config(recipe))
    start_from_trunk(model, load_file(trunk / "model.safetensors"))
    return model


def train_stage(
    folder: Path,
    settings: dict[str, Any],
    model: MoSEModel,
    material: Material,
    callbacks: Sequence[TrainerCallback] = (),
) -> None:
    """Train one stage and save the model to `folder`, resuming from the last checkpoint."""
    collation = {key: settings.pop(key) for key in COLLATION if key in settings}
    collation["keep"] = ("teacher_query", "teacher_document")
    settings = {**RUN, "output_dir": str(folder), **settings}

    trainer = fine_tuning_trainer(
        model, material.tokenizer, material.pairs, settings, collation, material.vectors
    )
    for callback in callbacks:
        trainer.add_callback(callback)
    checkpoint = last_whole_checkpoint(folder)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    trainer.save_model()
    (folder / "done").touch()


def ship(model_dir: Path, tokenizer: PreTrainedTokenizerBase, root: Path) -> None:
    """Put weights in bf16, configuration, tokenizer and sentence-transformers files at the root."""
    model = AutoModel.from_pretrained(model_dir, trust_remote_code=True, dtype=torch.bfloat16)

    # Staged first, so that a failure leaves the root as it was.
    staging = root / ".shipping"
    model.save_pretrained(staging)
    order_by_exit(staging, model.exit_layers)
    tokenizer.save_pretrained(staging)

    # These fields only record how the tokenizer was loaded.
    path = staging / "tokenizer_config.json"
    config = json.loads(path.read_text())
    config = {name: value for name, value in config.items() if name not in ("is_local", "local_files_only")}
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n")

    write_sentence_transformers_files(staging)
    for path in staging.rglob("*"):
        if path.is_file() and path.suffix != ".py":  # the code at the root is the original
            target = root / path.relative_to(staging)
            target.parent.mkdir(exist_ok=True)
            path.replace(target)
    shutil.rmtree(staging)


def prepare(
    options: argparse.Namespace, recipe: Mapping[str, Any], chosen: Sequence[str] | None = None
) -> Material:
    """Return what the stages learn from; each part is made once and kept in the output folder.

    `chosen` are the names of the recipe's teachers to learn from, by default all.
    """
    check_sizes(options, recipe)
    options.output_dir.mkdir(parents=True, exist_ok=True)
    origins = (options.shards, recipe["functions"], options.pair_file, options.exclude)
    choices = {name: recipe[name] for name in ("seed", "pair_repeats", "excluded_paths")}

    def clean_pairs() -> Dataset:
        pairs, overlap = leave_out_near_duplicates(build_pairs(*origins, **choices), options.exclude)
        atomic_write_json(options.output_dir / "overlap.json", overlap)
        return pairs

    pairs = cached_pairs(options.output_dir / "pairs.parquet", clean_pairs)
    known_tokenizer = options.trunk or options.start
    tokenizer = load_recipe_tokenizer(recipe, known_tokenizer or options.output_dir / "tokenizer", pairs)

    sources = options.teacher or [str(bundled(name) or name) for name in recipe["teachers"]]
    by_name = dict(zip(recipe["teachers"], map(Teacher, sources, recipe["teachers"].values()), strict=True))
    reading = (options.teacher_cache or options.output_dir / "teacher", recipe["teacher_max_length"])
    if options.cached_only:
        pairs = with_known_vectors(pairs, list(by_name.values()), *reading)

    if options.questions:
        add = partial(question_pairs, options, recipe, pairs, (list(by_name.values()), *reading))
        pairs = concatenate_datasets([pairs, cached_pairs(options.output_dir / "questions.parquet", add)])

    teachers: Teachers = ([by_name[name] for name in chosen or by_name], *reading)
    pairs, vectors = attach_teacher(pairs, *teachers)

    pairs = repeat_rows(pairs, recipe["row_repeats"])
    if recipe["hard_negatives"]["share"]:
        pairs = attach_negatives(pairs, vectors, seed=recipe["seed"], **recipe["hard_negatives"])
    return Material(tokenizer, pairs, vectors, teachers)


def repeat_rows(pairs: Dataset, repeats: Mapping[str, int]) -> Dataset:
    """Return the pairs with the rows of some kinds several times: kind -> times; those of other kinds once."""
    if unknown := set(repeats) - set(KINDS):
        raise ValueError(f"row_repeats: kinds are {', '.join(KINDS)}, got {', '.join(sorted(unknown))}.")
    return pairs.select([row for row, kind in enumerate(pairs["kind"][:]) for _ in range(repeats.get(kind, 1))])


def question_pairs(
    options: argparse.Namespace, recipe: Mapping[str, Any], pairs: Dataset, teachers: Teachers
) -> Dataset:
    """Return questions, each with the code of the pairs that the teachers rank first for it.

    Raises:
        ValueError: no question is left to be paired.
    """
    read = read_questions(options.questions, evaluation_fingerprints(options.exclude))
    questions, overlap = leave_out_near_duplicate_questions(read, options.exclude)
    atomic_write_json(options.output_dir / "overlap-questions.json", overlap)
    if options.cached_only and questions:
        rows = Dataset.from_dict({"teacher_query": questions})
        questions = with_known_vectors(rows, *teachers, sides=("query",))["teacher_query"][:]

    if not questions:
        raise ValueError(
            "--questions: none is left. The files are empty, evaluation sets have all of them, or, with "
            "--cached-only, the teachers have read none yet: leave that flag out."
        )

    pool = distinct_documents(pairs)
    texts = {"query": questions, "document": pool["teacher_document"][:]}
    vectors = [
        torch.from_numpy(joint_embeddings(texts[side], *teachers, side=side, center=True)) for side in SIDES
    ]
    return question_rows(questions, pool, best_matches(*vectors, **recipe["questions"]))


def with_known_vectors(
    pairs: Dataset, teachers: Sequence[Teacher], cache: Path, max_length: int, sides: Sequence[str] = SIDES
) -> Dataset:
    """Return the pairs whose texts on `sides` every teacher has embedded, and print how many these are."""
    rows = list(range(len(pairs)))
    for teacher in teachers:
        known = cached_embeddings(teacher.name_or_path, cache, max_length)
        for side in sides:
            prompt, texts = teacher.prompt(side), pairs[f"teacher_{side}"][:]
            rows = [row for row in rows if text_key(prompt + texts[row]) in known]
    print(f"{len(rows)} of {len(pairs)} rows have the vectors of all teachers")
    return pairs.select(rows)


def start_model(
    options: argparse.Namespace,
    recipe: Mapping[str, Any],
    material: Material,
    previous: Path | None,
    exit_layer: int | None,
) -> MoSEModel:
    """Return the model that a stage starts from: the last stage's, grown to `exit_layer`; at first a new one."""
    if previous is None:
        return model_from_trunk(recipe, options.trunk) if options.trunk else model_from_teacher(recipe, material)

    model = AutoModel.from_pretrained(previous, trust_remote_code=True)
    deepest = model.config.exit_layers[-1] if exit_layer is None else exit_layer
    return grow(model, deepest) if model.exit_layers[-1] < deepest else model


def run_stages(options: argparse.Namespace) -> None:
    """Run all stages that are not done, each starting from the previous one; ship the last if requested."""
    recipe = load_recipe(options.recipe)
    seed = recipe["seed"] if options.seed is None else options.seed
    weights_to_average(options, recipe)  # raises before the long work
    material = prepare(options, recipe)

    options.start = previous = widened_start(options, recipe, material.tokenizer, material.teachers)
    mixed_in = weights_to_average(options, recipe)
    for name, stage in recipe["stages"].items():
        if (options.trunk or options.start) and stage.get("exit_layer") is not None:
            continue  # all blocks are there, so nothing is grown from a shallow exit
        folder = options.output_dir / name
        if not (folder / "done").exists():
            # A stage gives the same result, whether or not earlier stages ran in this process.
            set_seed(seed)
            settings = {**recipe["common"], **stage, "seed": seed}
            exit_layer = settings.pop("exit_layer", None)
            model = start_model(options, recipe, material, previous, exit_layer)

            curve = (material.tokenizer, options.output_dir / "curve.jsonl", options.develop_steps)
            callbacks = [DevelopmentCurve(name, options.develop, *curve)] if options.develop else []
            train_stage(folder, settings, model, material, callbacks)
        previous = folder

    if previous is not None:
        finish(options, recipe, material, previous, mixed_in)


def finish(
    options: argparse.Namespace,
    recipe: Mapping[str, Any],
    material: Material,
    last: Path,
    mixed_in: Path | None,
) -> None:
    """Average the last weights with those of `mixed_in`, rotate the exits, and ship, each if requested."""
    if mixed_in is not None:
        folder = options.output_dir / "averaged"
        if not (folder / "done").exists():
            average_weights(last, mixed_in, recipe["average"], folder)
        last = folder

    if count := recipe["rotation_pairs"]:
        folder = options.output_dir / "rotated"
        if not (folder / "done").exists():
            sample = material.pairs.shuffle(seed=recipe["seed"]).select(range(min(count, len(material.pairs))))
            rotate_weights(last, material.tokenizer, sample, folder)
        last = folder

    if options.ship:
        ship(last, material.tokenizer, HERE.parents[1])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say what is trained, from what, and where."""
    add = parser.add_argument
    add("--shards", type=Path, nargs="+", required=True, help="files of recipes/depth/shards.py")
    add("--pair-file", type=Path, nargs="*", default=[], help="JSON lines of code pairs")
    text = "text files of questions, one a line; to pair others in a folder, delete its questions.parquet"
    add("--questions", type=Path, nargs="*", default=[], help=text)
    add("--exclude", type=Path, nargs="*", default=[], help="evaluation sets to keep out of training")

    start = parser.add_mutually_exclusive_group().add_argument
    start("--trunk", type=Path, help="folder of a pre-trained model and its tokenizer to start all blocks from")
    start("--start", type=Path, help="folder of a trained model and its tokenizer to go on from, at all exits")

    add("--teacher", nargs="*", help="folders of the teachers; default: the recipe's, from the Hub")
    add("--cached-only", action="store_true", help="train on the pairs that the teacher cache has")
    add("--teacher-cache", type=Path, help="folder of the teachers' vectors; default: in --output-dir")
    add("--develop", type=Path, nargs="*", default=[], help="development sets (BEIR) to measure on the way")
    add("--develop-steps", type=int, default=500, help="steps between two points of the curves")
    text = "configuration; entries of later files replace those of earlier ones"
    add("--recipe", type=Path, nargs="+", default=[HERE / "recipe.yaml"], help=text)
    add("--output-dir", type=Path, default=Path("runs/mose-nano"), help="folder for all results")
    add("--seed", type=int, help="overrides the recipe's seed")


def main() -> int:
    """Parse the arguments, run the recipe and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    text = "folder of the weights that `average` in the recipe mixes into the result; default: --start"
    parser.add_argument("--average-with", type=Path, help=text)
    parser.add_argument("--ship", action="store_true", help="put the result at the root of the repository")

    options = parser.parse_args()
    return exit_status(parser.prog, lambda: run_stages(options))


if __name__ == "__main__":
    sys.exit(main())
