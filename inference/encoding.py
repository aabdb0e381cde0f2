"""Turning texts into embeddings: sorted by length, in batches of bounded size, all wanted exits in one pass."""

import copy
import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch
from torch.nn.functional import normalize
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

#: Tokens of a batch: on a CPU, whose caches should hold the activations; on an accelerator, which wants filling.
TOKEN_BUDGETS = (2_048, 65_536)
WINDOW = 16_384  # texts that are tokenized and sorted together; bounds the memory that token ids take

#: Fields of a configuration that change embeddings and that no weight's name or shape tells.
USES = (
    *("hidden_act", "norm_epsilon", "num_attention_heads", "rope_parameters", "pooling", "gate_kernel_size"),
    *("projection_act", "truncate_dim", "max_position_embeddings"),
)


class Progress(Protocol):
    """Hears how far an encoding has come."""

    def tokenized(self, characters: int, tokens: int) -> None:
        """Texts of so many characters turned out to be so many tokens."""

    def encoded(self, tokens: int) -> None:
        """So many tokens more are done."""


class TokenBar(tqdm):
    """A bar on stderr that counts tokens.

    Batches go from long texts to short ones, so that the share of texts done says little of the time left; tokens
    cost about the same each. What has been tokenized counts exactly, the rest by its characters, at the tokens
    per character so far.

    Args:
        characters: of all texts.
        shown: without it, the bar counts and prints nothing.
        description: what stands in front of it.
    """

    def __init__(self, characters: int, shown: bool, description: str | None = None):
        super().__init__(desc=description, unit=" tokens", unit_scale=True, smoothing=0.05, disable=not shown)
        self._characters = characters
        self._seen = self._known = 0

    def tokenized(self, characters: int, tokens: int) -> None:
        self._seen += characters
        self._known += tokens
        left = max(0, self._characters - self._seen)
        self.total = self._known + round(left * self._known / max(1, self._seen))

    def encoded(self, tokens: int) -> None:
        self.update(tokens)


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
    """Embeddings of texts at one or more exits.

    Args:
        model: a `MoSEModel`, on whatever device it is; its training mode is left as found.
        tokenizer: the model's.
        texts: at least one. An empty text is encoded as its prompt and special tokens.
        exit_layers: which of the exits that the model has built; None means all of them.
        prompts: what stands in front of every text, or one string per text.
        max_length: tokens, prompt and special tokens included, after which a text is cut off; None means as
            many as model and tokenizer allow, and more than that is never used.
        token_budget: tokens of one batch, padding included; a longer text is a batch of its own. None means
            `TOKEN_BUDGETS` for the model's device.
        dtype: compute type, by autocast; None means the type of the weights.
        progress: show a bar on stderr; or who else is to hear of it.

    Returns:
        exit → float32 array (texts, dim) of unit rows, in the order of `texts`.

    Raises:
        ValueError: no texts, an exit that the model does not have, as many prompts as do not fit the texts,
            a `token_budget` below 1, a `max_length` without room for the special tokens, or a `dtype` wider
            than the weights.
        FloatingPointError: an embedding is NaN or infinite: the weights are broken.
    """
    if isinstance(texts, str):
        raise ValueError("texts must be a sequence of strings, not one string")
    if not len(texts):
        raise ValueError("no texts to encode")
    if not isinstance(prompts, str) and len(prompts) != len(texts):
        raise ValueError(f"{len(prompts)} prompts for {len(texts)} texts: give one for all, or one each")
    token_budget = TOKEN_BUDGETS[model.device.type != "cpu"] if token_budget is None else token_budget
    if token_budget < 1:
        raise ValueError(f"token_budget={token_budget}: must be at least 1")
    exits = wanted_exits(model.config, exit_layers)
    limit = token_limit(model, tokenizer, max_length)
    result: dict[int, np.ndarray] = {}
    with inference(model, dtype), _hearing(texts, progress) as listener:
        for rows, batch in _batches(tokenizer, texts, prompts, limit, token_budget, listener):
            tokens = int(batch["attention_mask"].sum())
            batch = {key: tensor.to(model.device, non_blocking=True) for key, tensor in batch.items()}
            for exit_layer, embeddings in _forward(model, batch, exits).items():
                if exit_layer not in result:
                    result[exit_layer] = np.empty((len(texts), embeddings.shape[-1]), dtype=np.float32)
                result[exit_layer][rows] = normalize(embeddings.float(), dim=-1).cpu().numpy()
            listener.encoded(tokens)
    for exit_layer, vectors in result.items():
        finite = np.isfinite(vectors).all(axis=1)
        if not finite.all():
            raise FloatingPointError(
                f"{model.name_or_path}: the embedding of {texts[int(finite.argmin())][:60]!r} at exit "
                f"{exit_layer} is not finite; the model's weights are broken"
            )
    return result


