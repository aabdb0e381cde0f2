"""Contrastive and distillation losses over a batch, as pure functions of tensors.

Shapes: queries and documents are (batch, dim) of unit norm; a pair has the same row in both. All losses are
computed in float32 or wider, also under autocast: similarities of unit vectors lose their order in bf16.

Losses over the similarities of a batch take `rows`: the pairs whose terms are averaged, all by default. One of
several processes passes the whole batch and averages over its own pairs. Only the similarities of `BLOCK` pairs
with all others are in memory at a time.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from mose.modeling_mose import widen

#: Rows of a similarity matrix that are in memory at once.
BLOCK = 256

Rows = range | None


def similarities(queries: Tensor, documents: Tensor) -> Tensor:
    """Return cosine similarities (queries, documents), in float32 or wider."""
    with torch.autocast(queries.device.type, enabled=False):
        return widen(queries) @ widen(documents).T


def truncate(embeddings: Tensor, dim: int) -> Tensor:
    """Return the first `dim` dimensions at unit norm: (batch, dim) from (batch, …)."""
    return F.normalize(widen(embeddings[..., :dim]), dim=-1)


def share_text(keys: Tensor, others: Tensor) -> Tensor:
    """Return which pairs have a text in common: (a, b) bool, from text ids `keys` (a, 2) and `others` (b, 2)."""
    # A broadcast over both sides is 13 times slower on a CPU than comparing columns.
    (query, document), (other_query, other_document) = keys.T[:, :, None], others.T
    same_side = (query == other_query) | (document == other_document)
    return same_side | (query == other_document) | (document == other_query)


def clip_loss(
    queries: Tensor,
    documents: Tensor,
    scale: Tensor | float,
    *,
    keys: Tensor | None = None,
    hard_negatives: Tensor | None = None,
    hard_negative_keys: Tensor | None = None,
    rows: Rows = None,
) -> Tensor:
    """Compute the symmetric cross-entropy of CLIP over the pairs of a batch (paper, section 3; arXiv 2103.00020).

    With S = scale · queries · documentsᵀ:  L = ½ (CE(S, diagonal) + CE(Sᵀ, diagonal)).

    False negatives are left out of the softmax: S_ij is −∞ if the pairs i ≠ j share a text, on either side.
    Hard negatives are further columns of S, and not rows of Sᵀ.

    Args:
        queries: (batch, dim), unit norm.
        documents: (batch, dim), unit norm.
        scale: factor of the cosines; a scalar or (1,).
        keys: (batch, 2), integer ids of the query text and the document text, equal for equal texts. None: no
            false negatives.
        hard_negatives: (negatives, dim), documents that answer no query of the batch.
        hard_negative_keys: (negatives,), as `keys`. A hard negative is ignored for a pair that has its text, and
            for a pair that shares a text with such a pair.
        rows: pairs whose terms are averaged.

    Raises:
        ValueError: the sides differ in shape, or there is only one pair and so no negative.
    """
    if queries.shape != documents.shape:
        raise ValueError(
            f"queries and documents must agree in shape, got {tuple(queries.shape)} and {tuple(documents.shape)}."
        )
    if len(queries) < 2:
        raise ValueError(f"A contrastive loss needs a batch of at least 2 pairs, got {len(queries)}.")

    def sum_of_rows(block: slice) -> Tensor:
        targets = torch.arange(block.start, block.stop, device=queries.device)
        forth = similarities(queries[block], columns) * scale
        back = similarities(documents[block], queries) * scale

        if keys is not None:
            excluded = _false_negatives(keys, block, hard_negatives, hard_negative_keys)
            forth = forth.masked_fill(excluded, -torch.inf)
            back = back.masked_fill(excluded[:, : len(queries)], -torch.inf)

        sums = [F.cross_entropy(scores, targets, reduction="sum") for scores in (forth, back)]
        return (sums[0] + sums[1]) / 2

    columns = documents if hard_negatives is None else torch.cat((documents, hard_negatives))
    return _mean_over_rows(sum_of_rows, rows, len(queries))


def similarity_kl_loss(
    student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor], temperature: float = 0.05, rows: Rows = None
) -> Tensor:
    """Compute the KL divergence between the in-batch rankings of a teacher and a student, in both directions.

    With T and S the cosine similarities of queries with documents, p = softmax(T / τ) and q = softmax(S / τ) over
    a row:  L = ½ (mean over rows of KL(p ‖ q), and the same of Sᵀ and Tᵀ). τ is `temperature`, a cosine.

    `student` and `teacher` are queries and documents, (batch, dim) each. The teacher may have another dim, and
    gets no gradient.
    """
    fixed = tuple(side.detach() for side in teacher)

    def sum_of_rows(block: slice) -> Tensor:
        total = torch.zeros((), device=student[0].device)
        for from_side, to_side in ((0, 1), (1, 0)):
            p, q = (
                (similarities(sides[from_side][block], sides[to_side]) / temperature).log_softmax(dim=1)
                for sides in (fixed, student)
            )
            total = total + F.kl_div(q, p, reduction="sum", log_target=True)
        return total / 2

    return _mean_over_rows(sum_of_rows, rows, len(student[0]))


def relational_kl_loss(
    student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor], temperature: float = 0.05, rows: Rows = None
) -> Tensor:
    """Compute the KL divergence between a teacher's and a student's rankings of all other texts of the batch.

    With T and S the cosine similarities of all 2 · batch texts, queries first, each text's own left out, and
    p = softmax(T / τ), q = softmax(S / τ) over a row:  L = mean over all texts of KL(p ‖ q). So queries are also
    compared with queries, and documents with documents, unlike in `similarity_kl_loss`, whose arguments it takes.
    Relational distillation (arXiv 1904.05068), by rankings instead of distances.
    """
    fixed, free = torch.cat(teacher).detach(), torch.cat(student)
    batch = len(student[0])

    def sum_of_rows(block: slice) -> Tensor:
        total = torch.zeros((), device=free.device)
        for first in (0, batch):
            own = torch.arange(block.start + first, block.stop + first, device=free.device)
            p, q = (
                _without_own(similarities(texts[own], texts) / temperature, own).log_softmax(dim=1)
                for texts in (fixed, free)
            )
            total = total + F.kl_div(q, p, reduction="sum", log_target=True)
        return total / 2

    return _mean_over_rows(sum_of_rows, rows, batch)


def _without_own(scores: Tensor, own: Tensor) -> Tensor:
    # A finite logit of probability 0: an infinite one has no KL.
    return scores.scatter(1, own[:, None], torch.finfo(scores.dtype).min)


def cosine_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Compute L = mean over rows of 1 − cos(student, teacher), (batch, dim) each; the teacher is detached."""
    return 1 - F.cosine_similarity(widen(student), widen(teacher).detach(), dim=-1).mean()


