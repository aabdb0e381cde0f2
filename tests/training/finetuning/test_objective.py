"""The objective against its formula, put together a second time from numpy and from single losses."""

import itertools

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from mose.training.finetuning.objective import Batch, Objective, project_teacher
from mose.training.losses import clip_loss, cosine_loss, relational_kl_loss, similarity_kl_loss

WEIGHTS = {0: 0.25, 2: 0.5, 3: 1.0}
EXITS = tuple(WEIGHTS)


@pytest.fixture
def batch() -> Batch:
    generator = torch.Generator().manual_seed(0)

    def exits(rows):
        draws = (torch.randn(rows, 8, generator=generator, dtype=torch.float64) for _ in EXITS)
        return {e: F.normalize(draw, dim=-1).requires_grad_() for e, draw in zip(EXITS, draws, strict=True)}

    return Batch(exits(5), exits(5), torch.tensor([6.0], dtype=torch.float64, requires_grad=True))


def clip(batch, query_exit, document_exit, dim=8):
    """In numpy, with the softmax written out."""
    cut = [
        side[e].detach().numpy()[:, :dim]
        for side, e in ((batch.queries, query_exit), (batch.documents, document_exit))
    ]
    queries, documents = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in cut)
    scores = batch.scale.item() * queries @ documents.T
    each_way = [np.diag(s) - np.log(np.exp(s).sum(axis=1)) for s in (scores, scores.T)]
    return -np.mean(each_way)


def value(objective, batch):
    loss, figures = objective(batch, WEIGHTS)
    return loss.item(), {name: figure.item() for name, figure in figures.items()}


def test_contrastive_alone_is_the_papers_sum(batch):
    loss, figures = value(Objective(contrastive_weight=0.5), batch)
    assert figures == pytest.approx({f"contrastive_loss_exit_{e}": clip(batch, e, e) for e in EXITS})
    assert loss == pytest.approx(sum(WEIGHTS[e] * 0.5 * clip(batch, e, e) for e in EXITS))


def test_matryoshka_is_the_mean_over_dimensions(batch):
    loss, _ = value(Objective(matryoshka_dims=(8, 3, 2)), batch)
    assert loss == pytest.approx(
        sum(WEIGHTS[e] * np.mean([clip(batch, e, e, d) for d in (8, 3, 2)]) for e in EXITS)
    )


def test_alignment_is_over_all_ordered_pairs_of_exits(batch):
    plain, _ = value(Objective(), batch)
    loss, figures = value(Objective(align_weight=0.3), batch)
    expected = {}
    for e in EXITS:
        both = [(clip(batch, e, o) + clip(batch, o, e)) / 2 for o in EXITS if o != e]
        expected[e] = np.mean(both)
        assert figures[f"align_loss_exit_{e}"] == pytest.approx(expected[e])
    assert loss - plain == pytest.approx(sum(WEIGHTS[e] * 0.3 * expected[e] for e in EXITS))
    graph, _ = Objective(align_weight=0.3, contrastive_weight=0.0)(batch, WEIGHTS)
    sides = [side[e] for side in (batch.queries, batch.documents) for e in EXITS]
    assert all(gradient.abs().sum() > 0 for gradient in torch.autograd.grad(graph, sides))  # all come closer


@pytest.mark.parametrize("kind", ["kl", "cosine"])
def test_distillation_is_the_mean_over_deeper_exits_and_spares_them(batch, kind):
    objective = Objective(contrastive_weight=0.0, distillation=kind, distillation_weight=2.0)
    loss, figures = value(objective, batch)

    def between(student, teacher):
        if kind == "kl":
            return similarity_kl_loss(batch.sides(student), batch.sides(teacher), 0.05).item()
        sides = zip(batch.sides(student), batch.sides(teacher), strict=True)
        return np.mean([cosine_loss(ours, theirs).item() for ours, theirs in sides])

    expected = {0: (between(0, 2) + between(0, 3)) / 2, 2: between(2, 3)}
    for e, distilled in expected.items():
        assert figures[f"distillation_loss_exit_{e}"] == pytest.approx(distilled)
    assert "distillation_loss_exit_3" not in figures
    assert loss == pytest.approx(sum(WEIGHTS[e] * 2.0 * distilled for e, distilled in expected.items()))
    graph, _ = objective(batch, WEIGHTS)
    for side in (batch.queries, batch.documents):
        gradients = torch.autograd.grad(graph, list(side.values()), retain_graph=True, allow_unused=True)
        assert gradients[2] is None or not gradients[2].any()  # the deepest learns from none of them
        assert gradients[0].any() and gradients[1].any()
    # What the middle exit teaches exit 0 leaves no gradient either: its own is what the deepest teaches it.
    alone = WEIGHTS[2] * 2.0 * objective.terms(batch, 2)["distillation"][1]
    expected_gradient = torch.autograd.grad(alone, batch.queries[2], retain_graph=True)[0]
    found = torch.autograd.grad(graph, batch.queries[2], retain_graph=True)[0]
    torch.testing.assert_close(found, expected_gradient)


