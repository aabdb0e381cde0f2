"""Embeddings of functions and queries by a model at one exit."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mose.inference.encoding import encode
from mose.inference.fingerprints import model_fingerprint
from mose.search.store import Entry, SearchIndexError
from mose.tokenization.prompts import code_prompt, text_prompt


@dataclass(frozen=True)
class FunctionEncoder:
    """A model with its tokenizer at one exit."""

    model: Any  # a `MoSEModel`
    tokenizer: Any
    exit_layer: int
    max_length: int  # maximum number of tokens of a text, prompt included

    @property
    def name(self) -> str:
        """The model's folder, absolute, or its Hub id."""
        name = self.model.name_or_path
        return str(Path(name).resolve()) if Path(name).is_dir() else name

    @functools.cached_property
    def fingerprint(self) -> str:
        """Fingerprint of weights and tokenizer up to the exit."""
        return model_fingerprint(self.model, self.tokenizer, self.exit_layer)

    def encode_query(self, text: str) -> np.ndarray:
        """Return the embedding of a query, (1, dim) float32 of unit norm."""
        return self._encode([text], [text_prompt()], None)

    def encode_functions(self, entries: Sequence[Entry]) -> np.ndarray:
        """Return (entries, dim) float32, rows of unit norm, computed in bf16 if the hardware supports it."""
        prompts = [code_prompt(entry.language) for entry in entries]
        return self._encode([entry.source for entry in entries], prompts, _fast_dtype(self.model.device.type))

    def _encode(self, texts: list[str], prompts: list[str], dtype: torch.dtype | None) -> np.ndarray:
        exits = [self.exit_layer]
        try:
            embeddings = encode(self.model, self.tokenizer, texts, exits, prompts, self.max_length, dtype=dtype)
        except FloatingPointError as error:
            raise SearchIndexError(str(error)) from error
        return embeddings[self.exit_layer]


def _fast_dtype(device: str) -> torch.dtype | None:
    """Return bf16 if the device has native support, or None for the type of the weights."""
    if device == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else None
    if device != "cpu":
        return None

    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    native = any(capabilities.get(f"{unit}bf16") for unit in ("avx512_", "amx_", ""))
    return torch.bfloat16 if native else None
