"""What compares several inputs: pure functions of tensors, one for each loss.

Shapes: queries and documents are (batch, dim), of unit norm, the pairs in the same rows. All losses are computed
in float32 or wider, whatever autocast says: similarities of unit vectors lose their order in bf16.

Losses over the similarities of a batch take `rows`, the pairs whose terms are averaged; all, by default. One of
several processes is given the whole batch and averages over its own pairs
(`mose.training.finetuning.gradcache.gather`).
Of those (batch, batch) similarities only `BLOCK` rows exist at a time.
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
    """Cosine similarities (queries, documents) of every query with every document, in float32 or wider."""
    with torch.autocast(queries.device.type, enabled=False):
        return widen(queries) @ widen(documents).T


def truncate(embeddings: Tensor, dim: int) -> Tensor:
    """The first `dim` dimensions, of unit norm again: (batch, dim) of (batch, …)."""
    return F.normalize(widen(embeddings[..., :dim]), dim=-1)


def share_text(keys: Tensor, others: Tensor) -> Tensor:
    """Which pairs have a text in common, on whichever side.

    Args:
        keys, others: (a, 2) and (b, 2), integers that stand for the texts of each pair.

    Returns:
        (a, b), bool.
    """
    return (keys[:, None, :, None] == others[None, :, None, :]).flatten(2).any(dim=2)


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
    """The symmetric cross-entropy of CLIP over the pairs of a batch (paper, section 3; arXiv 2103.00020).

    With S = scale · queries · documentsᵀ:  L = ½ (CE(S, diagonal) + CE(Sᵀ, diagonal)).

    False negatives are left out of the softmax: S_ij is −∞ where the pairs i ≠ j share a text, on whichever side.
    Hard negatives are further columns of S, and no rows of Sᵀ.

    Args:
        queries, documents: (batch, dim), unit norm.
        scale: What multiplies the cosines; a scalar or (1,).
        keys: (batch, 2), integers that stand for the texts of query and document: equal where those are. None:
            no false negatives.
        hard_negatives: (negatives, dim), documents that answer no query of the batch.
        hard_negative_keys: (negatives,), as `keys`: a hard negative is none for a pair that has its text, nor for
            one that shares a text with such a pair.
        rows: The pairs whose terms are averaged.

    Returns:
        Scalar.

    Raises:
        ValueError: the sides differ in shape, or there is but one pair and so no negative.
    """
    if queries.shape != documents.shape:
        raise ValueError(
            f"queries {tuple(queries.shape)} and documents {tuple(documents.shape)}: shapes must agree"
        )
    if len(queries) < 2:
        raise ValueError(f"batch of {len(queries)}: a contrastive loss needs at least 2 pairs")
    columns = documents if hard_negatives is None else torch.cat((documents, hard_negatives))

    def both_ways(block: slice) -> Tensor:
        pairs = torch.arange(block.start, block.stop, device=queries.device)
        forth = similarities(queries[block], columns) * scale
        back = similarities(documents[block], queries) * scale
        if keys is not None:
            shared = share_text(keys[block], keys)
            false = shared.scatter(1, pairs[:, None], False)
            if hard_negatives is not None and hard_negative_keys is not None:
                same = (keys[:, :, None] == hard_negative_keys).any(dim=1)
                false = torch.cat((false, shared.float() @ same.float() > 0), dim=1)
            elif hard_negatives is not None:
                false = F.pad(false, (0, len(hard_negatives)))
            forth = forth.masked_fill(false, -torch.inf)
            back = back.masked_fill(false[:, : len(queries)], -torch.inf)
        sums = (F.cross_entropy(scores, pairs, reduction="sum") for scores in (forth, back))
        return sum(sums, start=torch.zeros((), device=queries.device)) / 2

    return _mean(both_ways, rows, len(queries))


def similarity_kl_loss(
    student: tuple[Tensor, Tensor],
    teacher: tuple[Tensor, Tensor],
    temperature: float = 0.05,
    rows: Rows = None,
) -> Tensor:
    """How far the student's in-batch rankings are from a teacher's, both ways.

    With S and T the cosine similarities of queries with documents, p = softmax(T / τ) and q = softmax(S / τ) over
    a row:  L = ½ (mean over rows of KL(p ‖ q), and the same of Sᵀ and Tᵀ).

    Args:
        student, teacher: Queries and documents, (batch, dim) each; the dims of the two may differ. The teacher
            gets no gradient.
        temperature: τ, in units of cosine.
        rows: The pairs whose terms are averaged.

    Returns:
        Scalar.
    """
    taught = tuple(side.detach() for side in teacher)

    def both_ways(block: slice) -> Tensor:
        total = torch.zeros((), device=student[0].device)
        for one, other in ((0, 1), (1, 0)):
            p, q = (
                (similarities(sides[one][block], sides[other]) / temperature).log_softmax(dim=1)
                for sides in (taught, student)
            )
            total = total + F.kl_div(q, p, reduction="sum", log_target=True)
        return total / 2

    return _mean(both_ways, rows, len(student[0]))


def cosine_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """1 − cos(student, teacher), the mean over rows; (batch, dim) each, the teacher detached. A scalar."""
    return 1 - F.cosine_similarity(widen(student), widen(teacher).detach(), dim=-1).mean()


def deeper_exits(exits: Sequence[int]) -> dict[int, tuple[int, ...]]:
    """The teachers of each exit in self-distillation: every deeper one. The deepest has none.

    Not the deepest alone, because which exit is best depends on the task, and in the paper's results it is not
    the deepest (MRR on CodeSearchNet: 81.0 at block 18, 79.6 at block 36); and not the next alone, because its
    errors would be handed down from exit to exit.
    """
    return {exit_layer: tuple(e for e in exits if e > exit_layer) for exit_layer in exits}


def weighted_sum(losses: Mapping[int, Tensor], weights: Mapping[int, float]) -> Tensor:
    """Σ_i w_i · L_i over exits i (paper, section 3): `losses` and `weights` are keyed by exit."""
    return torch.stack([loss * weights[exit_layer] for exit_layer, loss in losses.items()]).sum()


def _mean(sum_of_block: Callable[[slice], Tensor], rows: Rows, batch: int) -> Tensor:
    """The mean over `rows` of what `sum_of_block` adds up.

    Where there are several blocks, each is computed again in the backward pass instead of being kept.
    """
    rows = range(batch) if rows is None else rows
    blocks = [slice(start, min(start + BLOCK, rows.stop)) for start in range(rows.start, rows.stop, BLOCK)]
    if len(blocks) == 1:
        return sum_of_block(blocks[0]) / len(rows)
    parts = [checkpoint(sum_of_block, block, use_reentrant=False, preserve_rng_state=False) for block in blocks]
    return torch.stack(parts).sum() / len(rows)
