"""Weights in files cut at the exits, written tensor by tensor: whoever wants exit k fetches what lies before k.

A shard holds what its exit adds to the exit before it; the first also holds what every depth needs. Beside the
index of all shards lies one for each exit, `model.safetensors.index.exit4.json`, which
`from_pretrained(…, exit_layer=4, variant="exit4")` follows.
"""

import json
import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mose.utils.files import atomic_write

INDEX = "model.safetensors.index.json"
#: torch's types and safetensors' names for them.
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


@dataclass(frozen=True)
class TensorSource:
    """A tensor that is yet to be read.

    Args:
        shape, dtype: of what `read` will give.
        read: gives the tensor, on the CPU.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], torch.Tensor]

    @property
    def size(self) -> int:
        """Bytes."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize


def needed_from(name: str, exits: tuple[int, ...]) -> int:
    """The shallowest of `exits` (sorted) whose model has the tensor called `name`."""
    found = re.search(r"(?:^|\.)(layers|exits|classifiers)\.(\d+)\.", name)
    if not found:
        return exits[0]
    depth = int(found[2]) + (found[1] == "layers")
    return next(e for e in exits if e >= depth)


def index_name(exit_layer: int) -> str:
    """The index of the shards that a model up to an exit needs."""
    return INDEX.replace(".json", f".exit{exit_layer}.json")


def write_shards(folder: Path, sources: Mapping[str, TensorSource], exits: tuple[int, ...]) -> None:
    """Writes the shards and their indices; no more than one tensor is in memory at a time.

    Args:
        folder: exists; weights that lie there under other names stay.
        sources: by their names in the model.
        exits: those that the model has built, sorted.

    Raises:
        ValueError: a tensor is not of the shape or type that its source promised, or of a type that
            safetensors has no name for.
    """
    parts: dict[int, list[str]] = {e: [] for e in exits}
    for name in sources:
        parts[needed_from(name, exits)].append(name)
    places: dict[str, str] = {}
    kept = [e for e in exits if parts[e]]
    for at, e in enumerate(kept, start=1):
        file = f"model-{at:05}-of-{len(kept):05}.safetensors"
        write_safetensors(folder / file, {name: sources[name] for name in parts[e]})
        places |= dict.fromkeys(parts[e], file)
    for e in exits:
        reached = {name: file for name, file in places.items() if needed_from(name, exits) <= e}
        size = sum(sources[name].size for name in reached)
        index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(reached.items()))}
        write_json(folder / index_name(e), index)
    write_json(folder / INDEX, index)


def write_safetensors(path: Path, sources: Mapping[str, TensorSource]) -> None:
    """One file in safetensors' format: length of the header, header, bytes; whole or not at all.

    Raises:
        ValueError: as in `write_shards`.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, source in sources.items():
        if source.dtype not in DTYPES:
            raise ValueError(f"{name}: {source.dtype} has no name in safetensors")
        start, end = end, end + source.size
        header[name] = {
            "dtype": DTYPES[source.dtype],
            "shape": list(source.shape),
            "data_offsets": [start, end],
        }
    words = json.dumps(header, separators=(",", ":")).encode()
    words += b" " * (-len(words) % 8)
    with atomic_write(path) as file:
        file.write(struct.pack("<Q", len(words)) + words)
        for name, source in sources.items():
            tensor = source.read()
            if tensor.dtype != source.dtype or tuple(tensor.shape) != source.shape:
                raise ValueError(
                    f"{name}: {tensor.dtype} of shape {tuple(tensor.shape)} where {source.dtype} of shape "
                    f"{source.shape} was promised"
                )
            file.write(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)


def write_json(path: Path, content: Any) -> None:
    """Indented JSON, whole or not at all."""
    with atomic_write(path) as file:
        file.write((json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())
