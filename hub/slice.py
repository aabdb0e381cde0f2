"""Cutting a model at an exit: a smaller repository of its own with the same embeddings."""

import argparse
import re
import shutil
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import EntryNotFoundError

from mose.configuration_mose import MoSEConfig
from mose.hub.card import Origin, write_folder_card
from mose.hub.card.metadata import source_metadata
from mose.hub.checkpoints import read_checkpoint, read_config
from mose.hub.contents import (
    check_contents,
    check_copy,
    check_finite,
    check_prompts,
    check_tokenizer,
    probe_embeddings,
)
from mose.hub.files import PUBLISHED, add_missing_files, published_files
from mose.hub.shards import INDEX, TensorSource, index_name, write_shards
from mose.hub.weights import WEIGHTS, read_index
from mose.utils.command_line import ArgumentError
from mose.utils.files import atomic_folder, check_new_folder
from mose.utils.locations import is_local_folder

#: Published files that belong to the deeper model only.
NOT_COPIED = ("README.md", "config.json", "training_summary.json", "adapter_", "onnx/")


def sliced_config(config: MoSEConfig, exit_layer: int) -> MoSEConfig:
    """Return the configuration of a model cut at an exit.

    With `exit_norm="final"`, `num_hidden_layers` stays that of the whole model. It says which exit has the only
    norm, and the cut model must not gain one. At most `exit_layer` blocks are built in any case.

    Raises:
        ValueError: the model has no such exit, or was loaded less deep.
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
    """Cut a model at an exit into a repository of its own: weights, tokenizer, code and card.

    Args:
        source: a model's folder, or a Hub id. Of the latter, only the files that the exit needs are downloaded.
        exit_layer: one of the model's exits.
        output_dir: must not exist, or be empty. It appears complete or not at all.
        revision: branch, tag or commit of the Hub repository.
        token: see `huggingface_hub.HfApi`.

    Returns:
        `output_dir`.

    Raises:
        FileExistsError: see `mose.utils.files.check_new_folder`.
        FileNotFoundError: `source` does not exist, or lacks configuration or weights.
        ValueError: the model has no such exit, or a file is damaged, a link or a pickle.
        RuntimeError: the slice returns other embeddings than the model.
    """
    output_dir = Path(output_dir)
    check_new_folder(output_dir)  # before anything is downloaded
    local = is_local_folder(source)
    folder = Path(source) if local else download(str(source), exit_layer, revision, token)

    config = read_config(folder)
    smaller = sliced_config(config, exit_layer)
    # Checked as a model that was loaded at that exit: deeper tensors are not needed.
    loaded = MoSEConfig.from_dict({**config.to_dict(), "exit_layer": exit_layer})
    index = index_name(exit_layer) if (folder / index_name(exit_layer)).is_file() else INDEX
    tensors = _keep_exits(read_checkpoint(folder, loaded, index), len(smaller.exit_layers))
    files = {name: path for name, path in published_files(folder).items() if not name.startswith(NOT_COPIED)}
    check_contents(files)
    check_prompts(folder, files)
    check_finite(folder, tensors)
    tokenizer = check_tokenizer(folder, config)

    with atomic_folder(output_dir) as staging:
        smaller.save_pretrained(staging)
        write_shards(staging, tensors, smaller.built_exit_layers)
        for name, path in files.items():
            (staging / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(path, staging / name)

        # A shard index of the exit alone is a variant to transformers.
        variant = {"variant": f"exit{exit_layer}"} if index != INDEX else {}
        expected = probe_embeddings(folder, config, tokenizer, exit_layer=exit_layer, **variant)
        check_copy(expected, probe_embeddings(staging, smaller, tokenizer), f"the slice of {source}")
        add_missing_files(staging, sentence_transformers=(folder / "modules.json").exists())

        write_folder_card(
            staging,
            repo_id=output_dir.absolute().name,
            license=source_metadata(folder).get("license", "apache-2.0"),
            origin=Origin(str(source), f"It is `{{name}}` cut at exit {exit_layer}, with the same embeddings."),
        )
    return output_dir


def _keep_exits(tensors: Mapping[str, TensorSource], count: int) -> dict[str, TensorSource]:
    """Return the tensors, with the exits' embedding cut to the first `count` exits."""
    name = "conditional_embeddings.weight"
    if name not in tensors:
        return dict(tensors)

    whole = tensors[name]
    shape = (count, *whole.shape[1:])
    return {**tensors, name: TensorSource(shape, whole.dtype, lambda: whole.read()[:count])}


def download(repo_id: str, exit_layer: int, revision: str | None = None, token: str | None = None) -> Path:
    """Download the files of a Hub repository that an exit needs, and return their folder in the cache.

    Raises:
        ValueError: the model has no such exit, or a file name leads out of the repository.
        FileNotFoundError: there is no configuration.
        huggingface_hub.errors.HfHubHTTPError: the Hub refused.
    """
    api = HfApi(token=token)

    def fetch(name: str) -> Path:
        return Path(api.hf_hub_download(repo_id, name, revision=revision))

    names = api.list_repo_files(repo_id, revision=revision)
    if outside := [name for name in names if name.startswith("/") or ".." in re.split(r"[/\\]", name)]:
        raise ValueError(f"{repo_id}: {outside[0]!r} leads out of the repository")

    # The configuration first: a missing exit is reported before anything large is downloaded.
    try:
        folder = fetch("config.json").parent
    except EntryNotFoundError as error:
        raise FileNotFoundError(f"{repo_id}: no config.json") from error
    read_config(folder).resolve_exit_layer(exit_layer)

    for name in names:
        is_published = any(fnmatch(name, pattern) for pattern in PUBLISHED)
        if (is_published and not name.startswith(NOT_COPIED)) or name == "README.md":  # it names the licence
            fetch(name)

    # The exit's own index lists the fewest shards.
    index = next((name for name in (index_name(exit_layer), INDEX) if name in names), None)
    if WEIGHTS in names and index != index_name(exit_layer):
        fetch(WEIGHTS)
    elif index is not None:
        for shard in sorted(set(read_index(fetch(index)).values())):
            fetch(shard)
    return folder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `mose hub slice`."""
    parser.add_argument("source", metavar="REPO", help="folder or Hub id of a model")
    exit_layer = "exit to cut at, as the number of blocks run"
    parser.add_argument("--exit-layer", type=int, required=True, metavar="K", help=exit_layer)
    parser.add_argument("--output-dir", required=True, metavar="OUT", help="folder to write; new or empty")
    parser.add_argument("--revision", help="branch, tag or commit of REPO on the Hub (default: main)")


def run(options: argparse.Namespace) -> None:
    """Run `mose hub slice`."""
    arguments = (options.source, options.exit_layer, options.output_dir)
    try:
        print(slice_repository(*arguments, revision=options.revision))
    except (ValueError, FileExistsError, FileNotFoundError) as error:
        raise ArgumentError(str(error)) from error
