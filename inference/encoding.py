"""Encoding texts at several exits in one pass, in length-sorted batches of bounded size."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn.functional import normalize

from mose.inference.loading import resolve_exit_layers
from mose.inference.progress import Progress, TokenBar
from mose.inference.static import TEXTS_AT_ONCE, token_batches
from mose.tokenization.inputs import input_ids
from mose.utils.prefetching import prefetch

#: Texts that are tokenized and sorted together, while those before are encoded. Bounds the memory of token ids.
WINDOW = 8_192


def encode(
    model: Any,
    tokenizer: Any,
    texts: Sequence[str],
    exit_layers: Sequence[int] | None = None,
    prompts: str | Sequence[str] = "",
    max_length: int | None = None,
    token_budget: int | None = None,
    dtype: torch.dtype | None = None,
    progress: bool | Progress = False,
) -> dict[int, np.ndarray]:
    """Return the embeddings of texts at one or more exits.

    Args:
        model: a `MoSEModel` on any device. Its training mode is restored afterwards.
        tokenizer: the model's tokenizer.
        texts: at least one. An empty text is encoded as its prompt and special tokens.
        exit_layers: exits to return; None means all that are built.
        prompts: prefix of every text, or one prefix for each text.
        max_length: maximum number of tokens, prompt and special tokens included. Longer texts are truncated.
            The limits of model and tokenizer apply as well; None means these alone.
        token_budget: maximum number of tokens in a batch, padding included; a longer text is a batch of its own.
            None means `default_token_budget`.
        dtype: compute type, by autocast; None means the type of the weights. On a CPU, exit 0 alone is always
            computed in the type of the weights: it multiplies little, and casts cost more than they save.
        progress: True for a bar on stderr, or callbacks.

    Returns:
        exit -> (texts, dim) float32, rows of unit norm in the order of `texts`.

    Raises:
        ValueError: no texts, or prompts, exits, `max_length`, `token_budget` or `dtype` that do not fit.
        FloatingPointError: an embedding is NaN or infinite, because the weights are broken.
    """
    _check_texts(texts, prompts)
    exits = resolve_exit_layers(model.config, exit_layers)
    token_budget = default_token_budget(model.device, exits[-1]) if token_budget is None else token_budget
    if token_budget < 1:
        raise ValueError(f"token_budget must be at least 1, got {token_budget}.")

    limit = token_limit(model, tokenizer, max_length)
    result: dict[int, np.ndarray] = {}

    characters = sum(map(len, texts)) if progress is True else 0
    bar = TokenBar(characters, progress) if isinstance(progress, bool) else nullcontext(progress)
    looked_up = exits == (0,) and model.device.type == "cpu"
    with inference_context(model, dtype, cast=not looked_up), bar as callbacks:
        for window in _windows(tokenizer, texts, prompts, limit, TEXTS_AT_ONCE if looked_up else WINDOW):
            callbacks.tokenized(window.characters, len(window.ids))
            part = _look_up_window(model, window, token_budget, callbacks) if looked_up else None
            rows, embeddings = part or _encode_window(model, window, exits, token_budget, callbacks)

            # One copy for each window: a GPU need not wait for the host after every batch.
            for exit_layer, parts in embeddings.items():
                vectors = normalize(torch.cat(parts).float(), dim=-1).cpu().numpy()
                if exit_layer not in result:
                    result[exit_layer] = np.empty((len(texts), vectors.shape[1]), dtype=np.float32)
                result[exit_layer][rows] = vectors

    _check_finite(result, texts, model)
    return result


def default_token_budget(device: torch.device, exit_layer: int | None = None) -> int:
    """Return the number of tokens in a batch that suits the device and the exit."""
    # A CPU is fastest if the activations fit its caches; an accelerator needs enough work to fill it.
    if device.type != "cpu":
        return 65_536
    # Exit 0 has the fewest activations, and so little work that the overhead of each batch counts.
    return 4_096 if exit_layer == 0 else 2_048


def fast_dtype(device: torch.device) -> torch.dtype | None:
    """Return bf16 if the device computes it natively, or None for the type of the weights."""
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        # Absent in some builds of torch. Other devices than CPUs are not known to gain.
        features: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)() if device.type == "cpu" else {}
        native = any(features.get(f"{unit}bf16") for unit in ("avx512_", "amx_", ""))
    return torch.bfloat16 if native else None


def token_limit(model: Any, tokenizer: Any, max_length: int | None) -> int:
    """Return the smallest of `max_length` and the limits of tokenizer and model, in tokens.

    Raises:
        ValueError: `max_length` is below the number of special tokens.
    """
    special = tokenizer.num_special_tokens_to_add()  # tokenizers do not truncate at all below that
    if max_length is not None and max_length < special:
        raise ValueError(f"max_length must be at least {special} (special tokens), got {max_length}.")

    limits = (max_length, tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", None))
    return min(limit for limit in limits if limit)


@contextmanager
def inference_context(model: Any, dtype: torch.dtype | None, cast: bool = True) -> Iterator[None]:
    """Put the model in evaluation mode without autograd, under autocast to `dtype` if that differs and `cast`.

    Use one context for all batches: autocast caches converted weights until it ends.

    Raises:
        ValueError: `dtype` is wider than the weights.
    """
    weights = next(model.parameters()).dtype
    if dtype is not None and dtype.itemsize > weights.itemsize:
        raise ValueError(f"dtype must not be wider than the weights ({weights}), got {dtype}.")

    cast = cast and dtype is not None and dtype != weights
    training = model.training
    model.eval()
    try:
        with torch.inference_mode(), torch.autocast(model.device.type, dtype=dtype, enabled=cast):
            yield
    finally:
        model.train(training)


def length_sorted_batches(
    lengths: Sequence[int] | np.ndarray, token_budget: int, max_padding: int | None = None
) -> Iterator[list[int]]:
    """Yield the positions of sequences, longest first, in batches of at most `token_budget` tokens or one row.

    Args:
        lengths: tokens of each sequence.
        token_budget: largest batch, padding included.
        max_padding: most tokens of padding in a batch; None means any number. Few sequences of many lengths are
            encoded faster in several batches, since padding takes as long as text.
    """
    lengths = np.asarray(lengths, dtype=np.int64)
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        # The first sequence is the longest of the rest, so it determines the padded length.
        width = int(lengths[order[start]])
        rows = order[start : start + max(1, token_budget // width)]
        if max_padding is not None:
            padding = np.cumsum(width - lengths[rows])
            rows = rows[: int(np.searchsorted(padding, max_padding, side="right"))]
        yield rows.tolist()
        start += len(rows)


def pad_batch(ids: Sequence[Sequence[int]], padding: int) -> dict[str, torch.Tensor]:
    """Return the (batch, tokens) `input_ids` and `attention_mask` of sequences of token ids."""
    return Window.of(ids, padding).batch(range(len(ids)))


class Window(NamedTuple):
    """Token ids of several texts, one after the other."""

    start: int  # position of the first text
    characters: int
    ids: np.ndarray
    lengths: np.ndarray
    padding: int

    @classmethod
    def of(cls, ids: Sequence[Sequence[int]], padding: int, start: int = 0, characters: int = 0) -> "Window":
        """Return the window of sequences of token ids."""
        lengths = np.fromiter(map(len, ids), dtype=np.int64, count=len(ids))
        flat = np.fromiter(chain.from_iterable(ids), dtype=np.int64, count=lengths.sum())
        return cls(start, characters, flat, lengths, padding)

    def batch(self, rows: Sequence[int]) -> dict[str, torch.Tensor]:
        """Return the (batch, tokens) `input_ids` and `attention_mask` of some texts, padded on the right."""
        starts, lengths = (np.cumsum(self.lengths) - self.lengths)[rows], self.lengths[rows]
        columns = np.arange(lengths.max())
        mask = columns < lengths[:, None]

        ids = np.full(mask.shape, self.padding, dtype=np.int64)
        ids[mask] = self.ids[(starts[:, None] + columns)[mask]]
        return {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask.astype(np.int64))}


def _check_texts(texts: Sequence[str], prompts: str | Sequence[str]) -> None:
    if isinstance(texts, str):
        raise ValueError("texts must be a sequence of strings, not one string. Pass [text].")
    if not len(texts):
        raise ValueError("no texts to encode. Pass at least one.")
    if not isinstance(prompts, str) and len(prompts) != len(texts):
        raise ValueError(f"{len(prompts)} prompts for {len(texts)} texts. Pass one string, or one for each text.")


def _check_finite(result: dict[int, np.ndarray], texts: Sequence[str], model: Any) -> None:
    for exit_layer, embeddings in result.items():
        finite = np.isfinite(embeddings).all(axis=1)
        if not finite.all():
            # argmin returns the first text that is not finite.
            place = f"the embedding of {texts[int(finite.argmin())][:60]!r} at exit {exit_layer}"
            raise FloatingPointError(f"{model.name_or_path}: {place} is not finite. Load intact weights.")


def _windows(
    tokenizer: Any, texts: Sequence[str], prompts: str | Sequence[str], limit: int, size: int
) -> Iterator[Window]:
    """Return the texts in order, tokenized, `size` in each window.

    The next window is tokenized while the caller encodes this one.
    """

    def tokenize(start: int) -> Window:
        part = range(start, min(start + size, len(texts)))
        window, window_prompts = [texts[row] for row in part], prompts
        if not isinstance(prompts, str):
            window_prompts = [prompts[row] for row in part]
        ids = input_ids(tokenizer, window, window_prompts, limit)
        return Window.of(ids, tokenizer.pad_token_id or 0, start, sum(map(len, window)))

    starts = range(0, len(texts), size)
    windows = map(tokenize, starts)
    # A single window, such as a query, needs no thread.
    return windows if len(starts) == 1 else prefetch(windows)


def _look_up_window(
    model: Any, window: Window, token_budget: int, progress: Progress
) -> tuple[np.ndarray, dict[int, list[torch.Tensor]]] | None:
    """Return what `_encode_window` does at exit 0 alone, from the model's tables; None if it cannot use them."""
    ids, lengths = torch.from_numpy(window.ids), torch.from_numpy(window.lengths)
    embeddings: list[torch.Tensor] = []
    # A model may come with code of its own, older than this.
    look_up = getattr(model, "look_up", lambda *_: None)

    for rows, tokens in token_batches(window.lengths, token_budget):
        part = look_up(ids[tokens], lengths[rows])
        if part is None:
            return None
        embeddings.append(part)
        progress.encoded(tokens.stop - tokens.start)
    return window.start + np.arange(len(lengths)), {0: embeddings}


