"""Encoding texts at several exits in one pass, in length-sorted batches of bounded size."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch.nn.functional import normalize
from torch.nn.utils.rnn import pad_sequence

from mose.inference.loading import resolve_exit_layers
from mose.inference.progress import Progress, TokenBar
from mose.tokenization.inputs import input_ids

#: Texts that are tokenized and sorted together. Bounds the memory of their token ids.
WINDOW = 16_384


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
        dtype: compute type, by autocast; None means the type of the weights.
        progress: True for a bar on stderr, or callbacks.

    Returns:
        exit -> (texts, dim) float32, rows of unit norm in the order of `texts`.

    Raises:
        ValueError: no texts, or prompts, exits, `max_length`, `token_budget` or `dtype` that do not fit.
        FloatingPointError: an embedding is NaN or infinite, because the weights are broken.
    """
    _check_texts(texts, prompts)
    token_budget = default_token_budget(model.device) if token_budget is None else token_budget
    if token_budget < 1:
        raise ValueError(f"token_budget must be at least 1, got {token_budget}.")

    exits = resolve_exit_layers(model.config, exit_layers)
    limit = token_limit(model, tokenizer, max_length)
    result: dict[int, np.ndarray] = {}

    characters = sum(map(len, texts)) if progress is True else 0
    bar = TokenBar(characters, progress) if isinstance(progress, bool) else nullcontext(progress)
    with inference_context(model, dtype), bar as callbacks:
        for rows, batch in _batches(tokenizer, texts, prompts, limit, token_budget, callbacks):
            tokens = int(batch["attention_mask"].sum())  # before the copy to a GPU, which would wait for it
            batch = {key: tensor.to(model.device, non_blocking=True) for key, tensor in batch.items()}

            for exit_layer, embeddings in _exit_embeddings(model, batch, exits).items():
                if exit_layer not in result:
                    result[exit_layer] = np.empty((len(texts), embeddings.shape[-1]), dtype=np.float32)
                result[exit_layer][rows] = normalize(embeddings.float(), dim=-1).cpu().numpy()
            callbacks.encoded(tokens)

    _check_finite(result, texts, model)
    return result


def default_token_budget(device: torch.device) -> int:
    """Return the number of tokens in a batch that suits the device."""
    # A CPU is fastest if the activations fit its caches; an accelerator needs enough work to fill it.
    return 2_048 if device.type == "cpu" else 65_536


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
def inference_context(model: Any, dtype: torch.dtype | None) -> Iterator[None]:
    """Put the model in evaluation mode without autograd, under autocast to `dtype` if that differs.

    Use one context for all batches: autocast caches converted weights until it ends.

    Raises:
        ValueError: `dtype` is wider than the weights.
    """
    weights = next(model.parameters()).dtype
    if dtype is not None and dtype.itemsize > weights.itemsize:
        raise ValueError(f"dtype must not be wider than the weights ({weights}), got {dtype}.")

    cast = dtype is not None and dtype != weights
    training = model.training
    model.eval()
    try:
        with torch.inference_mode(), torch.autocast(model.device.type, dtype=dtype, enabled=cast):
            yield
    finally:
        model.train(training)


def length_sorted_batches(lengths: Sequence[int], token_budget: int) -> Iterator[list[int]]:
    """Yield the positions of sequences, longest first, in batches of at most `token_budget` tokens or one row."""
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    while order:
        # The first sequence is the longest of the rest, so it determines the padded length.
        size = max(1, token_budget // lengths[order[0]])
        yield order[:size]
        order = order[size:]


def pad_batch(ids: Sequence[Sequence[int]], padding: int) -> dict[str, torch.Tensor]:
    """Return the (batch, tokens) `input_ids` and `attention_mask` of sequences of token ids."""
    rows = [torch.tensor(row) for row in ids]
    return {
        "input_ids": pad_sequence(rows, batch_first=True, padding_value=padding),
        "attention_mask": pad_sequence([torch.ones_like(row) for row in rows], batch_first=True),
    }


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


def _batches(
    tokenizer: Any,
    texts: Sequence[str],
    prompts: str | Sequence[str],
    limit: int,
    token_budget: int,
    progress: Progress,
) -> Iterator[tuple[list[int], dict[str, torch.Tensor]]]:
    """Yield (positions in `texts`, padded batch), longest texts first within a window."""
    padding = tokenizer.pad_token_id or 0

    for start in range(0, len(texts), WINDOW):
        window = range(start, min(start + WINDOW, len(texts)))
        window_prompts = prompts if isinstance(prompts, str) else [prompts[row] for row in window]
        ids = input_ids(tokenizer, [texts[row] for row in window], window_prompts, limit)
        progress.tokenized(sum(len(texts[row]) for row in window), sum(map(len, ids)))

        for rows in length_sorted_batches([len(text_ids) for text_ids in ids], token_budget):
            yield [start + row for row in rows], pad_batch([ids[row] for row in rows], padding)


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
