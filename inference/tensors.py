"""Reading single tensors of a safetensors checkpoint with numpy alone, from a folder or the Hub."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
#: Types of safetensors -> the numpy type of the stored bytes. numpy has no bf16, so its bits are read.
STORED_TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}


class CheckpointTensors:
    """The tensors of a checkpoint by name. Nothing but the requested ones is read.

    Args:
        source: folder or Hub id, for error messages.
        locate: returns the path of a file of the checkpoint, or raises FileNotFoundError.
    """

    def __init__(self, source: str, locate: Callable[[str], Path]):
        self.source, self._locate = source, locate
        self._headers: dict[Path, dict[str, Any]] = {}
        self._shards: dict[str, str] | None = None

        try:
            self._single: Path | None = locate(SINGLE_FILE)
        except FileNotFoundError:
            self._single = None
            self._shards = self._read_index()

    def read(self, name: str) -> np.ndarray:
        """Return a tensor as it is stored; bf16 as its bits, in uint16 (`to_float32`).

        Raises:
            ValueError: there is no such tensor, the file is damaged, or the type is not one of floats.
        """
        # A checkpoint of a task model holds the encoder under this prefix.
        for full_name in (name, f"model.{name}"):
            path = self._path(full_name)
            header = self._header(path) if path else {}
            if path and full_name in header:
                return self._read(path, full_name, header[full_name])
        raise ValueError(f"{self.source}: the weights lack {name}. Load a complete checkpoint.")

    def names(self, prefix: str) -> list[str]:
        """Return the names of the tensors that begin with `prefix`, sorted, as `read` takes them."""
        stored = self._shards if self._shards is not None else self._header(self._locate(SINGLE_FILE))
        return sorted(name for name in (key.removeprefix("model.") for key in stored) if name.startswith(prefix))

    def _path(self, name: str) -> Path | None:
        if self._shards is None:
            return self._single
        return self._locate(self._shards[name]) if name in self._shards else None

    def _read_index(self) -> dict[str, str]:
        try:
            path = self._locate(INDEX_FILE)
        except FileNotFoundError as error:
            message = f"{self.source} has neither {SINGLE_FILE} nor {INDEX_FILE}. Pass a folder with weights."
            raise FileNotFoundError(message) from error

        try:
            return dict(json.loads(path.read_text(encoding="utf-8"))["weight_map"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is no index of safetensors files. Download it again.") from error

    def _header(self, path: Path) -> dict[str, Any]:
        """Return name -> type, shape and place of the tensors of one file."""
        if path in self._headers:
            return self._headers[path]

        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            # The length of a file that is something else would be any number.
            if length > path.stat().st_size:
                raise ValueError(f"{path} is damaged or no safetensors file. Download it again.")
            text = file.read(length)

        try:
            header = json.loads(text)
        except ValueError as error:
            raise ValueError(f"{path} is damaged or no safetensors file. Download it again.") from error
        self._headers[path] = {"": 8 + length, **header}
        return self._headers[path]

    def _read(self, path: Path, name: str, entry: dict[str, Any]) -> np.ndarray:
        if entry["dtype"] not in STORED_TYPES:
            allowed = ", ".join(STORED_TYPES)
            raise ValueError(
                f"{path}: {name} must be one of {allowed}, got {entry['dtype']}. Convert the weights."
            )

        start, end = entry["data_offsets"]
        dtype, place = np.dtype(STORED_TYPES[entry["dtype"]]), self._header(path)[""] + start
        values = np.fromfile(path, dtype, (end - start) // dtype.itemsize, offset=place)

        if values.size != np.prod(entry["shape"], dtype=np.int64):
            raise ValueError(f"{path} ends within {name}. Download it again.")
        return values.reshape(entry["shape"])


def to_float32(stored: np.ndarray) -> np.ndarray:
    """Return stored values as float32; uint16 are the bits of bf16."""
    if stored.dtype != np.uint16:
        return stored.astype(np.float32)
    # bf16 is the upper half of a float32.
    return (stored.astype(np.uint32) << 16).view(np.float32)
