"""Embedding a batch that no memory would hold at once: GradCache (arXiv 2101.06983) over all exits, and ranks.

The batch goes through the model in mini-batches of which no graph is kept. The loss over all embeddings leaves
one gradient per exit and embedding; then each mini-batch goes through the model once more, drawing the dropout
masks that it drew before, and is differentiated as Σ over exits of ⟨embedding, its gradient⟩, which has the
gradient of the loss.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch import distributed as dist
from torch.utils.checkpoint import get_device_states, set_device_states

from mose.modeling_mose import widen


class MiniBatch(NamedTuple):
    """Texts of one forward pass: `rows` (n,) are their places in `side`, one of the lists that were given."""

    side: int
    rows: Tensor
    input_ids: Tensor
    attention_mask: Tensor

    def forward(self, model: Any) -> Any:
        return model(input_ids=self.input_ids, attention_mask=self.attention_mask, output_all_exits=True)


def embed(
    model: Any, sides: Sequence[tuple[Tensor, Tensor]], mini_batch_size: int
) -> tuple[list[dict[int, Tensor]], Tensor]:
    """Every exit's embeddings of several lists of texts, computed in mini-batches of texts of like length.

    Memory does not grow with the number of texts, other than by their ids and embeddings. The gradients of the
    model's parameters are those of one pass over everything; they come by `backward()`, not by
    `torch.autograd.grad`. Where every list fits into one mini-batch, nothing is computed twice.

    Args:
        model: A `MoSEModel`, perhaps wrapped (`DistributedDataParallel` synchronises once).
        sides: Queries, documents and perhaps more, as (`input_ids`, `attention_mask`), each (texts, tokens),
            padded on either side; a list may be empty, but not the first.
        mini_batch_size: Texts in one forward pass.

    Returns:
        For each side, (texts, dim) for each exit, in the order of the texts; and the similarity scale (1,).
    """
    batches = [
        batch for side, (ids, mask) in enumerate(sides) for batch in _split(side, ids, mask, mini_batch_size)
    ]
    lengths = [len(ids) for ids, _ in sides]
    if torch.is_grad_enabled() and max(lengths) > mini_batch_size:
        trigger = torch.empty(0, requires_grad=True)  # or autograd would see nothing to differentiate
        *flat, scale = _Cached.apply(trigger, model, batches, lengths)
    else:
        *flat, scale = _forward(model, batches, lengths)
    exits = getattr(model, "module", model).exit_layers
    return [
        dict(zip(exits, flat[at : at + len(exits)], strict=True)) for at in range(0, len(flat), len(exits))
    ], scale


def _split(side: int, input_ids: Tensor, attention_mask: Tensor, size: int) -> Iterator[MiniBatch]:
    if not len(input_ids):
        return
    for rows in attention_mask.sum(dim=1).argsort(descending=True, stable=True).split(size):
        mask = attention_mask[rows]
        used = mask.any(dim=0)
        yield MiniBatch(side, rows, input_ids[rows][:, used], mask[:, used])


def _forward(
    model: Any, batches: Sequence[MiniBatch], lengths: Sequence[int], states: "list[_RandomState] | None" = None
) -> tuple[Tensor, ...]:
    """The embeddings of the first side at every exit, of the second, …, and the scale.

    The state of the random numbers before each mini-batch is appended to `states`.
    """
    parts: list[list[tuple[Tensor, ...]]] = [[] for _ in lengths]
    places: list[list[Tensor]] = [[] for _ in lengths]
    for batch in batches:
        if states is not None:
            states.append(_RandomState.now(batch.input_ids))
        output = batch.forward(model)
        parts[batch.side].append(output.exit_embeddings)
        places[batch.side].append(batch.rows)
    flat: list[Tensor] = []
    for chunks, rows in zip(parts, places, strict=True):
        if chunks:
            order = torch.cat(rows).argsort()
            flat += [torch.cat(of_exit)[order] for of_exit in zip(*chunks, strict=True)]
        else:
            flat += [embedding[:0] for embedding in output.exit_embeddings]
    return *flat, output.similarity_scale[:1]  # DataParallel gives one for each device


@dataclass(frozen=True)
class _RandomState:
    """The states of the random numbers of the CPU and of the accelerators that a tensor is on."""

    cpu: Tensor
    devices: Any

    @classmethod
    def now(cls, *tensors: Tensor) -> "_RandomState":
        return cls(torch.get_rng_state(), get_device_states(*tensors))

    def restore(self) -> None:
        torch.set_rng_state(self.cpu)
        devices, states = self.devices
        set_device_states(devices, states)


@contextmanager
def _autocast(device: str, dtype: torch.dtype, enabled: bool) -> Iterator[None]:
    """Autocast as it was in the first pass. Weights that were cast without a graph must not be met again."""
    torch.clear_autocast_cache()
    with torch.autocast(device, dtype=dtype, enabled=enabled):
        yield
    torch.clear_autocast_cache()


class _Cached(torch.autograd.Function):
    """`_forward` without its graph; the backward pass goes through the model again, mini-batch by mini-batch."""

    @staticmethod
    def forward(ctx, trigger, model, batches, lengths):
        device = batches[0].input_ids.device.type
        ctx.model, ctx.batches, ctx.states = model, batches, []
        ctx.autocast = (device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device))
        embeddings = _forward(model, batches, lengths, ctx.states)
        torch.clear_autocast_cache()
        return embeddings

    @staticmethod
    def backward(ctx, *gradients):
        *of_embeddings, of_scale = gradients
        after = _RandomState.now(ctx.batches[0].input_ids)
        for at, (batch, state) in enumerate(zip(ctx.batches, ctx.states, strict=True)):
            last = at == len(ctx.batches) - 1
            # Gradients are added up on this process, and averaged over all of them when the last has been added.
            with nullcontext() if last else getattr(ctx.model, "no_sync", nullcontext)():
                state.restore()
                with torch.enable_grad(), _autocast(*ctx.autocast):
                    output = batch.forward(ctx.model)
                exits = len(output.exit_embeddings)
                of_side = of_embeddings[batch.side * exits : (batch.side + 1) * exits]
                with torch.enable_grad():
                    surrogate = torch.stack(
                        [
                            (widen(embedding) * widen(gradient[batch.rows])).sum()
                            for embedding, gradient in zip(output.exit_embeddings, of_side, strict=True)
                        ]
                    ).sum()
                    if last:
                        surrogate = surrogate + (output.similarity_scale[:1] * of_scale).sum()
                surrogate.backward()
        after.restore()
        return None, None, None, None


# --- Several processes -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ranks:
    """How a batch lies over the processes: how many of its pairs each has, in order of rank."""

    lengths: tuple[int, ...]
    rank: int

    @property
    def rows(self) -> range:
        """The pairs of this process among all."""
        first = sum(self.lengths[: self.rank])
        return range(first, first + self.lengths[self.rank])

    @property
    def share(self) -> float:
        """What a mean over this process's rows counts for where the processes' losses are averaged.

        1 where all have equally many pairs. With it, the averaged loss is the mean over all pairs.
        """
        return len(self.lengths) * self.lengths[self.rank] / sum(self.lengths)


def ranks(length: int, device: torch.device | str = "cpu") -> Ranks:
    """Asks all processes how many rows they have; this one has `length`."""
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return Ranks((length,), 0)
    lengths = [torch.zeros(1, dtype=torch.long, device=device) for _ in range(dist.get_world_size())]
    dist.all_gather(lengths, torch.tensor([length], device=device))
    return Ranks(tuple(int(each) for each in lengths), dist.get_rank())


def gather(rows: Tensor, over: Ranks) -> Tensor:
    """The rows of all processes, (all rows, …), in order of rank, with gradients; `over` is `ranks(len(rows))`.

    A row's gradient is the sum of what all processes' losses have for it. Where each process's loss is a mean
    over its own rows, times `over.share`, and the gradients of the parameters are averaged over the processes, as
    `DistributedDataParallel` does, the result is the gradient that one process with all rows would have: the
    factor is 1.
    """
    return rows if len(over.lengths) == 1 else _Gathered.apply(rows, over)


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows, over):
        ctx.over = over
        longest = max(over.lengths)  # collectives want equal shapes
        padded = rows.new_zeros(longest, *rows.shape[1:])
        padded[: len(rows)] = rows
        everyone = [torch.empty_like(padded) for _ in over.lengths]
        dist.all_gather(everyone, padded)
        return torch.cat([part[:length] for part, length in zip(everyone, over.lengths, strict=True)])

    @staticmethod
    def backward(ctx, gradient):
        summed = gradient.contiguous().clone()
        dist.all_reduce(summed)
        own = ctx.over.rows
        return summed[own.start : own.stop], None
