"""The command `build`: translate the code of (text, code) pairs, and write the triples as parquet with a card."""

import argparse
import json
from collections import Counter
from dataclasses import fields
from pathlib import Path

from mose.data.synthconl.dataset import push, write_dataset, write_dataset_card
from mose.data.synthconl.plan import load_source
from mose.data.synthconl.translations import ANSWERS_FOLDER, Settings, Translations
from mose.data.synthconl.translator import DEFAULT_MODEL, Translator
from mose.utils.journal import Journal


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to `parser`."""
    parser.formatter_class = argparse.ArgumentDefaultsHelpFormatter
    parser.description = (
        "Translate the code of (text, code) pairs into another language with a causal language model, and write "
        "the triples as parquet with a card. Run the same command again to resume a killed build."
    )
    add = parser.add_argument
    add("--dataset", help="Hub id, file or folder with the columns text, code and language")
    add("--split", default="train", help="split to read of a dataset that has several")
    add("--column-mapping", default="{}", help="JSON object: the dataset's column names -> those above")
    add("--source-tree", action="append", default=[], help="folder to mine instead of --dataset; repeatable")
    add("--output-dir", type=Path, required=True, help="folder of the build and of the dataset")
    add("--model", default=DEFAULT_MODEL, help="folder or Hub id of the model that translates")
    add("--batch-size", type=int, default=32, help="prompts per batch")
    add("--max-new-tokens", type=int, default=1024, help="most tokens of an answer; longer ones are left out")
    add("--max-prompt-tokens", type=int, default=2048, help="most tokens of a prompt; longer ones are left out")
    add("--temperature", type=float, default=0.0, help="sampling temperature; 0 for greedy decoding")
    add("--seed", type=int, default=0, help="seed of the target languages and of the sampling")
    add("--device", help="device of the model; by default an accelerator if there is one")
    add("--license", help="licence of the dataset for its card, as an identifier of the Hub")
    add("--push-to-hub", metavar="ID", help="push the finished dataset to this repository")
    add("--private", action="store_true", help="make that repository private")
    add("--no-progress", action="store_true", help="show no progress bars")


def run(options: argparse.Namespace) -> None:
    """Build the dataset, or resume building it, and push it if requested.

    Raises:
        ValueError: an argument is invalid, or the folder has a build with other settings.
        RuntimeError: no translation is usable, or another process builds in the folder.
    """
    settings = Settings(**{field.name: getattr(options, field.name) for field in fields(Settings)})
    mapping = _json_object(options.column_mapping)
    source = load_source(options.source_tree, options.dataset, mapping, options.split)
    progress = not options.no_progress
    counts: Counter[str] = Counter()

    with Journal(options.output_dir / ANSWERS_FOLDER).lock():
        translations = Translations(options.output_dir, source, settings, progress)
        if translations.missing:
            # Loading the model takes long, and a finished build does not need it.
            translator = Translator(settings.model, options.device, settings.max_new_tokens, settings.temperature)
            translations.translate(translator, progress)

        if not write_dataset(translations.triples(counts, progress), options.output_dir):
            raise RuntimeError(f"of {len(translations.jobs)} translations no triple is left: {dict(counts)}")

        origin = options.dataset or ", ".join(Path(tree).resolve().name for tree in options.source_tree)
        write_dataset_card(options.output_dir, counts, settings.model, origin, options.license)

    print(f"{counts['triples']} triples in {options.output_dir}")
    for reason, n in sorted(counts.items()):
        if reason != "triples":
            print(f"{n:8d} {reason}")

    if options.push_to_hub:
        print(push(options.output_dir, options.push_to_hub, options.private))


def _json_object(text: str) -> dict[str, str]:
    try:
        mapping = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"--column-mapping must be a JSON object, got {text} ({error}).") from error
    if not isinstance(mapping, dict):
        raise ValueError(f"--column-mapping must be a JSON object, got {text}. Pass {{…}}.")
    return mapping
