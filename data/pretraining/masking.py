"""The collator of masked language modelling, with BERT's 80/10/10 rule (arXiv 1810.04805, section 3.1)."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from mose.tokenization.special_tokens import check_special_tokens

#: The value in `labels` that the loss ignores.
IGNORED = -100


@dataclass
class MLMCollator:
    """Convert examples of `mose.data.pretraining.stream.PreTrainingStream` to batches with masked tokens.

    Each token that is not special is chosen with probability `mlm_probability`. Of the chosen ones, 80 % become
    `<mask>`, 10 % a random token that is not special, and 10 % stay. The masks of an example depend only on its
    tokens, its `index` and `seed`: they are the same after a resume, for any batch and number of workers.

    Attributes:
        tokenizer: provides the padding side and the special tokens.
        mlm_probability: probability of choosing a token for prediction, in (0, 1].
        seed: seed of the masks.

    Raises:
        ValueError: an argument is out of its range, or the tokenizer lacks a special token or has no other.
    """

    tokenizer: PreTrainedTokenizerBase
    mlm_probability: float = 0.15
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0.0 < self.mlm_probability <= 1.0:
            raise ValueError(f"mlm_probability must be in (0, 1], got {self.mlm_probability}.")
        check_special_tokens(self.tokenizer)

        special = set(self.tokenizer.all_special_ids)
        special |= {id_ for id_, token in self.tokenizer.added_tokens_decoder.items() if token.special}
        self._special = np.isin(np.arange(len(self.tokenizer)), list(special))
        self._ordinary = np.flatnonzero(~self._special)
        if not len(self._ordinary):
            raise ValueError("the tokenizer must have tokens that are not special; it has none.")

    def __call__(self, examples: Sequence[Mapping[str, object]]) -> dict[str, torch.Tensor]:
        """Mask and pad a batch.

        Args:
            examples: each with `input_ids`, and optionally `index` and `context_label`.

        Returns:
            `input_ids`, `attention_mask` and `labels` (batch, tokens), int64; `labels` is -100 for tokens that
            are not predicted. If the examples have a context label, also `context_labels` (batch,).

        Raises:
            ValueError: the batch is empty, only some examples have a context label, or an id is not in the
                tokenizer's vocabulary.
        """
        if not examples:
            raise ValueError("The batch is empty. Pass at least one example.")

        labelled = sum("context_label" in example for example in examples)
        if labelled not in (0, len(examples)):
            raise ValueError(
                f"All examples or none must have a context_label, got {labelled} of {len(examples)}."
            )

        masked = [self._mask(np.array(row["input_ids"], dtype=np.int64), row.get("index", 0)) for row in examples]
        ids, labels = ([torch.from_numpy(values) for values in column] for column in zip(*masked, strict=True))
        pad = partial(pad_sequence, batch_first=True, padding_side=self.tokenizer.padding_side)
        batch = {
            "input_ids": pad(ids, padding_value=self.tokenizer.pad_token_id),
            "attention_mask": pad([torch.ones_like(row) for row in ids]),
            "labels": pad(labels, padding_value=IGNORED),
        }

        if labelled:
            batch["context_labels"] = torch.tensor([example["context_label"] for example in examples])
        return batch

    def _mask(self, ids: np.ndarray, index: object) -> tuple[np.ndarray, np.ndarray]:
        """Return the input tokens of an example and the labels, (tokens,) each."""
        if len(ids) and not 0 <= ids.min() <= ids.max() < len(self._special):
            raise ValueError(
                f"token ids must be in [0, {len(self._special)}), got ids from {ids.min()} to {ids.max()}."
            )

        # Seeding by the tokens as well separates examples without an index.
        rng = np.random.default_rng([self.seed, zlib.crc32(ids.tobytes()), int(str(index))])
        chosen, kind = rng.random((2, len(ids)))
        chosen = (chosen < self.mlm_probability) & ~self._special[ids]
        labels = np.where(chosen, ids, IGNORED)

        # 80 % <mask>, 10 % random, and the remaining 10 % unchanged.
        masked = np.where(chosen & (kind < 0.8), self.tokenizer.mask_token_id, ids)
        random = chosen & (kind >= 0.8) & (kind < 0.9)
        masked[random] = self._ordinary[rng.integers(len(self._ordinary), size=int(random.sum()))]
        return masked, labels
