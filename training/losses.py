"""What compares several inputs: pure functions of tensors, one for each loss.

Shapes: queries and documents are (batch, dim), of unit norm, the pairs in the same rows. All losses are computed
in float32 or wider, whatever autocast says: similarities of unit vectors lose their order in bf16.
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from mose.modeling_mose import widen


def similarities(queries: Tensor, documents: Tensor) -> Tensor:
    """Cosine similarities (batch, batch) of every query with every document, in float32 or wider."""
    with torch.autocast(queries.device.type, enabled=False):
        return widen(queries) @ widen(documents).T


def clip_loss(queries: Tensor, documents: Tensor, scale: Tensor | float) -> Tensor:
    """The symmetric cross-entropy of CLIP over the pairs of a batch (paper, section 3; arXiv 2103.00020).

    With S = scale · queries · documentsᵀ:  L = ½ (CE(S, diagonal) + CE(Sᵀ, diagonal)).

    Args:
        queries, documents: (batch, dim), unit norm.
        scale: What multiplies the cosines; a scalar or (1,).

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
    scores = similarities(queries, documents) * scale
    pairs = torch.arange(len(scores), device=scores.device)
    return (F.cross_entropy(scores, pairs) + F.cross_entropy(scores.T, pairs)) / 2


def similarity_kl_loss(student: Tensor, teacher: Tensor, temperature: float = 0.05) -> Tensor:
    """How far the student's in-batch rankings are from a teacher's, both ways.

    With p = softmax(teacher / τ), q = softmax(student / τ) over rows:  L = mean KL(p ‖ q); the mean of that over
    rows and over columns.

    Args:
        student, teacher: (queries, documents) cosine similarities. The teacher gets no gradient.
        temperature: τ, in units of cosine.

    Returns:
        Scalar.
    """
    teacher = widen(teacher).detach() / temperature
    student = widen(student) / temperature

    def kl(dim: int) -> Tensor:
        return (
            F.kl_div(student.log_softmax(dim), teacher.log_softmax(dim), reduction="sum", log_target=True)
            / (student.shape[1 - dim])
        )

    return (kl(0) + kl(1)) / 2


def cosine_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """1 − cos(student, teacher), the mean over rows; (batch, dim) each, the teacher detached. A scalar."""
    return 1 - F.cosine_similarity(widen(student), widen(teacher).detach(), dim=-1).mean()


def weighted_sum(losses: Mapping[int, Tensor], weights: Mapping[int, float]) -> Tensor:
    """Σ_i w_i · L_i over exits i (paper, section 3): `losses` and `weights` are keyed by exit."""
    return torch.stack([loss * weights[exit_layer] for exit_layer, loss in losses.items()]).sum()
