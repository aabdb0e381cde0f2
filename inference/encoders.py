"""The `Encoder` interface, shared by a MoSE at its exits and the models it is compared with."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from mose.inference.encoding import encode
from mose.inference.fingerprints import model_fingerprint
from mose.inference.loading import load_model, resolve_exit_layers
from mose.inference.progress import Progress
from mose.tokenization.prompts import prompt_for


class Encoder(Protocol):
    """A model that returns one embedding of a text for each of its keys."""

    name: str  # in reports and folders
    keys: tuple[str, ...]  # exits as strings, or the name of a model without exits
    load: Callable[[str], "Encoder"]  # the same encoder on the named device; pickled for other processes

    @property
    def settings(self) -> dict[str, Any]:
        """Settings that embeddings depend on besides weights and texts, ready for JSON."""

    @property
    def device(self) -> torch.device:
        """The model's device."""

    def fingerprint(self) -> str:
        """Return the SHA-256 of the weights, the configuration and the tokenizer."""

    def encode(
        self,
        texts: Sequence[str],
        languages: Sequence[str],
        query: bool,
        keys: Sequence[str] | None = None,
        progress: bool | Progress = False,
    ) -> dict[str, np.ndarray]:
        """Return key -> (texts, dim) float32, rows of unit norm.

        Args:
            texts: at least one.
            languages: one for each text, to select its prompt if the model has any.
            query: True for queries, False for documents.
            keys: subset of the encoder's keys; None means all.
            progress: True for a bar on stderr, or callbacks.
        """


class MoSEEncoder:
    """An `Encoder` for a MoSE: all of its exits from one pass, with exits as strings for keys.

    Args:
        model: from `load_model`.
        tokenizer: from `load_model`.
        exit_layers: exits to use; None means all that are built.
        max_length: maximum number of tokens of a text; None means the limits of model and tokenizer.
        dtype: compute type, by autocast; None means the type of the weights.
        source: folder or Hub id from which another process can load the model.
        trust_remote_code: as for `load_model`.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        exit_layers: Sequence[int] | None = None,
        max_length: int | None = None,
        dtype: torch.dtype | None = None,
        source: str | None = None,
        trust_remote_code: bool = False,
    ):
        self.model, self.tokenizer = model, tokenizer
        self.exits = resolve_exit_layers(model.config, exit_layers)
        self.keys = tuple(map(str, self.exits))
        self.max_length, self.dtype = max_length, dtype
        self.settings = {"max_length": max_length, "dtype": str(dtype)}

        # Another process loads the encoder by its source, since weights are too large to be sent.
        source = source or model.name_or_path
        self.name = Path(source).resolve().name if Path(source).is_dir() else source.split("/")[-1]
        arguments = (source, self.exits, max_length, dtype, trust_remote_code)
        self.load: Callable[[str], Encoder] = partial(_load_encoder, *arguments)

    @property
    def device(self) -> torch.device:
        """The model's device."""
        return self.model.device

    def fingerprint(self) -> str:
        """Return the fingerprint of the model up to its deepest exit."""
        return model_fingerprint(self.model, self.tokenizer, self.exits[-1])

    def encode(
        self,
        texts: Sequence[str],
        languages: Sequence[str],
        query: bool,
        keys: Sequence[str] | None = None,
        progress: bool | Progress = False,
    ) -> dict[str, np.ndarray]:
        """Return exit as a string -> (texts, dim) float32, see `Encoder.encode`."""
        exits = self.exits if keys is None else [int(key) for key in keys]
        prompts = [prompt_for(language, query) for language in languages]
        options: dict[str, Any] = {"max_length": self.max_length, "dtype": self.dtype, "progress": progress}
        embeddings = encode(self.model, self.tokenizer, texts, exits, prompts, **options)
        return {str(exit_layer): vectors for exit_layer, vectors in embeddings.items()}


def _load_encoder(
    source: str,
    exits: Sequence[int],
    max_length: int | None,
    dtype: torch.dtype | None,
    trust_remote_code: bool,
    device: str,
) -> MoSEEncoder:
    model, tokenizer, _ = load_model(source, exits, device, trust_remote_code)
    return MoSEEncoder(model, tokenizer, exits, max_length, dtype, source, trust_remote_code)
