"""Weights in files cut at the exits, written tensor by tensor.

A shard holds what its exit adds to the exit before; the first shard also holds what every depth needs. Beside the
index of all shards there is one index per exit, such as `model.safetensors.index.exit4.json`, which
`from_pretrained(…, exit_layer=4, variant="exit4")` follows: it downloads no deeper shard.
"""

import json
import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from mose.utils.files import atomic_write, atomic_write_json

INDEX = "model.safetensors.index.json"
#: torch's types -> their names in safetensors.
DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
#: Parts of the model that belong to a depth: blocks by their number, exits and classifiers by their exit.
_DEPTH = re.compile(r"(?:^|\.)(layers|exits|classifiers)\.(\d+)\.")


@dataclass(frozen=True)
class TensorSource:
    """A tensor that is not in memory yet."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], torch.Tensor]  # returns the tensor, on the CPU

    @property
    def size(self) -> int:
        """Size in bytes."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize


def first_exit_with(name: str, exits: tuple[int, ...]) -> int:
    """Return the shallowest of the sorted `exits` whose model has the tensor called `name`."""
    match = _DEPTH.search(name)
    if not match:
        return exits[0]

    # Block 0 is run first, so a model that exits after one block needs it.
    depth = int(match[2]) + (match[1] == "layers")
    return next(exit_layer for exit_layer in exits if exit_layer >= depth)


def index_name(exit_layer: int) -> str:
    """Return the name of the index of the shards that a model up to an exit needs."""
    return INDEX.replace(".json", f".exit{exit_layer}.json")


def write_shards(
    folder: Path, sources: Mapping[str, TensorSource], exits: tuple[int, ...], progress: bool = False
) -> None:
    """Write the shards and their indices, with at most one tensor in memory at a time.

    Args:
        folder: exists; other weights in it stay.
        sources: by their names in the model.
        exits: of the model, sorted.
        progress: show a bar on stderr.

    Raises:
        ValueError: see `write_safetensors`.
    """
    parts: dict[int, list[str]] = {exit_layer: [] for exit_layer in exits}
    for name in sources:
        parts[first_exit_with(name, exits)].append(name)

    weight_map: dict[str, str] = {}
    filled = [names for names in parts.values() if names]
    for number, names in enumerate(tqdm(filled, unit=" shards", disable=not progress), start=1):
        file = f"model-{number:05}-of-{len(filled):05}.safetensors"
        write_safetensors(folder / file, {name: sources[name] for name in names})
        weight_map |= dict.fromkeys(names, file)

    index: dict[str, Any] = {}
    for exit_layer in exits:
        reached = {name: file for name, file in weight_map.items() if first_exit_with(name, exits) <= exit_layer}
        size = sum(sources[name].size for name in reached)
        index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(reached.items()))}
        atomic_write_json(folder / index_name(exit_layer), index, ensure_ascii=False)
    # The deepest exit needs every shard.
    atomic_write_json(folder / INDEX, index, ensure_ascii=False)


def write_safetensors(path: Path, sources: Mapping[str, TensorSource]) -> None:
    """Write one file in safetensors' format (length of the header, header, bytes), atomically.

    safetensors' own writer needs all tensors in memory.

    Raises:
        ValueError: a tensor has another shape or type than its source says, or a type that safetensors lacks.
    """
    # Offsets are known before anything is read.
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, source in sources.items():
        if source.dtype not in DTYPES:
            raise ValueError(f"{name}: dtype must be one of {', '.join(DTYPES.values())}, got {source.dtype}")
        start, end = end, end + source.size
        shape = list(source.shape)
        header[name] = {"dtype": DTYPES[source.dtype], "shape": shape, "data_offsets": [start, end]}

    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)  # the format aligns the data to 8 bytes

    with atomic_write(path) as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        for name, source in sources.items():
            tensor = source.read()
            if tensor.dtype != source.dtype or tuple(tensor.shape) != source.shape:
                stored = f"{tensor.dtype} of shape {tuple(tensor.shape)}"
                raise ValueError(f"{name}: expected {source.dtype} of shape {source.shape}, got {stored}")
            file.write(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
