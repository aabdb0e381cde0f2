#!/usr/bin/env python
"""Trains mose-nano from source trees to the files that ship, in pieces that are done once and resume.

    python recipes/mose-nano/recipe.py --sources DIR --pair-file FILE … --output-dir runs/mose-nano

`DIR` holds a folder for each language, in it one folder for each project (README.md beside this file says how
they were fetched). Every piece leaves its result in the output folder and is skipped where that is there already;
a killed training stage goes on from its last checkpoint.
"""

import argparse
import json
import shutil
from pathlib import Path

import torch
import yaml
from datasets import Dataset, load_dataset
from pairs import build_pairs
from transformers import AutoModel, AutoTokenizer, PreTrainedTokenizerBase, set_seed

from mose.configuration_mose import MoSEConfig
from mose.data.retrieval.collator import PairCollator
from mose.eval.baselines import bundled
from mose.hub.files import write_sentence_transformers_files
from mose.modeling_mose import MoSEModel
from mose.tokenization.build import build_tokenizer
from mose.training.checkpoints import last_whole_checkpoint
from mose.training.finetuning.arguments import FineTuningArguments
from mose.training.finetuning.initialization import fit_projection, grow, start_embeddings_from, token_strings
from mose.training.finetuning.teacher import attach_teacher, teacher_embeddings
from mose.training.finetuning.trainer import FineTuningTrainer

HERE = Path(__file__).parent
COLLATOR = ("max_query_length", "max_document_length", "instruction_dropout", "token_dropout")


def pairs(recipe: dict, options: argparse.Namespace) -> Dataset:
    path = options.output_dir / "pairs.parquet"
    if not path.exists():
        trees = {language: [options.sources / language] for language in recipe["functions"]}
        dataset = build_pairs(
            trees, recipe["functions"], options.pair_file, options.exclude, recipe["seed"], recipe["pair_repeats"]
        )
        dataset.to_parquet(str(path.with_suffix(".unfinished")))
        path.with_suffix(".unfinished").rename(path)
    return load_dataset("parquet", data_files=str(path), split="train")


