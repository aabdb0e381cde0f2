"""Token ids of many texts in two flat arrays, as the steps of this recipe read and write them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


@dataclass
class Texts:
    """Texts as token ids.

    Attributes:
        ids: (tokens,) uint16, the texts one behind the other.
        lengths: (texts,) int64, tokens of each.
    """

    ids: np.ndarray
    lengths: np.ndarray

    @classmethod
    def from_lists(cls, rows: Iterable[Sequence[int]]) -> "Texts":
        """Return the texts of lists of ids, each below 65,536."""
        parts = [np.asarray(row, np.uint16) for row in rows]
        lengths = np.array([len(part) for part in parts], np.int64)
        return cls(np.concatenate(parts) if parts else np.zeros(0, np.uint16), lengths)

    def to(self, device: torch.device) -> "DeviceTexts":
        """Return the same texts on a device, ready to be batched there."""
        starts = np.cumsum(self.lengths) - self.lengths
        ids = torch.from_numpy(self.ids.astype(np.int32)).to(device)
        return DeviceTexts(ids, torch.from_numpy(starts).to(device), torch.from_numpy(self.lengths).to(device))


@dataclass
class DeviceTexts:
    """Texts on a device: ids (tokens,) int32, and where each starts and how long it is, (texts,) int64."""

    ids: Tensor
    starts: Tensor
    lengths: Tensor

    def __len__(self) -> int:
        return len(self.starts)

    def batch(self, rows: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """Return `input_ids` and `attention_mask` of texts, (rows, size) int64 each, padded on the left by 0.

        A longer text is cut before its last token, `<cls>`.
        """
        lengths = self.lengths[rows].clamp(max=size)
        places = torch.arange(size, device=rows.device)
        mask = places >= size - lengths[:, None]

        offsets = (places - (size - lengths[:, None])).clamp(min=0)
        last = self.lengths[rows, None] - 1
        offsets = torch.where(places == size - 1, last, offsets)
        ids = self.ids[(self.starts[rows, None] + offsets)].long()
        return ids * mask, mask.long()


def save(path: Path, texts: dict[str, Texts], **columns: np.ndarray) -> None:
    """Save texts by name, and further arrays, in one .npz file."""
    named = {
        f"{name}.{part}": getattr(value, part) for name, value in texts.items() for part in ("ids", "lengths")
    }
    np.savez(path, **named, **columns)


def load(path: Path) -> tuple[dict[str, Texts], dict[str, np.ndarray]]:
    """Return the texts by name, and the further arrays, of a file of `save`."""
    with np.load(path) as file:
        columns = {name: file[name] for name in file.files}
    names = [name.removesuffix(".ids") for name in columns if name.endswith(".ids")]
    texts = {name: Texts(columns.pop(f"{name}.ids"), columns.pop(f"{name}.lengths")) for name in names}
    return texts, columns
