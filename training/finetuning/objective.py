"""The fine-tuning objective: the losses of a batch at every exit, combined with their weights."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from mose.training.losses import (
    Rows,
    clip_loss,
    cosine_loss,
    deeper_exits,
    relational_kl_loss,
    similarity_kl_loss,
    truncate,
    weighted_sum,
)

DISTILLATIONS = ("none", "kl", "cosine")
#: Losses with an outer teacher, whose weights are fields of `Objective`.
TEACHER_LOSSES = ("teacher_kl", "teacher_relational", "teacher_cosine")
#: Embeddings of one side at every exit, (batch, dim) each, shallow to deep.
Exits = Mapping[int, Tensor]


@dataclass
class Batch:
    """Embeddings of a batch over all processes, with the facts that the losses need.

    Attributes:
        queries, documents: per exit, (batch, dim), unit norm.
        scale: (1,), factor of the cosines.
        rows: the pairs of this process, whose terms are averaged.
        keys: (batch, 2), equal for equal texts (`clip_loss`), or None.
        hard_negatives: per exit, (negatives, dim), or None.
        hard_negative_keys: (negatives,), or None.
        teacher: an outer teacher's vectors of queries and documents, (batch, teacher dim), or None.
        teacher_targets: the same in the model's dimensions, (batch, dim), or None.
    """

    queries: Exits
    documents: Exits
    scale: Tensor
    rows: Rows = None
    keys: Tensor | None = None
    hard_negatives: Exits | None = None
    hard_negative_keys: Tensor | None = None
    teacher: tuple[Tensor, Tensor] | None = None
    teacher_targets: tuple[Tensor, Tensor] | None = None

    def sides(self, exit_layer: int) -> tuple[Tensor, Tensor]:
        """Return queries and documents at one exit."""
        return self.queries[exit_layer], self.documents[exit_layer]

    def own(self, embeddings: Tensor) -> Tensor:
        """Return the rows of this process."""
        return embeddings if self.rows is None else embeddings[self.rows.start : self.rows.stop]


@dataclass(frozen=True)
class Objective:
    """L = Σ_i w_i (c · CLIP_i + a · ALIGN_i + d · DISTIL_i + k · KL_i + r · REL_i + v · COS_i) over the exits i.

    - CLIP_i: `clip_loss` at exit i (paper, section 3). With `matryoshka_dims`, its mean over these sizes
      (Matryoshka Representation Learning, arXiv 2205.13147, equation 1, with equal weights).
    - ALIGN_i: mean over exits j ≠ i of ½ (CLIP(queries at i, documents at j) + CLIP(queries at j, documents at
      i)), so that every exit finds documents embedded at any other. It covers all pairs, since a pair costs one
      loss and no forward pass. Our own.
    - DISTIL_i: mean over the deeper exits j of D(i, j), with j the teacher (`deeper_exits`). D is
      `similarity_kl_loss` at τ = `distillation_temperature` ("kl"), or the mean of `cosine_loss` over both sides
      ("cosine"). Zero at the deepest exit.
    - KL_i and COS_i: the same two with an outer teacher, if the batch has one. KL_i compares with its own
      vectors, COS_i with their projection onto the model's dimensions.
    - REL_i: `relational_kl_loss` with the outer teacher's own vectors.

    w_i are the configuration's `exit_weights`, or 1; the other weights are the fields below.
    """

    contrastive_weight: float = 1.0
    align_weight: float = 0.0
    distillation: str = "none"
    distillation_weight: float = 1.0
    distillation_temperature: float = 0.05
    teacher_kl_weight: float = 0.0
    teacher_relational_weight: float = 0.0
    teacher_cosine_weight: float = 0.0
    teacher_temperature: float = 0.05
    matryoshka_dims: tuple[int, ...] = ()

    def __call__(self, batch: Batch, weights: Mapping[int, float]) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the loss of a batch, a scalar, with `weights` w_i by exit.

        Also returns its terms, detached and without their weights, by names such as `contrastive_loss_exit_9`.
        """
        losses, metrics = {}, {}
        for exit_layer in batch.queries:
            terms = self.terms(batch, exit_layer)
            for name, (_, value) in terms.items():
                metrics[f"{name}_loss_exit_{exit_layer}"] = value.detach()
            losses[exit_layer] = torch.stack([weight * value for weight, value in terms.values()]).sum()

        return weighted_sum(losses, weights), metrics

    def terms(self, batch: Batch, exit_layer: int) -> dict[str, tuple[float, Tensor]]:
        """Return weight and value (a scalar with a graph) of each term at one exit, by name."""
        terms = {"contrastive": (self.contrastive_weight, self._clip(batch, exit_layer, exit_layer))}

        others = [other for other in batch.queries if other != exit_layer]
        if self.align_weight and others:
            across = [
                self._clip(batch, query_exit, document_exit)
                for other in others
                for query_exit, document_exit in ((exit_layer, other), (other, exit_layer))
            ]
            terms["align"] = (self.align_weight, torch.stack(across).mean())

        teachers = deeper_exits(tuple(batch.queries))[exit_layer]
        if self.distillation != "none" and teachers:
            distil = {"kl": self._kl, "cosine": self._cosine}[self.distillation]
            values = [distil(batch, exit_layer, batch.sides(teacher)) for teacher in teachers]
            terms["distillation"] = (self.distillation_weight, torch.stack(values).mean())

        if batch.teacher is not None:
            kl = self._kl(batch, exit_layer, batch.teacher, self.teacher_temperature)
            terms["teacher_kl"] = (self.teacher_kl_weight, kl)
            if self.teacher_relational_weight:
                relational = relational_kl_loss(
                    batch.sides(exit_layer), batch.teacher, self.teacher_temperature, batch.rows
                )
                terms["teacher_relational"] = (self.teacher_relational_weight, relational)
        if batch.teacher_targets is not None:
            cosine = self._cosine(batch, exit_layer, batch.teacher_targets)
            terms["teacher_cosine"] = (self.teacher_cosine_weight, cosine)

        return terms

    def _clip(self, batch: Batch, query_exit: int, document_exit: int) -> Tensor:
        negatives = None if batch.hard_negatives is None else batch.hard_negatives[document_exit]

        def clip_at(resize: Callable[[Tensor], Tensor]) -> Tensor:
            return clip_loss(
                resize(batch.queries[query_exit]),
                resize(batch.documents[document_exit]),
                batch.scale,
                keys=batch.keys,
                hard_negatives=None if negatives is None else resize(negatives),
                hard_negative_keys=batch.hard_negative_keys,
                rows=batch.rows,
            )

        if not self.matryoshka_dims:
            return clip_at(lambda embeddings: embeddings)
        return torch.stack([clip_at(partial(truncate, dim=dim)) for dim in self.matryoshka_dims]).mean()

    def _kl(
        self, batch: Batch, exit_layer: int, teacher: tuple[Tensor, Tensor], temperature: float | None = None
    ) -> Tensor:
        temperature = self.distillation_temperature if temperature is None else temperature
        return similarity_kl_loss(batch.sides(exit_layer), teacher, temperature, batch.rows)

    def _cosine(self, batch: Batch, exit_layer: int, teacher: tuple[Tensor, Tensor]) -> Tensor:
        pairs = zip(batch.sides(exit_layer), teacher, strict=True)
        queries, documents = (cosine_loss(batch.own(side), batch.own(target)) for side, target in pairs)
        return (queries + documents) / 2


def project_teacher(vectors: Tensor, dim: int) -> Tensor:
    """Return a teacher's vectors in a model's number of dimensions: (n, dim) of unit norm from (n, teacher dim).

    Wider vectors are projected onto their principal components, which keeps most of their similarities. The
    largest components come first, so that the first dimensions alone rank texts, too.

    Raises:
        ValueError: the vectors are narrower than the model's.
    """
    if (size := vectors.shape[1]) < dim:
        raise ValueError(f"The teacher must have at least the student's {dim} dimensions, got {size}.")
    if size > dim:
        # Not centred: cosine similarities are about the origin. Eigenvalues come in ascending order.
        _, axes = torch.linalg.eigh(vectors.T @ vectors)
        vectors = vectors @ axes[:, -dim:].flip(1)
    return torch.nn.functional.normalize(vectors, dim=-1)
