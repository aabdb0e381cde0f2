"""Embedding the units and queries of an index: at exit 0 without torch, at other exits with it."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from mose.inference.static import CONFIG_DEFAULTS, StaticEncoder
from mose.inference.tensors import to_float32
from mose.search.records import SHIPPED, Meta
from mose.search.store import SearchIndexError
from mose.utils.locations import is_local_folder, package_folder

if TYPE_CHECKING:
    from mose.inference.encoders import MoSEEncoder

#: Fields of a configuration that embeddings at exit 0 depend on.
_LOOKUP_FIELDS = tuple(sorted(CONFIG_DEFAULTS.keys() - {"exit_layers", "num_hidden_layers", "hidden_size"}))


class UnitEncoder(Protocol):
    """An encoder of units and queries at one exit.

    Attributes:
        name: as `Meta.model`.
        exit_layer: the exit.
        dim: width of the embeddings.
        aligned: whether the exits of the model share one embedding space.
    """

    name: str
    exit_layer: int
    dim: int
    aligned: bool

    def fingerprint(self, exit_layer: int) -> str:
        """Return what identifies weights and tokenizer up to an exit; "" if it is not loaded."""

    def documents(self, texts: Sequence[str], languages: Sequence[str]) -> np.ndarray:
        """Return the embeddings of code, (texts, dim) float32, rows of unit norm.

        Raises:
            SearchIndexError: the model returns NaN.
        """

    def query(self, text: str) -> np.ndarray:
        """Return the embedding of a query, (dim,) float32 of unit norm."""


class LookupEncoder:
    """A `UnitEncoder` at exit 0 that needs no torch.

    Args:
        source: folder or Hub id.
        max_length: maximum number of tokens of a text.
    """

    def __init__(self, source: str, max_length: int | None):
        self._encoder = StaticEncoder(source, max_length=max_length)
        self.name, self.exit_layer, self.dim = model_name(source), 0, self._encoder.truncate_dim
        self.aligned = bool(self._encoder.config.get("aligned_exits"))

    def fingerprint(self, exit_layer: int) -> str:
        return self._fingerprint if exit_layer == 0 else ""

    @cached_property
    def _fingerprint(self) -> str:
        tensors = self._encoder.tensors
        names = ["embed_tokens.weight", *tensors.names("exits.0.")]
        config, rules = self._encoder.config, self._encoder.tokenizer.rules()
        return _lookup_fingerprint(names, lambda name: to_float32(tensors.read(name)), config, rules)

    def documents(self, texts: Sequence[str], languages: Sequence[str]) -> np.ndarray:
        return _refuse_nan(self._encoder.encode_document)(texts, languages)

    def query(self, text: str) -> np.ndarray:
        return _refuse_nan(self._encoder.encode_query)([text])[0]


class TorchEncoder:
    """A `UnitEncoder` at any exit of a loaded model.

    Args:
        model: a `MoSEModel`.
        tokenizer: the model's tokenizer.
        exit_layer: None means the deepest.
        max_length: maximum number of tokens of a text.
    """

    def __init__(self, model: Any, tokenizer: Any, exit_layer: int | None, max_length: int | None):
        self._model, self._tokenizer, self._max_length = model, tokenizer, max_length
        self.name, self.exit_layer = model_name(model.name_or_path), model.config.resolve_exit_layer(exit_layer)
        self.dim = model.config.resolve_truncate_dim()
        self.aligned = bool(getattr(model.config, "aligned_exits", False))

    def fingerprint(self, exit_layer: int) -> str:
        from mose.inference.fingerprints import model_fingerprint, tokenizer_rules

        if exit_layer not in self._model.config.built_exit_layers:
            return ""
        if exit_layer != 0:
            return model_fingerprint(self._model, self._tokenizer, exit_layer)

        weights, config = self._model.state_dict(), self._model.config
        names = ["embed_tokens.weight", *(name for name in weights if name.startswith("exits.0."))]
        fields = {name: getattr(config, name) for name in _LOOKUP_FIELDS}
        rules = tokenizer_rules(self._tokenizer)
        return _lookup_fingerprint(
            names, lambda name: weights[name].detach().float().cpu().numpy(), fields, rules
        )

    def documents(self, texts: Sequence[str], languages: Sequence[str]) -> np.ndarray:
        from mose.inference.encoding import fast_dtype

        # Units are embedded in bf16 if that is fast, queries always in the type of the weights.
        return self._encode(self._encoder(fast_dtype(self._model.device)), texts, languages, is_query=False)

    def query(self, text: str) -> np.ndarray:
        return self._encode(self._encoder(None), [text], [""], is_query=True)[0]

    def _encoder(self, dtype: Any) -> "MoSEEncoder":
        from mose.inference.encoders import MoSEEncoder

        return MoSEEncoder(self._model, self._tokenizer, [self.exit_layer], self._max_length, dtype)

    @staticmethod
    def _encode(
        encoder: "MoSEEncoder", texts: Sequence[str], languages: Sequence[str], is_query: bool
    ) -> np.ndarray:
        (embeddings,) = _refuse_nan(encoder.encode)(texts, languages, is_query).values()
        return embeddings


def open_encoder(
    name: str, exit_layer: int | None, max_length: int | None, trust_remote_code: bool = False
) -> UnitEncoder:
    """Return the encoder of a model at an exit.

    Args:
        name: folder or Hub id, or `SHIPPED`.
        exit_layer: None means the deepest.
        max_length: maximum number of tokens of a text.
        trust_remote_code: run the code stored beside the weights, in place of the installed one.

    Raises:
        ValueError: there is no such model, it is no MoSE, or has no such exit.
    """
    source = str(package_folder()) if name == SHIPPED else name
    try:
        is_local_folder(source)
    except FileNotFoundError as error:
        raise ValueError(f"--model {error}") from None
    if exit_layer == 0 and not trust_remote_code:
        try:
            return _lookup_encoder(source, max_length, _stamps(source))
        except FileNotFoundError as error:
            raise ValueError(str(error)) from error

    from transformers.utils import logging

    from mose.inference.loading import load_model

    logging.disable_progress_bar()
    exits = None if exit_layer is None else [exit_layer]
    model, tokenizer, _ = load_model(source, exits, trust_remote_code=trust_remote_code)
    return TorchEncoder(model, tokenizer, exit_layer, max_length)


@lru_cache(maxsize=4)
def _lookup_encoder(source: str, max_length: int | None, stamps: object) -> LookupEncoder:
    """Return the encoder of a model whose files have these stamps. Indexes of one process share it."""
    return LookupEncoder(source, max_length)


def _stamps(source: str) -> tuple[tuple[str, int, int], ...]:
    """Return the names, sizes and times of a model's files in a folder."""
    folder = Path(source)
    files = sorted(folder.glob("*")) if folder.is_dir() else []
    states = [(file.name, file.stat()) for file in files if file.suffix in {".json", ".safetensors"}]
    return tuple((name, state.st_size, state.st_mtime_ns) for name, state in states)