def test_false_and_hard_negatives_reach_every_clip_loss(batch):
    batch.keys = torch.tensor([[0, 1], [2, 3], [4, 1], [6, 7], [8, 9]])
    hard = F.normalize(torch.randn(3, 8, dtype=torch.float64), dim=-1)
    batch.hard_negatives = {e: hard.roll(e, 1) for e in EXITS}
    batch.hard_negative_keys = torch.tensor([1, 20, 21])
    batch.rows = range(1, 4)
    _, figures = value(Objective(align_weight=1.0), batch)

    def at(query_exit, document_exit):
        return clip_loss(
            batch.queries[query_exit],
            batch.documents[document_exit],
            batch.scale,
            keys=batch.keys,
            hard_negatives=batch.hard_negatives[document_exit],
            hard_negative_keys=batch.hard_negative_keys,
            rows=batch.rows,
        ).item()

    across = {(a, b): at(a, b) for a, b in itertools.product(EXITS, EXITS)}
    for e in EXITS:
        assert figures[f"contrastive_loss_exit_{e}"] == pytest.approx(across[e, e])
        mean = np.mean([across[a, b] for a, b in across if (a == e) != (b == e)])
        assert figures[f"align_loss_exit_{e}"] == pytest.approx(mean)


def test_an_outer_teacher_sees_the_rows_of_this_process(batch):
    # The ranking is compared in the teacher's dimensions, the vectors in the model's.
    batch.teacher, batch.teacher_targets = (
        tuple(F.normalize(torch.randn(5, dim, dtype=torch.float64), dim=-1) for _ in range(2)) for dim in (11, 8)
    )
    batch.rows = range(2, 5)
    weights = {"teacher_kl_weight": 1.0, "teacher_relational_weight": 0.5, "teacher_cosine_weight": 1.0}
    loss, figures = value(Objective(**weights), batch)
    cosine = np.mean(
        [
            cosine_loss(side[2][2:], t[2:]).item()
            for side, t in zip((batch.queries, batch.documents), batch.teacher_targets, strict=True)
        ]
    )
    assert figures["teacher_cosine_loss_exit_2"] == pytest.approx(cosine)
    kl = similarity_kl_loss(batch.sides(2), batch.teacher, 0.05, range(2, 5)).item()
    assert figures["teacher_kl_loss_exit_2"] == pytest.approx(kl)
    relational = relational_kl_loss(batch.sides(2), batch.teacher, 0.05, range(2, 5)).item()
    assert figures["teacher_relational_loss_exit_2"] == pytest.approx(relational)
    without, _ = value(Objective(**weights | {"teacher_relational_weight": 0.0}), batch)
    difference = sum(WEIGHTS[e] * 0.5 * figures[f"teacher_relational_loss_exit_{e}"] for e in EXITS)
    assert loss - without == pytest.approx(difference)


def test_a_wider_teacher_is_projected_and_keeps_its_similarities():
    generator = torch.Generator().manual_seed(3)
    spread = 0.9 ** torch.arange(48.0)  # as in real vectors, few directions carry most
    whole = F.normalize(torch.randn(200, 48, generator=generator) * spread, dim=1)
    vectors = project_teacher(whole, 32)
    assert vectors.shape == (200, 32)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(200))

    wanted = whole @ whole.T
    lost = (vectors @ vectors.T - wanted).abs()
    # Other 32 directions, drawn at random, lose far more.
    axes = torch.linalg.qr(torch.randn(48, 32, generator=generator))[0]
    other = F.normalize(whole @ axes, dim=1)
    assert lost.mean() < 0.02 and lost.mean() < 0.2 * (other @ other.T - wanted).abs().mean()

    # The first dimensions carry most, so that they rank alone.
    energy = vectors.square().sum(0)
    assert (energy[:-1] >= 0.9 * energy[1:]).all() and energy[0] > 4 * energy[-1]
    assert torch.equal(project_teacher(whole, 48), F.normalize(whole, dim=1))


def test_a_narrower_teacher_is_refused():
    with pytest.raises(ValueError, match="at least the student's 64 dimensions, got 48"):
        project_teacher(torch.randn(2, 48), 64)
