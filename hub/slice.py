"""Cutting a repository at an exit: a smaller one that stands alone and gives the same vectors."""

import argparse
import dataclasses
import re
import shutil
import tempfile
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path

import torch
from huggingface_hub import HfApi
from huggingface_hub.errors import EntryNotFoundError

from mose.configuration_mose import MoSEConfig
from mose.hub.card import model_card
from mose.hub.card_facts import card_license
from mose.hub.checkpoints import load_config, whole_checkpoint
from mose.hub.commands import ArgumentError
from mose.hub.files import PUBLISHED, complete, publishable
from mose.hub.shards import INDEX, TensorSource, index_name, write_shards
from mose.hub.weights import WEIGHTS, read_index
from mose.utils.files import check_new_folder

#: Of the deeper model, not of the smaller one.
LEFT_BEHIND = ("README.md", "config.json", "training_summary.json", "adapter_", "onnx/")


def sliced_config(config: MoSEConfig, exit_layer: int) -> MoSEConfig:
    """The configuration of a model cut at an exit, with nothing deeper in it.

    With `exit_norm="final"` the number of blocks stays that of the whole stack: it says where the only norm
    stands, which the cut model must not gain. No more than `exit_layer` blocks are built.

    Raises:
        ValueError: there is no such exit, or the model was built less deep.
    """
    config.resolve_exit_layer(exit_layer)
    fields = config.to_dict()
    fields["exit_layers"] = [e for e in config.exit_layers if e <= exit_layer]
    fields["exit_layer"] = None
    if config.exit_norm == "every":
        fields["num_hidden_layers"] = exit_layer
    return MoSEConfig.from_dict(fields)


def slice_repository(
    source: str | Path,
    exit_layer: int,
    output_dir: str | Path,
    *,
    revision: str | None = None,
    token: str | None = None,
) -> Path:
    """Cuts a model at an exit into a repository of its own: weights, tokenizer, code, card.

    Args:
        source: a model's folder, or an id on the Hub, of which only what the exit needs is downloaded.
        exit_layer: one of the model's exits.
        output_dir: must not exist, or be empty; it appears whole or not at all.
        revision, token: as in `huggingface_hub`, for an id.

    Returns:
        `output_dir`.

    Raises:
        FileExistsError: `output_dir` holds something, or is the current folder.
        FileNotFoundError: `source` lacks configuration or weights.
        ValueError: there is no such exit, or `source` is not a whole MoSE.
    """
    output = Path(output_dir)
    check_new_folder(output)
    folder = Path(source)
    if not folder.is_dir():
        folder = download(str(source), exit_layer, revision, token)
    config = load_config(folder)
    smaller = sliced_config(config, exit_layer)
    cut = MoSEConfig.from_dict({**config.to_dict(), "exit_layer": exit_layer})
    index = index_name(exit_layer) if (folder / index_name(exit_layer)).is_file() else INDEX
    tensors = _cut(whole_checkpoint(folder, cut, index), len(smaller.exit_layers))
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as temporary:
        staging = Path(temporary) / "model"
        staging.mkdir()
        smaller.save_pretrained(staging)
        write_shards(staging, tensors, smaller.built_exit_layers)
        for name, path in publishable(folder).items():
            if not name.startswith(LEFT_BEHIND):
                shutil.copyfile(path, staging / name)
        complete(staging, sentence_transformers=(folder / "modules.json").exists())
        card = model_card(
            staging,
            repo_id=output.absolute().name,
            license=card_license(folder) or "apache-2.0",
            sliced_from=str(source),
        )
        (staging / "README.md").write_text(card, encoding="utf-8")
        if output.exists():
            output.rmdir()
        staging.rename(output)
    return output


def _cut(tensors: Mapping[str, TensorSource], exits: int) -> dict[str, TensorSource]:
    """The tensors, with one row of the exits' embeddings for each exit that is kept."""
    found = dict(tensors)
    name = "conditional_embeddings.weight"
    if name in found:
        whole = found[name]

        def read() -> torch.Tensor:
            return whole.read()[:exits]

        found[name] = dataclasses.replace(whole, shape=(exits, *whole.shape[1:]), read=read)
    return found


def download(repo_id: str, exit_layer: int, revision: str | None = None, token: str | None = None) -> Path:
    """Fetches of a Hub repository what an exit needs; the folder in huggingface_hub's cache.

    Raises:
        ValueError: an index leads out of the repository, or there is no such exit.
        huggingface_hub.errors.HfHubHTTPError: the Hub refused.
    """

    api = HfApi(token=token)

    def fetch(name: str) -> Path:
        return Path(api.hf_hub_download(repo_id, name, revision=revision))

    names = api.list_repo_files(repo_id, revision=revision)
    if outside := [name for name in names if name.startswith("/") or ".." in re.split(r"[/\\]", name)]:
        raise ValueError(f"{repo_id}: it lists {outside[0]!r}, which leads out of the repository")
    try:
        folder = fetch("config.json").parent
    except EntryNotFoundError as error:
        raise FileNotFoundError(f"{repo_id}: no config.json is there") from error
    load_config(folder).resolve_exit_layer(exit_layer)
    for name in names:
        wanted = any(fnmatch(name, pattern) for pattern in PUBLISHED) and not name.startswith(LEFT_BEHIND)
        if wanted or name == "README.md":
            fetch(name)
    index = next((name for name in (index_name(exit_layer), INDEX) if name in names), None)
    if WEIGHTS in names and index != index_name(exit_layer):
        fetch(WEIGHTS)
    elif index is not None:
        for shard in sorted(set(read_index(fetch(index)).values())):
            fetch(shard)
    return folder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `python -m mose.hub slice`."""
    parser.add_argument("source", metavar="REPO", help="a model's folder, or an id on the Hub")
    parser.add_argument(
        "--exit-layer", type=int, required=True, metavar="K", help="where to cut, in blocks run; one of its exits"
    )
    parser.add_argument(
        "--output-dir", required=True, metavar="OUT", help="folder to write; must not hold anything"
    )
    parser.add_argument("--revision", help="branch, tag or commit of REPO on the Hub (default: main)")


def run(options: argparse.Namespace) -> None:
    """Runs `python -m mose.hub slice`."""
    try:
        output = slice_repository(
            options.source, options.exit_layer, options.output_dir, revision=options.revision
        )
    except (ValueError, FileExistsError, FileNotFoundError) as error:
        raise ArgumentError(str(error)) from error
    print(output)
