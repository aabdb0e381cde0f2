"""Masked language modelling: which tokens are hidden, by what (Devlin et al., arXiv 1810.04805, section 3.1)."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from mose.data.pretraining.contexts import SPECIAL_TOKENS

#: What the loss passes over, in `labels`.
IGNORED = -100


@dataclass
class MLMCollator:
    """Examples of `mose.data.pretraining.stream.PreTrainingStream` to batches with masked tokens.

    Each token that is not special is chosen with probability `mlm_probability`; of those, 80 % become `<mask>`,
    10 % a random token that is not special, and 10 % stay. An example's masks depend on `seed`, its tokens and
    its `index` alone: they are the same after a resume, for any batch, number of workers and read-ahead.

    Attributes:
        tokenizer: Its padding side and special tokens count.
        mlm_probability: How many of the tokens are to be predicted.
        pad_to_multiple_of: Pad to a length that this divides; None for the longest example's.
        seed: Of the masks.

    Raises:
        ValueError: The probability is not in (0, 1], or the tokenizer lacks a special token or has no other.
    """

    tokenizer: PreTrainedTokenizerBase
    mlm_probability: float = 0.15
    pad_to_multiple_of: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0.0 < self.mlm_probability <= 1.0:
            raise ValueError(f"mlm_probability={self.mlm_probability}: a probability above 0 and up to 1")
        if self.pad_to_multiple_of is not None and self.pad_to_multiple_of < 1:
            raise ValueError(f"pad_to_multiple_of={self.pad_to_multiple_of}: must be at least 1")
        if missing := [name for name in SPECIAL_TOKENS if getattr(self.tokenizer, f"{name}_token_id") is None]:
            raise ValueError(f"the tokenizer has no {' and no '.join(missing)} token")
        special = set(self.tokenizer.all_special_ids)
        special |= {id_ for id_, token in self.tokenizer.added_tokens_decoder.items() if token.special}
        self._special = np.isin(np.arange(len(self.tokenizer)), list(special))
        self._ordinary = np.flatnonzero(~self._special)
        if not len(self._ordinary):
            raise ValueError("the tokenizer has special tokens only")

    def __call__(self, examples: Sequence[Mapping[str, object]]) -> dict[str, torch.Tensor]:
        """Masks and pads a batch.

        Args:
            examples: Each with `input_ids`, and where known `index` and `context_label`.

        Returns:
            `input_ids`, `attention_mask` and `labels` (batch, tokens), the latter -100 where nothing is to be
            predicted, and `context_labels` (batch,) where the examples have them; all int64.

        Raises:
            ValueError: The batch is empty, only some examples have a context label, or an id is not the
                tokenizer's.
        """
        if not examples:
            raise ValueError("empty batch: a batch has one example or more")
        labelled = sum("context_label" in example for example in examples)
        if labelled not in (0, len(examples)):
            raise ValueError(f"{labelled} of {len(examples)} examples have a context_label: all or none")
        length = max(len(example["input_ids"]) for example in examples)  # type: ignore[arg-type]
        if self.pad_to_multiple_of:
            length += -length % self.pad_to_multiple_of
        shape = len(examples), length
        batch = {
            "input_ids": np.full(shape, self.tokenizer.pad_token_id),
            "attention_mask": np.zeros(shape, dtype=np.int64),
            "labels": np.full(shape, IGNORED),
        }
        for row, example in enumerate(examples):
            ids, labels = self._masked(np.asarray(example["input_ids"], dtype=np.int64), example.get("index", 0))
            real = slice(length - len(ids), None) if self.tokenizer.padding_side == "left" else slice(len(ids))
            batch["input_ids"][row, real], batch["labels"][row, real] = ids, labels
            batch["attention_mask"][row, real] = 1
        if labelled:
            batch["context_labels"] = np.array([example["context_label"] for example in examples])
        return {name: torch.from_numpy(values) for name, values in batch.items()}

    def _masked(self, ids: np.ndarray, index: object) -> tuple[np.ndarray, np.ndarray]:
        """The tokens of an example as the model sees them, and those that it is to predict, (tokens,) each."""
        if len(ids) and not 0 <= ids.min() <= ids.max() < len(self._special):
            raise ValueError(f"token ids from {ids.min()} to {ids.max()}: the tokenizer has {len(self._special)}")
        rng = np.random.default_rng([self.seed, zlib.crc32(ids.tobytes()), int(str(index))])
        chosen, kind = rng.random((2, len(ids)))
        chosen = (chosen < self.mlm_probability) & ~self._special[ids]
        labels = np.where(chosen, ids, IGNORED)
        masked = np.where(chosen & (kind < 0.8), self.tokenizer.mask_token_id, ids)
        random = chosen & (kind >= 0.8) & (kind < 0.9)
        masked[random] = self._ordinary[rng.integers(len(self._ordinary), size=int(random.sum()))]
        return masked, labels
