"""`mose hub import`: convert a released checkpoint of the paper to a MoSE repository."""

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from mose.configuration_mose import MoSEConfig
from mose.hub import weights
from mose.hub.card import Origin, write_folder_card
from mose.hub.card.metadata import source_metadata
from mose.hub.convert.layout import Conversion, ConversionOptions, plan_conversion
from mose.hub.files import add_missing_files, default_prompts, write_sentence_transformers_files
from mose.hub.shards import write_shards
from mose.tokenization.build import framed
from mose.tokenization.prompts import CLS, LANGUAGES, MASK, SEP, code_prompt
from mose.utils.command_line import ArgumentError
from mose.utils.files import atomic_folder, check_new_folder
from mose.utils.locations import is_local_folder

#: Files that are downloaded: no code and no pickles.
DOWNLOADED = ("*.json", "*.safetensors", "*.txt", "README.md", "LICENSE*")
#: Fields of the source's card that still hold.
CARD_FIELDS = ("license", "license_name", "license_link", "language", "datasets")


def convert_checkpoint(
    source: str,
    output_dir: Path,
    options: ConversionOptions,
    revision: str | None = None,
    tokenizer: str | None = None,
    progress: bool = False,
) -> Conversion:
    """Convert a released checkpoint to a MoSE repository, one tensor at a time, and return the plan.

    Args:
        source: folder or Hub id.
        output_dir: must not exist, or be empty. It appears complete or not at all.
        options: facts that the checkpoint does not state.
        revision: branch, tag or commit on the Hub.
        tokenizer: folder or Hub id of the tokenizer; None means the source's own.
        progress: show a bar on stderr.

    Raises:
        FileExistsError: see `mose.utils.files.check_new_folder`.
        FileNotFoundError: there is no such source, or it has no weights in safetensors.
        ValueError: see `mose.hub.convert.layout.plan_conversion`; or the tokenizer does not fit.
        OSError: the Hub refused or could not be reached.
    """
    check_new_folder(output_dir)  # before anything is downloaded
    folder = _local_folder(source, revision)
    plan = plan_conversion(_read_settings(folder), weights.read_weights(folder), options)
    tokenizer_folder = _local_folder(tokenizer, files=("tokenizer.json",)) if tokenizer else folder
    converted_tokenizer = _convert_tokenizer(tokenizer_folder, plan.config)

    with atomic_folder(output_dir) as staging:
        write_shards(staging, plan.tensors, plan.config.built_exit_layers, progress)
        plan.config.save_pretrained(staging)
        converted_tokenizer.save_pretrained(staging)
        _write_other_files(staging, folder, Origin(source, ""), plan, output_dir.absolute().name)
    return plan


def _local_folder(source: str, revision: str | None = None, files: Sequence[str] = DOWNLOADED) -> Path:
    if is_local_folder(source):
        return Path(source)
    return Path(snapshot_download(source, revision=revision, allow_patterns=list(files)))


