"""Fingerprints of the inputs that embeddings depend on: weights, tokenizer and texts."""

import copy
import hashlib
import json
from collections.abc import Sequence
from typing import Any

import torch

from mose.tokenization.backend import backend_rules

#: Configuration fields that change embeddings but neither the name nor the shape of any weight.
CONFIG_FIELDS = (
    *("hidden_act", "norm_epsilon", "num_attention_heads", "rope_parameters", "pooling", "gate_kernel_size"),
    *("projection_act", "truncate_dim", "max_position_embeddings"),
)
_TEXTS_PER_SLICE = 4096


def model_fingerprint(model: Any, tokenizer: Any, exit_layer: int) -> str:
    """Return the SHA-256 of the weights up to `exit_layer`, the `CONFIG_FIELDS`, and the tokenizer.

    It is the same for a model loaded up to that exit and for a deeper one. It does not depend on the precision
    in memory if that is at least the stored one.
    """
    config = copy.deepcopy(model.config)
    config.exit_layer = exit_layer
    with torch.device("meta"):
        names = sorted(type(model)(config).state_dict())

    digest = hashlib.sha256()
    weights = model.state_dict()
    for name in names:
        array = weights[name].detach().to("cpu", torch.float32).contiguous().numpy()
        digest.update(f"{name} {array.shape}".encode())
        digest.update(array.data)
    digest.update(json.dumps({name: getattr(config, name) for name in CONFIG_FIELDS}, sort_keys=True).encode())

    digest.update(tokenizer_rules(tokenizer))
    return digest.hexdigest()


def tokenizer_rules(tokenizer: Any) -> bytes:
    """Return the rules of a fast tokenizer of transformers, see `mose.tokenization.backend.backend_rules`."""
    return backend_rules(tokenizer.backend_tokenizer)


def fingerprint_texts(texts: Sequence[str], languages: Sequence[str] | None = None) -> str:
    """Return the SHA-256 of texts and their languages in order. Both are read in slices: they may be on disk.

    ValueError names a text that is none.
    """
    digest = hashlib.sha256()

    for start in range(0, len(texts), _TEXTS_PER_SLICE):
        rows = slice(start, start + _TEXTS_PER_SLICE)
        part = texts[rows]
        part_languages = languages[rows] if languages is not None else [""] * len(part)

        for number, (text, language) in enumerate(zip(part, part_languages, strict=True), start):
            if not isinstance(text, str):
                raise ValueError(f"text {number} must be a text, got {text!r:.40}. Leave it out.")
            encoded = text.encode("utf-8", "surrogatepass")
            digest.update(f"{len(encoded)} {language}\0".encode())  # the length separates neighbouring texts
            digest.update(encoded)
    return digest.hexdigest()
