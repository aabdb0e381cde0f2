"""Weights that a run of the recipe starts from, and what is made of the weights that it has trained."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModel, PreTrainedTokenizerBase, set_seed

from mose.configuration_mose import MoSEConfig
from mose.inference.encoding import encode
from mose.tokenization.prompts import prompt_for
from mose.training.finetuning.initialization import token_strings
from mose.training.finetuning.rotation import rotate_exits
from mose.training.finetuning.teacher import Teacher, joint_embeddings
from mose.training.finetuning.widening import SIZES, widen_model, wider_config

#: Tokens of a text that exits are rotated by.
ROTATION_TOKENS = 128
#: The teachers, their cache folder, and the tokens that they read.
Teachers = tuple[list[Teacher], Path, int]


def model_config(recipe: Mapping[str, Any], **overrides: Any) -> MoSEConfig:
    """Return the configuration of the recipe's model."""
    return MoSEConfig.from_preset(recipe["preset"], **recipe.get("model", {}) | overrides)


def check_sizes(options: argparse.Namespace, recipe: Mapping[str, Any]) -> None:
    """Check, before the long work, that the weights of all flags fit the recipe's model.

    Raises:
        ValueError: a trunk or weights to average with are of another width, or weights to start from are, and
            cannot be widened to it.
    """
    wanted = model_config(recipe)
    for flag, folder in (("--trunk", options.trunk), ("--average-with", vars(options).get("average_with"))):
        if folder is not None and (size := MoSEConfig.from_pretrained(folder).hidden_size) != wanted.hidden_size:
            raise ValueError(
                f"{flag} must have hidden_size={wanted.hidden_size}, as the recipe, got {size} in {folder}. "
                "Pass a recipe of that size, too, such as one with `preset: mose-nano-256`."
            )

    if options.start is None:
        return
    narrow = MoSEConfig.from_pretrained(options.start)
    if narrow.hidden_size != wanted.hidden_size:
        wide = wider_config(narrow, wanted.hidden_size)
        for name in SIZES:
            if getattr(wanted, name) != getattr(wide, name):
                raise ValueError(
                    f"model: {name} must be {getattr(wide, name)} to widen {options.start} to "
                    f"hidden_size={wanted.hidden_size}, got {getattr(wanted, name)}. Change the recipe."
                )


def widened_start(
    options: argparse.Namespace,
    recipe: Mapping[str, Any],
    tokenizer: PreTrainedTokenizerBase,
    teachers: Teachers,
) -> Path | None:
    """Return the folder to go on from: --start, or a wider model made of it if the recipe's is wider."""
    if options.start is None:
        return None

    size, folder = model_config(recipe).hidden_size, options.output_dir / "widened"
    model = AutoModel.from_pretrained(options.start, trust_remote_code=True, dtype=torch.float32)
    if model.config.hidden_size == size:
        return options.start

    if not (folder / "done").exists():
        set_seed(recipe["seed"] if options.seed is None else options.seed)
        vectors = joint_embeddings(token_strings(tokenizer), *teachers)
        widen_model(model, size, tokenizer, vectors).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        (folder / "done").touch()
    return folder


def weights_to_average(options: argparse.Namespace, recipe: Mapping[str, Any]) -> Path | None:
    """Return the folder of the weights that the result is averaged with, or None if it is not."""
    share, other = recipe["average"], options.average_with or options.start
    if not 0 <= share <= 1:
        raise ValueError(f"average must be a share in [0, 1], got {share}.")
    if share and other is None:
        raise ValueError("The recipe averages weights. Pass --start or --average-with.")
    return other if share else None


def average_weights(last: Path, other: Path, share: float, folder: Path) -> None:
    """Save `last` to `folder`, with `share` of the weights of `other` in the mean of both.

    Weights that went on from others keep more of what these knew if they are averaged with them (Wortsman et al.,
    "Robust fine-tuning of zero-shot models", 2022).
    """
    model, mixed_in = (AutoModel.from_pretrained(source, trust_remote_code=True) for source in (last, other))
    with torch.no_grad():
        for parameter, added in zip(model.parameters(), mixed_in.parameters(), strict=True):
            parameter.lerp_(added, share)

    # Both were trained in one space, and one went on from the other: what both claim, their mean has, too.
    configs = (model.config, mixed_in.config)
    dims = set.intersection(*(set(config.matryoshka_dims or ()) for config in configs))
    aligned = all(config.aligned_exits for config in configs)
    model.describe_space(aligned, sorted(dims, reverse=True) or None)
    model.save_pretrained(folder)
    (folder / "done").touch()


def rotate_weights(last: Path, tokenizer: PreTrainedTokenizerBase, pairs: Dataset, folder: Path) -> None:
    """Save the model of `last` to `folder`, its exits rotated towards the deepest by both texts of the pairs."""
    model = AutoModel.from_pretrained(last, trust_remote_code=True)
    texts = pairs["query"][:] + pairs["document"][:]
    prompts = [prompt_for(language, True) for language in pairs["query_language"][:]]
    prompts += [prompt_for(language, False) for language in pairs["document_language"][:]]
    embeddings = encode(model, tokenizer, texts, prompts=prompts, max_length=ROTATION_TOKENS, progress=True)
    rotate_exits(model, embeddings)
    model.save_pretrained(folder)
    (folder / "done").touch()