def tokenizer(recipe: dict, options: argparse.Namespace, dataset: Dataset) -> PreTrainedTokenizerBase:
    folder = options.output_dir / "tokenizer"
    config = MoSEConfig.from_preset(recipe["preset"])
    if not folder.exists():
        sample = dataset.shuffle(seed=recipe["seed"])
        sample = sample.select(range(min(len(sample), recipe["tokenizer_texts"] // 2)))
        texts = sample["query"][:] + sample["document"][:]
        build_tokenizer(texts, config.vocab_size, config.max_position_embeddings).save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


def start(
    recipe: dict, vocabulary: PreTrainedTokenizerBase, teacher: str, cache: Path, dataset, vectors
) -> MoSEModel:
    """The untrained model at exit 0: token embeddings and projection as near to the teacher as they come."""
    model = MoSEModel(MoSEConfig.from_preset(recipe["preset"], exit_layer=0)).eval()
    strings = teacher_embeddings(token_strings(vocabulary), teacher, cache, recipe["teacher_max_length"])
    start_embeddings_from(model, vocabulary, strings)
    sample = dataset.shuffle(seed=recipe["seed"]).select(range(min(len(dataset), 6000)))
    collator = PairCollator(
        vocabulary, recipe["common"]["max_query_length"], recipe["common"]["max_document_length"]
    )
    batches, rows = [], []
    for first in range(0, len(sample), 100):
        chunk = [sample[row] for row in range(first, min(first + 100, len(sample)))]
        batch = collator(chunk)
        for side in ("query", "document"):
            batches.append((batch[f"{side}_input_ids"], batch[f"{side}_attention_mask"]))
            rows += [row[f"teacher_{side}"] for row in chunk]
    fit_projection(model, 0, batches, vectors[rows])
    return model


def train(name: str, settings: dict, model: MoSEModel, dataset, vectors, vocabulary, options, seed: int) -> None:
    """One stage; leaves the trained model in `output_dir/name`."""
    folder = options.output_dir / name
    collator = {key: settings.pop(key) for key in COLLATOR if key in settings}
    arguments = FineTuningArguments(
        output_dir=str(folder),
        seed=seed,
        bf16=True,
        use_cpu=not torch.cuda.is_available(),
        logging_steps=20,
        save_steps=100,
        save_total_limit=2,
        report_to="none",
        dataloader_drop_last=True,
        dataloader_num_workers=0,
        **settings,
    )
    trainer = FineTuningTrainer(
        model=model,
        args=arguments,
        train_dataset=dataset,
        processing_class=vocabulary,
        teacher_vectors=vectors,
        data_collator=PairCollator(vocabulary, keep=("teacher_query", "teacher_document"), seed=seed, **collator),
    )
    checkpoint = last_whole_checkpoint(folder)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    trainer.save_model()
    (folder / "done").touch()


def ship(model_dir: Path, vocabulary: PreTrainedTokenizerBase, root: Path) -> None:
    """Puts weights in bf16, configuration, tokenizer and sentence-transformers files at the root."""
    model = AutoModel.from_pretrained(model_dir, trust_remote_code=True, dtype=torch.bfloat16)
    unfinished = root / ".shipping"
    model.save_pretrained(unfinished)
    vocabulary.save_pretrained(unfinished)
    settings = unfinished / "tokenizer_config.json"
    kept = json.loads(settings.read_text())
    for how_it_was_loaded in ("is_local", "local_files_only"):
        kept.pop(how_it_was_loaded, None)
    settings.write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n")
    write_sentence_transformers_files(unfinished)
    for path in unfinished.iterdir():
        if path.suffix != ".py":  # the code at the root is the original
            path.replace(root / path.name)
    shutil.rmtree(unfinished)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sources", type=Path, required=True, help="folder of source trees, one per language")
    parser.add_argument("--pair-file", type=Path, nargs="*", default=[], help="JSON lines of code pairs")
    parser.add_argument(
        "--exclude",
        type=Path,
        nargs="*",
        default=[],
        help="evaluation sets (BEIR layout) to keep out of training",
    )
    parser.add_argument("--recipe", type=Path, default=HERE / "recipe.yaml", help="configuration")
    parser.add_argument("--output-dir", type=Path, default=Path("runs/mose-nano"), help="where everything goes")
    parser.add_argument("--seed", type=int, help="another seed than the recipe's")
    parser.add_argument("--ship", action="store_true", help="put the result at the root of the repository")
    options = parser.parse_args()
    recipe = yaml.safe_load(options.recipe.read_text())
    seed = recipe["seed"] if options.seed is None else options.seed
    options.output_dir.mkdir(parents=True, exist_ok=True)
    teacher = str(bundled(recipe["teacher"]) or recipe["teacher"])
    cache = options.output_dir / "teacher"
    dataset = pairs(recipe, options)
    vocabulary = tokenizer(recipe, options, dataset)
    hidden = MoSEConfig.from_preset(recipe["preset"]).hidden_size
    dataset, vectors = attach_teacher(dataset, teacher, cache, hidden, recipe["teacher_max_length"])
    previous: Path | None = None
    for name, stage in recipe["stages"].items():
        folder = options.output_dir / name
        if not (folder / "done").exists():
            set_seed(seed)
            settings = {**recipe["common"], **stage}
            wanted = settings.pop("exit_layer", None)
            if previous is None:
                model = start(recipe, vocabulary, teacher, cache, dataset, vectors)
            else:
                model = AutoModel.from_pretrained(previous, trust_remote_code=True)
                deepest = model.config.exit_layers[-1] if wanted is None else wanted
                if model.exit_layers[-1] < deepest:
                    model = grow(model, deepest)
            model.set_attn_implementation("eager")  # trains faster than the fused kernels on a CPU
            train(name, settings, model, dataset, vectors, vocabulary, options, seed)
        previous = folder
    if options.ship and previous is not None:
        ship(previous, vocabulary, HERE.parents[1])


if __name__ == "__main__":
    main()