def query_encoder(
    meta: Meta,
    path: str,
    model: str | None = None,
    exit_layer: int | None = None,
    trust_remote_code: bool = False,
) -> UnitEncoder:
    """Return what embeds the queries of an index.

    Args:
        meta: the description of the index.
        path: where it is, for messages.
        model: folder or Hub id of its model, if that has moved; None means the recorded one.
        exit_layer: exit of queries. None means exit 0 if the model's exits share one embedding space, as that
            takes no torch, else the exit of the index.
        trust_remote_code: run the code stored beside the weights, in place of the installed one.

    Raises:
        ValueError: there is no such model, or the exit does not fit.
        SearchIndexError: it is not the model of the index.
    """
    name = model or meta.model
    if not name:
        raise ValueError(f"{path}: the model of this index was never saved. Pass its folder as the model.")
    if exit_layer is None:
        exit_layer = 0 if meta.lookup_fingerprint and not trust_remote_code else meta.exit_layer
    # Deep enough for the index, whose fingerprint covers the weights up to its exit.
    encoder = open_encoder(name, exit_layer, meta.max_length, trust_remote_code)
    check_encoder(encoder, meta, path)
    return encoder


def check_encoder(encoder: UnitEncoder, meta: Meta, path: str) -> None:
    """Check that an encoder is that of an index, at its exit or at another that is comparable.

    Raises:
        ValueError: the exits are not comparable.
        SearchIndexError: other weights or another tokenizer.
    """
    if encoder.exit_layer != meta.exit_layer and not encoder.aligned:
        reason = "the exits of a model trained without --align-exits are not comparable"
        message = (
            f"exit_layer must be {meta.exit_layer}, the exit of this index, got {encoder.exit_layer}: {reason}"
        )
        advice = f"index {meta.roots} at exit {encoder.exit_layer} in another folder"
        raise ValueError(f"{message}. Query at exit {meta.exit_layer}, or {advice}.")

    # Without the index's exit, its model is known by what exit 0 has of it.
    if fingerprint := encoder.fingerprint(meta.exit_layer):
        fits = fingerprint == meta.fingerprint
    else:
        fits = encoder.fingerprint(0) == meta.lookup_fingerprint
    if not fits:
        source = f"{meta.model or 'another model'} as it was then, not {encoder.name or 'this one'}"
        message = f"{path}: other weights, another tokenizer or another version created this index ({source})"
        command = (
            f"python -m mose.search index {meta.trees[0].root} --index {path} --exit-layer {meta.exit_layer}"
        )
        raise SearchIndexError(f"{message}. Load those, or run: {command} --model {encoder.name or 'MODEL'}")


def model_name(source: str) -> str:
    """Return the name to record of a model: an absolute folder, a Hub id, or `SHIPPED`."""
    if not source or not Path(source).is_dir():
        return source
    folder = Path(source).resolve()
    return SHIPPED if folder == package_folder() else str(folder)


def _lookup_fingerprint(
    names: Iterable[str], read: Callable[[str], np.ndarray], config: Mapping[str, Any], tokenizer_rules: bytes
) -> str:
    """Return the SHA-256 of the tensors, the fields and the tokenizer that exit 0 depends on."""
    digest = hashlib.sha256()
    for name in sorted(names):
        array = np.ascontiguousarray(read(name))
        digest.update(f"{name} {array.shape}".encode())
        digest.update(array.data)
    digest.update(json.dumps({name: config[name] for name in _LOOKUP_FIELDS}, sort_keys=True).encode())
    digest.update(tokenizer_rules)
    return digest.hexdigest()


def _refuse_nan(encode: Callable[..., Any]) -> Callable[..., Any]:
    """Return `encode` with NaN reported as an error of search."""

    def encode_finite(*arguments: Any) -> Any:
        try:
            return encode(*arguments)
        except FloatingPointError as error:
            raise SearchIndexError(str(error)) from error

    return encode_finite