def deeper_exits(exits: Sequence[int]) -> dict[int, tuple[int, ...]]:
    """Return the teachers of each exit in self-distillation: every deeper exit. The deepest has none.

    Not the deepest alone: which exit is best depends on the task, and in the paper it is not the deepest (MRR on
    CodeSearchNet: 81.0 at block 18, 79.6 at block 36). Not the next alone: its errors would be handed down.
    """
    return {exit_layer: tuple(e for e in exits if e > exit_layer) for exit_layer in exits}


def weighted_sum(losses: Mapping[int, Tensor], weights: Mapping[int, float]) -> Tensor:
    """Compute L = Σ_i w_i · L_i over exits i (paper, section 3); `losses` and `weights` are keyed by exit."""
    return torch.stack([loss * weights[e] for e, loss in losses.items()]).sum()


def _false_negatives(
    keys: Tensor, block: slice, hard_negatives: Tensor | None, hard_negative_keys: Tensor | None
) -> Tensor:
    """Return which columns to leave out for the pairs of `block`: (block, batch + negatives), bool."""
    rows = torch.arange(block.start, block.stop, device=keys.device)
    shared = share_text(keys[block], keys)
    excluded = shared.scatter(1, rows[:, None], False)

    if hard_negatives is not None and hard_negative_keys is not None:
        # A hard negative is excluded if any pair that shares a text with the row has its text.
        has_text = (keys[:, :, None] == hard_negative_keys).any(dim=1)
        return torch.cat((excluded, shared.float() @ has_text.float() > 0), dim=1)
    if hard_negatives is not None:
        return F.pad(excluded, (0, len(hard_negatives)))
    return excluded


def _mean_over_rows(sum_of_rows: Callable[[slice], Tensor], rows: Rows, batch: int) -> Tensor:
    """Return the mean over `rows` of the terms that `sum_of_rows` adds up for a block of them."""
    rows = range(batch) if rows is None else rows
    blocks = [slice(start, min(start + BLOCK, rows.stop)) for start in range(rows.start, rows.stop, BLOCK)]
    if len(blocks) == 1:
        return sum_of_rows(blocks[0]) / len(rows)

    # Blocks are recomputed in the backward pass, so that one block's similarities are in memory at a time.
    parts = [checkpoint(sum_of_rows, block, use_reentrant=False, preserve_rng_state=False) for block in blocks]
    return torch.stack(parts).sum() / len(rows)
