"""Reading a checkpoint that others wrote: from one safetensors file or from shards, never from a pickle."""

import json
import re
from pathlib import Path

import torch
from safetensors import safe_open

from mose.hub.shards import DTYPES, INDEX, TensorSource

WEIGHTS = "model.safetensors"
#: Names of weight files and their indices, as they stand in the root of a repository.
WEIGHT_FILE = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index(\.exit\d+)?\.json")
_TYPES = {name: dtype for dtype, name in DTYPES.items()}


def read_index(path: Path) -> dict[str, str]:
    """Tensor → file name, from an index.

    Raises:
        ValueError: it is no index, or names a file that is not a safetensors file beside it.
    """
    try:
        weight_map = dict(json.loads(path.read_text(encoding="utf-8"))["weight_map"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not an index of safetensors files") from error
    for name in weight_map.values():
        plain = isinstance(name, str) and name.isprintable() and not set(name) & set("/\\:")
        if not plain or name in ("", ".", ".."):
            raise ValueError(f"{path}: it names {name!r}; a shard must lie beside its index, under a plain name")
        if not name.endswith(".safetensors"):
            raise ValueError(f"{path}: it names {name!r}; weights are read from .safetensors files alone")
    return weight_map


def read_file(path: Path) -> dict[str, TensorSource]:
    """The tensors of one safetensors file, by name.

    Raises:
        ValueError: the file is cut short, no safetensors file, or holds a type that MoSE has no use for.
    """
    try:
        file = safe_open(path, framework="pt")
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
    except Exception as error:  # the library has an exception of its own that it does not document
        raise ValueError(f"{path}: not a whole safetensors file: {error}") from error
    found = {}
    for name, part in slices.items():
        if part.get_dtype() not in _TYPES:
            raise ValueError(f"{path}: {name} is of type {part.get_dtype()}; allowed are {', '.join(_TYPES)}")

        def read(name: str = name) -> torch.Tensor:
            return file.get_tensor(name)

        found[name] = TensorSource(tuple(part.get_shape()), _TYPES[part.get_dtype()], read)
    return found


def read_weights(folder: Path, index: str = INDEX) -> dict[str, TensorSource]:
    """The tensors of a model's folder, by name, yet to be read.

    Args:
        folder: holds `model.safetensors`, or shards and an index.
        index: the index to go by, where there are shards.

    Raises:
        FileNotFoundError: there are no weights, or a shard is missing; says so where only a pickle is there.
        ValueError: as in `read_index` and `read_file`, or a shard lacks a tensor that the index places there.
    """
    if index == INDEX and (folder / WEIGHTS).is_file():
        return read_file(folder / WEIGHTS)
    if not (folder / index).is_file():
        pickles = sorted(p.name for end in ("bin", "pt", "pth", "ckpt") for p in folder.glob(f"*.{end}"))
        found = f"; {', '.join(pickles)} may be pickles, which are never loaded" if pickles else ""
        raise FileNotFoundError(f"{folder}: neither {WEIGHTS} nor {index} is there{found}")
    places = read_index(folder / index)
    tensors: dict[str, TensorSource] = {}
    for shard in sorted(set(places.values())):
        if not (folder / shard).is_file():
            raise FileNotFoundError(f"{folder / shard} is missing, which {index} names")
        held = read_file(folder / shard)
        promised = {name for name, place in places.items() if place == shard}
        if lacking := sorted(promised - held.keys()):
            raise ValueError(f"{folder / shard}: it lacks {lacking[0]}, which {index} places there")
        tensors |= {name: held[name] for name in promised}
    return tensors
