"""Embedding of batches larger than memory: GradCache (arXiv 2101.06983) over all exits and processes.

The batch goes through the model in mini-batches without a graph. The loss over all embeddings leaves one gradient
per exit and embedding. Each mini-batch then goes through the model once more, with the same dropout masks, and

    Σ over exits of ⟨embedding, its gradient⟩

is differentiated, which has the gradient of the loss (section 3.2).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch import distributed as dist
from torch.utils.checkpoint import get_device_states, set_device_states

from mose.modeling_mose import widen


class MiniBatch(NamedTuple):
    """Texts of one forward pass; `rows` (n,) are their positions in list number `side`."""

    side: int
    rows: Tensor
    input_ids: Tensor
    attention_mask: Tensor

    def forward(self, model: Any) -> Any:
        """Return the model's output with the embeddings of all exits."""
        return model(input_ids=self.input_ids, attention_mask=self.attention_mask, output_all_exits=True)


def embed(
    model: Any, sides: Sequence[tuple[Tensor, Tensor]], mini_batch_size: int, kept_tokens: int = 0
) -> tuple[list[dict[int, Tensor]], Tensor]:
    """Embed several lists of texts at every exit, in mini-batches of texts of similar length.

    Memory grows with the number of texts only by their ids and embeddings. The gradients of the model's
    parameters are those of one pass over everything; call `backward()`, not `torch.autograd.grad`. If every list
    fits into one mini-batch, nothing is computed twice.

    Args:
        model: a `MoSEModel`, perhaps wrapped (`DistributedDataParallel` synchronises once).
        sides: queries, documents and perhaps more, as (`input_ids`, `attention_mask`), each (texts, tokens),
            padded on either side. A list may be empty, except for the first.
        mini_batch_size: texts in one forward pass.
        kept_tokens: mini-batches of so many tokens, padding included, keep their graphs and go through the model
            once. Ignored if processes synchronise gradients, since they do so in one backward pass.

    Returns:
        For each side, (texts, dim) per exit, in the order of the texts; and the similarity scale (1,).
    """
    batches = [
        batch for side, (ids, mask) in enumerate(sides) for batch in _split(side, ids, mask, mini_batch_size)
    ]
    kept = len(batches)
    if torch.is_grad_enabled() and max(len(ids) for ids, _ in sides) > mini_batch_size:
        kept = 0 if hasattr(model, "no_sync") else _count_kept(batches, kept_tokens)

    outputs = [batch.forward(model) for batch in batches[:kept]]
    parts = [output.exit_embeddings for output in outputs]
    if kept == len(batches):
        scale = outputs[-1].similarity_scale[:1]  # DataParallel returns one for each device
    else:
        # Autograd only calls `backward` if an input requires a gradient.
        trigger = torch.empty(0, requires_grad=True)
        *flat, scale = _CachedEmbedding.apply(trigger, model, batches[kept:])
        count = len(flat) // len(batches[kept:])
        parts += [tuple(flat[start : start + count]) for start in range(0, len(flat), count)]

    exits = getattr(model, "module", model).exit_layers
    merged = [_merge(side, batches, parts) for side in range(len(sides))]
    return [dict(zip(exits, embeddings, strict=True)) for embeddings in merged], scale


def graph_tokens(config: Any, length: int, megabytes: float) -> int:
    """Return how many tokens, in sequences of `length`, have graphs of so many megabytes in float32."""
    block = 8 * config.hidden_size + 2 * config.intermediate_size + 2 * config.num_attention_heads * length
    floats = config.built_exit_layers[-1] * block + len(config.built_exit_layers) * 2 * config.hidden_size
    return int(megabytes * 1e6 / (4 * max(floats, 1)))


def _count_kept(batches: Sequence[MiniBatch], tokens: int) -> int:
    """Return how many of the first mini-batches have at most so many tokens together."""
    return sum(size <= tokens for size in accumulate(batch.input_ids.numel() for batch in batches))


def _merge(side: int, batches: Sequence[MiniBatch], parts: Sequence[tuple[Tensor, ...]]) -> list[Tensor]:
    """Return the embeddings of one side at every exit, in the order of its texts."""
    own = [(batch.rows, part) for batch, part in zip(batches, parts, strict=True) if batch.side == side]
    if not own:
        return [embeddings[:0] for embeddings in parts[-1]]

    # Mini-batches are sorted by length.
    order = torch.cat([rows for rows, _ in own]).argsort()
    return [torch.cat(chunks)[order] for chunks in zip(*(part for _, part in own), strict=True)]


def _split(side: int, input_ids: Tensor, attention_mask: Tensor, size: int) -> Iterator[MiniBatch]:
    if not len(input_ids):
        return

    for rows in attention_mask.sum(dim=1).argsort(descending=True, stable=True).split(size):
        mask = attention_mask[rows]
        used_columns = mask.any(dim=0)
        yield MiniBatch(side, rows, input_ids[rows][:, used_columns], mask[:, used_columns])