def fingerprint(model: Any, tokenizer: Any, exit_layer: int) -> str:
    """SHA-256 of what an embedding at `exit_layer` depends on: the weights up to it, how they are used (`USES`),
    and the tokenizer.

    It is the same whether the model was loaded up to that exit or deeper, and whatever its weights' precision
    in memory, as long as that is at least the stored one.
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
    digest.update(json.dumps({name: getattr(config, name) for name in USES}, sort_keys=True).encode())
    rules = json.loads(tokenizer.backend_tokenizer.to_str())
    del rules["truncation"], rules["padding"]  # set anew by every call
    digest.update(json.dumps(rules, sort_keys=True).encode())
    return digest.hexdigest()


def wanted_exits(config: Any, exit_layers: Sequence[int] | None) -> tuple[int, ...]:
    """The wanted exits, sorted and each once; None means all that a model of this configuration has.

    Raises:
        ValueError: none, or one that is not built.
    """
    if exit_layers is None:
        return config.built_exit_layers
    if not len(exit_layers):
        raise ValueError("exit_layers is empty: name at least one, or None for all")
    return tuple(sorted({config.resolve_exit_layer(exit_layer) for exit_layer in exit_layers}))


def token_limit(model: Any, tokenizer: Any, max_length: int | None) -> int:
    special = tokenizer.num_special_tokens_to_add()  # below that, tokenizers would not truncate at all
    if max_length is not None and max_length < special:
        raise ValueError(f"max_length={max_length}: must be at least {special}, the special tokens")
    limits = (max_length, tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", None))
    return min(limit for limit in limits if limit)


@contextmanager
def _hearing(texts: Sequence[str], progress: bool | Progress) -> Iterator[Progress]:
    if isinstance(progress, bool):
        with TokenBar(sum(map(len, texts)) if progress else 0, progress) as bar:
            yield bar
    else:
        yield progress


@contextmanager
def inference(model: Any, dtype: torch.dtype | None) -> Iterator[None]:
    """Evaluation mode, no autograd and, where asked for, autocast.

    One autocast region for all batches, because weights that it has cast are kept until it ends.
    """
    weights = next(model.parameters()).dtype
    if dtype is not None and dtype.itemsize > weights.itemsize:
        raise ValueError(f"dtype={dtype}: the weights are {weights}; load the model in the wider type")
    cast = dtype is not None and dtype != weights
    training = model.training
    model.eval()
    try:
        with torch.inference_mode(), torch.autocast(model.device.type, dtype=dtype, enabled=cast):
            yield
    finally:
        model.train(training)


def _batches(
    tokenizer: Any,
    texts: Sequence[str],
    prompts: str | Sequence[str],
    limit: int,
    token_budget: int,
    progress: Progress,
) -> Iterator[tuple[list[int], dict[str, torch.Tensor]]]:
    """(positions in `texts`, padded batch), longest first within a window."""
    padding = tokenizer.pad_token_id or 0
    for start in range(0, len(texts), WINDOW):
        window = range(start, min(start + WINDOW, len(texts)))
        full = [(prompts if isinstance(prompts, str) else prompts[at]) + texts[at] for at in window]
        ids = tokenizer(full, truncation=True, max_length=limit, return_attention_mask=False)["input_ids"]
        progress.tokenized(sum(len(texts[at]) for at in window), sum(map(len, ids)))
        order = sorted(range(len(ids)), key=lambda at: -len(ids[at]))
        while order:
            size = max(1, token_budget // len(ids[order[0]]))
            chosen, order = order[:size], order[size:]
            rows = [torch.tensor(ids[at]) for at in chosen]
            yield (
                [start + at for at in chosen],
                {
                    "input_ids": pad_sequence(rows, batch_first=True, padding_value=padding),
                    "attention_mask": pad_sequence([torch.ones_like(row) for row in rows], batch_first=True),
                },
            )


def _forward(model: Any, batch: dict[str, torch.Tensor], exits: tuple[int, ...]) -> dict[int, torch.Tensor]:
    if len(exits) == 1:
        return {exits[0]: model(**batch, exit_layer=exits[0]).pooler_output}
    every = model(**batch, exit_layer=exits[-1], output_all_exits=True).exit_embeddings
    reached = [exit_layer for exit_layer in model.exit_layers if exit_layer <= exits[-1]]
    return {k: embeddings for k, embeddings in zip(reached, every, strict=True) if k in exits}