def _encode_window(
    model: Any, window: Window, exits: tuple[int, ...], token_budget: int, progress: Progress
) -> tuple[np.ndarray, dict[int, list[torch.Tensor]]]:
    """Return positions of texts, longest first, and for each exit their embeddings, batch by batch."""
    order: list[int] = []
    embeddings: dict[int, list[torch.Tensor]] = {exit_layer: [] for exit_layer in exits}

    for rows in length_sorted_batches(window.lengths, token_budget):
        batch = {key: tensor.to(model.device, non_blocking=True) for key, tensor in window.batch(rows).items()}
        for exit_layer, part in _exit_embeddings(model, batch, exits).items():
            embeddings[exit_layer].append(part)
        order += rows
        progress.encoded(int(window.lengths[rows].sum()))
    return window.start + np.array(order), embeddings


def _exit_embeddings(
    model: Any, batch: dict[str, torch.Tensor], exits: tuple[int, ...]
) -> dict[int, torch.Tensor]:
    """Return exit -> (batch, dim) from one forward pass that stops at the deepest of `exits`."""
    deepest = exits[-1]
    if len(exits) == 1:
        return {deepest: model(**batch, exit_layer=deepest).pooler_output}

    embeddings = model(**batch, exit_layer=deepest, output_all_exits=True).exit_embeddings
    reached = [exit_layer for exit_layer in model.exit_layers if exit_layer <= deepest]
    return {exit_layer: part for exit_layer, part in zip(reached, embeddings, strict=True) if exit_layer in exits}