def _random_state(tensor: Tensor) -> tuple:
    """Return the random states of the CPU and of the accelerator that a tensor is on."""
    return torch.get_rng_state(), *get_device_states(tensor)


def _restore_random_state(cpu: Tensor, devices: list, states: list) -> None:
    torch.set_rng_state(cpu)
    set_device_states(devices, states)


@contextmanager
def _autocast(device: str, dtype: torch.dtype, enabled: bool) -> Iterator[None]:
    """Autocast as in the first pass, without the weights that were cast there: those casts have no graph."""
    torch.clear_autocast_cache()
    with torch.autocast(device, dtype=dtype, enabled=enabled):
        yield
    torch.clear_autocast_cache()


class _CachedEmbedding(torch.autograd.Function):
    """Embeddings without their graph; the backward pass runs the model again, mini-batch by mini-batch."""

    @staticmethod
    def forward(ctx, trigger, model, batches):
        """Return each mini-batch's embeddings at every exit, one mini-batch after the other, and the scale."""
        device = batches[0].input_ids.device.type
        ctx.model, ctx.batches, ctx.states = model, batches, []
        ctx.autocast = (device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device))

        embeddings: list[Tensor] = []
        for batch in batches:
            ctx.states.append(_random_state(batch.input_ids))
            output = batch.forward(model)
            embeddings += output.exit_embeddings
        torch.clear_autocast_cache()
        return *embeddings, output.similarity_scale[:1]

    @staticmethod
    def backward(ctx, *gradients):
        *embedding_gradients, scale_gradient = gradients
        state_after_forward = _random_state(ctx.batches[0].input_ids)
        exits = len(embedding_gradients) // len(ctx.batches)

        for number, (batch, state) in enumerate(zip(ctx.batches, ctx.states, strict=True)):
            is_last = batch is ctx.batches[-1]
            # Processes synchronise their gradients once, with the last mini-batch.
            with nullcontext() if is_last else getattr(ctx.model, "no_sync", nullcontext)():
                _restore_random_state(*state)
                with torch.enable_grad(), _autocast(*ctx.autocast):
                    output = batch.forward(ctx.model)

                own = embedding_gradients[number * exits : (number + 1) * exits]
                pairs = zip(output.exit_embeddings, own, strict=True)
                with torch.enable_grad():
                    products = [(widen(embedding) * widen(gradient)).sum() for embedding, gradient in pairs]
                    surrogate = torch.stack(products).sum()
                    if is_last:
                        surrogate = surrogate + (output.similarity_scale[:1] * scale_gradient).sum()
                surrogate.backward()

        _restore_random_state(*state_after_forward)
        return None, None, None


@dataclass(frozen=True)
class Ranks:
    """Distribution of a batch over the processes: number of rows of each, in order of rank."""

    lengths: tuple[int, ...]
    rank: int

    @property
    def rows(self) -> range:
        """Rows of this process among all."""
        first = sum(self.lengths[: self.rank])
        return range(first, first + self.lengths[self.rank])

    @property
    def share(self) -> float:
        """Weight of this process's mean loss when losses are averaged across processes.

        It is 1 if all have equally many rows. With it, the averaged loss is the mean over all rows.
        """
        return len(self.lengths) * self.lengths[self.rank] / sum(self.lengths)


def gather_ranks(length: int, device: torch.device | str = "cpu") -> Ranks:
    """Return how many rows each process has; this one has `length`."""
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return Ranks((length,), 0)

    lengths = [torch.zeros(1, dtype=torch.long, device=device) for _ in range(dist.get_world_size())]
    dist.all_gather(lengths, torch.tensor([length], device=device))
    return Ranks(tuple(map(int, lengths)), dist.get_rank())


def gather(rows: Tensor, ranks: Ranks) -> Tensor:
    """Gather the rows of all processes, (all rows, …), in order of rank, with gradients.

    `rows` is (own rows, …), `ranks` is `gather_ranks(len(rows))`.

    A row's gradient is the sum of its gradients in the losses of all processes. Let each process's loss be a mean
    over its own rows times `ranks.share`, and let parameter gradients be averaged over processes, as
    `DistributedDataParallel` does. The result is then the gradient that one process with all rows would have.
    """
    return rows if len(ranks.lengths) == 1 else _GatheredRows.apply(rows, ranks)


class _GatheredRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows, ranks):
        ctx.ranks = ranks
        # Collectives need equal shapes.
        padded = rows.new_zeros(max(ranks.lengths), *rows.shape[1:])
        padded[: len(rows)] = rows

        everyone = [torch.empty_like(padded) for _ in ranks.lengths]
        dist.all_gather(everyone, padded)
        return torch.cat([part[:length] for part, length in zip(everyone, ranks.lengths, strict=True)])

    @staticmethod
    def backward(ctx, gradient):
        summed = gradient.contiguous().clone()
        dist.all_reduce(summed)
        own = ctx.ranks.rows
        return summed[own.start : own.stop], None
