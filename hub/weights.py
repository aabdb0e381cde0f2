"""Reading a checkpoint from one safetensors file or from shards, never from a pickle; the order of one file."""

import json
import os
from functools import partial
from pathlib import Path

from safetensors import safe_open

from mose.hub.shards import DTYPES, INDEX, TensorSource, first_exit_with, write_safetensors

WEIGHTS = "model.safetensors"
_TYPES = {name: dtype for dtype, name in DTYPES.items()}


def read_index(path: Path) -> dict[str, str]:
    """Return the map of an index: tensor name -> file name.

    Raises:
        ValueError: the file is no index, or it names anything but a safetensors file in its own folder.
    """
    try:
        weight_map = dict(json.loads(path.read_text(encoding="utf-8"))["weight_map"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not an index of safetensors files") from error

    for name in weight_map.values():
        # Somebody else's index must not reach files outside its folder.
        is_plain = isinstance(name, str) and name.isprintable() and not set(name) & set("/\\:")
        if not is_plain or name in ("", ".", ".."):
            raise ValueError(f"{path}: shards must be plain names of files beside the index, got {name!r}")
        if not name.endswith(".safetensors"):
            raise ValueError(f"{path}: shards must be .safetensors files, got {name!r}")
    return weight_map


def read_safetensors(path: Path) -> dict[str, TensorSource]:
    """Return the tensors of one safetensors file by name, without reading them.

    Raises:
        ValueError: the file is truncated, not a safetensors file, or holds a type that MoSE does not use.
    """
    try:
        file = safe_open(path, framework="pt")
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
    except Exception as error:  # the library's own exception is not documented
        raise ValueError(f"{path}: not a complete safetensors file: {error}") from error

    # Only the header is read here; `TensorSource.read` reads the data.
    tensors = {}
    for name, part in slices.items():
        if part.get_dtype() not in _TYPES:
            raise ValueError(
                f"{path}: dtype of {name} must be one of {', '.join(_TYPES)}, got {part.get_dtype()}"
            )
        dtype = _TYPES[part.get_dtype()]
        tensors[name] = TensorSource(tuple(part.get_shape()), dtype, partial(file.get_tensor, name))
    return tensors


def read_weights(folder: Path, index: str = INDEX) -> dict[str, TensorSource]:
    """Return the tensors of a model's folder by name, without reading them.

    Args:
        folder: holds `model.safetensors`, or shards and an index.
        index: name of the index to follow if there are shards.

    Raises:
        FileNotFoundError: there are no weights, only pickles, or a shard is missing.
        ValueError: see `read_index` and `read_safetensors`; or a shard lacks a tensor that the index lists.
    """
    if index == INDEX and (folder / WEIGHTS).is_file():
        return read_safetensors(folder / WEIGHTS)

    if not (folder / index).is_file():
        pickles = sorted(path.name for end in ("bin", "pt", "pth", "ckpt") for path in folder.glob(f"*.{end}"))
        hint = f" {', '.join(pickles)} may be pickles, which are never loaded." if pickles else ""
        raise FileNotFoundError(f"{folder}: neither {WEIGHTS} nor {index} exists.{hint}")

    weight_map = read_index(folder / index)
    tensors: dict[str, TensorSource] = {}
    for shard in sorted(set(weight_map.values())):
        if not (folder / shard).is_file():
            raise FileNotFoundError(f"{folder / shard} is missing, but {index} lists it")

        stored = read_safetensors(folder / shard)
        listed = [name for name, file in weight_map.items() if file == shard]
        if missing := sorted(set(listed) - stored.keys()):
            raise ValueError(f"{folder / shard}: {missing[0]} is missing, but {index} lists it there")
        tensors |= {name: stored[name] for name in listed}
    return tensors


def order_by_exit(folder: Path, exits: tuple[int, ...]) -> None:
    """Rewrite `model.safetensors` with its tensors in the order in which the exits need them.

    safetensors sorts them by name, so an exit's blocks are apart, and a load up to it reads much of the file.
    Nothing happens if there is no such file, if its types differ in size (tensors would lose their alignment), or
    on Windows, which cannot replace a file that is read.

    Args:
        folder: of a saved model.
        exits: of the model, sorted.

    Raises:
        ValueError: see `read_safetensors`.
    """
    path = folder / WEIGHTS
    if not path.is_file() or os.name == "nt":
        return

    sources = read_safetensors(path)
    if len({source.dtype.itemsize for source in sources.values()}) > 1:
        return

    def place(name: str) -> tuple[int, int, str]:
        # Blocks in the order of their numbers: "layers.10" comes after "layers.9".
        numbers = [int(word) for word in name.split(".") if word.isdigit()]
        return first_exit_with(name, exits), numbers[0] if numbers else -1, name

    ordered = sorted(sources, key=place)
    if ordered != list(sources):
        write_safetensors(path, {name: sources[name] for name in ordered})