def _read_settings(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{folder}: no config.json")
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(settings, dict):
        raise ValueError(f"{path} must be a JSON object, got {type(settings).__name__}")
    if settings.get("model_type") == MoSEConfig.model_type:
        raise ValueError(f"{folder} is a MoSE repository already")
    return settings


def _convert_tokenizer(folder: Path, config: MoSEConfig) -> PreTrainedTokenizerBase:
    """Return the checkpoint's tokenizer, which now adds `<sep> … <cls>`, and put its ids into `config`."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ValueError(f"{folder}: no tokenizer.json. Pass --tokenizer.")
    backend = Tokenizer.from_file(str(path))
    if backend.token_to_id(SEP) is None:  # StarCoder-2's own tokenizer: the paper adds these, in this order
        backend.add_special_tokens([SEP, CLS, MASK])

    for name, token in (("sep_token_id", SEP), ("cls_token_id", CLS), ("mask_token_id", MASK)):
        token_id = backend.token_to_id(token)
        if token_id is None or token_id >= config.vocab_size:
            raise ValueError(f"{path}: {name} must be in [0, {config.vocab_size}), got {token_id}")
        setattr(config, name, token_id)

    if backend.get_vocab_size() > config.vocab_size:
        raise ValueError(f"{path} must have at most {config.vocab_size} tokens, got {backend.get_vocab_size()}")

    backend.no_truncation()
    backend.no_padding()
    pad_token = backend.id_to_token(config.pad_token_id or 0)
    if pad_token is None:
        raise ValueError(f"{path} has no token of pad_token_id {config.pad_token_id}. Pass --tokenizer.")
    return framed(backend, pad_token, config.max_position_embeddings, split_special_tokens=True)


def _write_other_files(staging: Path, folder: Path, origin: Origin, plan: Conversion, name: str) -> None:
    """Write prompts, code, licence and card beside weights and tokenizer."""
    # The released model was trained with languages in lower case.
    prompts = {key: code_prompt(key).replace(language, language.lower()) for key, language in LANGUAGES.items()}
    normalize = plan.config.embedding_norm == "unit"
    write_sentence_transformers_files(staging, prompts=default_prompts() | prompts, normalize=normalize)

    metadata = source_metadata(folder)
    metadata = {field: metadata[field] for field in CARD_FIELDS if field in metadata}
    for path in folder.glob("LICENSE*"):
        if path.is_file():
            shutil.copyfile(path, staging / path.name)
    if not (staging / "LICENSE").exists():
        (staging / "LICENSE").write_text(_licence(origin.name, metadata), encoding="utf-8")
    add_missing_files(staging)

    notes = [*plan.notes, "The tokenizer adds the outer `<sep> … <cls>`: do not write them into the text."]
    settled = ("pooling", "projection_layers", "projection_act", "embedding_norm", "exit_norm")
    notes += [f"`{field}`: {getattr(plan.config, field)}" for field in settled]
    sentence = "The weights are those of `{name}`, renamed tensor by tensor and not changed."
    origin = replace(origin, sentence=sentence, metadata=metadata, notes=notes)
    write_folder_card(staging, repo_id=name, license=None, origin=origin)


def _licence(source: str, metadata: dict[str, Any]) -> str:
    licence = metadata.get("license_name") or metadata.get("license")
    link = f"\n{metadata['license_link']}" if metadata.get("license_link") else ""
    terms = f"puts them under: {licence}{link}" if licence else "names no licence. Ask its authors."
    code = "The .py files are under the Apache License 2.0, https://www.apache.org/licenses/LICENSE-2.0\n"
    return f"The weights were converted from {source}. Its model card {terms}\n\n{code}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `mose hub import`."""
    source = "folder or Hub id of a released checkpoint, such as modularStarEncoder/ModularStarEncoder-finetuned"
    parser.add_argument("source", metavar="SOURCE", help=source)
    output = "folder to write; new or empty"
    parser.add_argument("--output-dir", required=True, type=Path, metavar="OUT", help=output)

    # The one fact that nothing settles, and that changes every embedding.
    pooling = "mean of the tokens, or cls, the last token"
    parser.add_argument("--pooling", required=True, choices=("mean", "cls"), help=pooling)
    parser.add_argument("--revision", help="branch, tag or commit on the Hub (default: main)")
    parser.add_argument("--tokenizer", metavar="DIR_OR_ID", help="of the tokenizer (default: SOURCE)")

    facts = parser.add_argument_group("facts that the checkpoint does not state")
    norm = "unit, or at_most_one: longer ones are scaled (default: at_most_one if there are projection heads)"
    facts.add_argument("--embedding-norm", choices=("unit", "at_most_one"), help=norm)
    act = "activation between the layers of a projection head (default: %(default)s)"
    facts.add_argument("--projection-act", default="leaky_relu", metavar="NAME", help=act)

    exits = "exits of the whole model (default: as in config.json)"
    facts.add_argument("--exit-layers", nargs="+", type=int, metavar="K", help=exits)
    last_norm = "final norm in a truncated checkpoint, where the whole model has none (default: %(default)s)"
    facts.add_argument("--last-norm", default="drop", choices=("apply", "drop"), help=last_norm)
    facts.add_argument("--rope-theta", type=float, metavar="X", help="base of the rotary positions")
    skipped = "tensors to skip, by their names in the checkpoint; every other tensor must fit"
    facts.add_argument("--leave-out", action="extend", nargs="+", default=[], metavar="REGEX", help=skipped)


def run(options: argparse.Namespace) -> None:
    """Run `mose hub import`."""
    facts = ConversionOptions(**{field.name: getattr(options, field.name) for field in fields(ConversionOptions)})
    source, output, progress = options.source, options.output_dir, sys.stderr.isatty()
    try:
        plan = convert_checkpoint(source, output, facts, options.revision, options.tokenizer, progress)
    except (ValueError, FileNotFoundError, FileExistsError) as error:
        raise ArgumentError(str(error)) from error

    exits = ", ".join(map(str, plan.config.built_exit_layers))
    print(f"{options.output_dir}: {len(plan.tensors)} tensors, exits {exits}")

    # Everything that the command decided by itself.
    for note in plan.notes:
        print(f"note: {note}")
    for name, reason in sorted(plan.left_out.items()):
        print(f"left out {name}: {reason}")
