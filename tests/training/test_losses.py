import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import rel_entr, softmax
from sentence_transformers.losses import CachedMultipleNegativesRankingLoss
from torch import nn
from torch.distributions import Categorical, kl_divergence
from torch.nn import functional as F

from mose.configuration_mose import MoSEConfig
from mose.training.losses import (
    clip_loss,
    cosine_loss,
    deeper_exits,
    relational_kl_loss,
    share_text,
    similarities,
    similarity_kl_loss,
    truncate,
    weighted_sum,
)

SIZES = {"batch": st.integers(2, 12), "dim": st.integers(1, 9), "seed": st.integers(0, 2**16)}


def unit_rows(batch, dim, seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(batch, dim, generator=generator, dtype=dtype), dim=-1)


@settings(max_examples=50, deadline=None)
@given(**SIZES, scale=st.floats(1e-4, 30.0))
def test_clip_loss_is_its_closed_form(batch, dim, seed, scale):
    queries, documents = unit_rows(batch, dim, seed), unit_rows(batch, dim, seed + 1)
    scores = scale * queries.numpy() @ documents.numpy().T
    rows, columns = softmax(scores, axis=1), softmax(scores, axis=0)
    expected = -(np.log(np.diag(rows)) + np.log(np.diag(columns))).sum() / (2 * batch)
    # Which side is called the query does not matter, nor does the order of the pairs.
    order = torch.randperm(batch, generator=torch.Generator().manual_seed(seed))
    for a, b in ((queries, documents), (documents, queries), (queries[order], documents[order])):
        assert clip_loss(a, b, scale).item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("scale", [1.0, 10.0, 30.0])
@pytest.mark.parametrize("mini_batch_size", [3, 16])
def test_clip_loss_and_gradients_equal_those_of_sentence_transformers(scale, mini_batch_size):
    oracle = CachedMultipleNegativesRankingLoss(
        nn.Sequential(nn.Identity()),
        scale=scale,
        mini_batch_size=mini_batch_size,
        directions=("query_to_doc", "doc_to_query"),
        partition_mode="per_direction",
    )
    ours = [unit_rows(16, 32, seed, torch.float32).requires_grad_() for seed in (0, 1)]
    theirs = [side.detach().clone().requires_grad_() for side in ours]
    loss, expected = clip_loss(ours[0], ours[1], scale), oracle.calculate_loss([[side] for side in theirs])
    assert loss.item() == pytest.approx(expected.item(), abs=1e-6)
    loss.backward()
    expected.backward()
    for mine, other in zip(ours, theirs, strict=True):
        # Theirs normalises once more: compare what is tangent to the sphere.
        radial = (mine.grad * mine).sum(dim=1, keepdim=True) * mine
        torch.testing.assert_close((mine.grad - radial).detach(), other.grad, atol=1e-6, rtol=0)


def test_clip_loss_at_its_extremes():
    same = unit_rows(4, 8, 0)
    assert clip_loss(same, same, 0.0).item() == pytest.approx(np.log(4))
    axes = torch.eye(5)
    assert clip_loss(axes, axes, 30.0).item() < 1e-11
    assert clip_loss(axes, axes.roll(1, 0), 30.0).item() == pytest.approx(30.0, abs=1e-6)


def test_the_learned_scale_gets_its_gradient():
    queries, documents = unit_rows(4, 8, 0), unit_rows(4, 8, 1)
    scale = torch.full((1,), 7.0, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(clip_loss(queries, documents, scale), scale)
    step = 1e-5
    slope = (clip_loss(queries, documents, 7 + step) - clip_loss(queries, documents, 7 - step)) / (2 * step)
    assert gradient.item() == pytest.approx(slope.item(), rel=1e-6)


def test_clip_loss_names_what_it_cannot_compare():
    with pytest.raises(ValueError, match="needs a batch of at least 2 pairs, got 1"):
        clip_loss(torch.ones(1, 3), torch.ones(1, 3), 1.0)
    with pytest.raises(ValueError, match="at least 2 pairs, got 0"):
        clip_loss(torch.ones(0, 3), torch.ones(0, 3), 1.0)
    with pytest.raises(ValueError, match=r"queries and documents must agree in shape, got \(2, 3\) and \(3, 3\)"):
        clip_loss(torch.ones(2, 3), torch.ones(3, 3), 1.0)


@settings(max_examples=50, deadline=None)
@given(**SIZES, temperature=st.floats(0.02, 2.0), teacher_dim=st.integers(1, 9))
def test_similarity_kl_loss_is_the_mean_of_both_ways(batch, dim, seed, temperature, teacher_dim):
    student = unit_rows(batch, dim, seed), unit_rows(batch, dim, seed + 1)
    teacher = unit_rows(batch, teacher_dim, seed + 2), unit_rows(batch, teacher_dim, seed + 3)

    def expected(axis):
        p, q = (softmax((a @ b.T).numpy() / temperature, axis=axis) for a, b in (teacher, student))
        return rel_entr(p, q).sum(axis=axis).mean()

    both = (expected(0) + expected(1)) / 2
    assert similarity_kl_loss(student, teacher, temperature).item() == pytest.approx(both, rel=1e-7, abs=1e-12)


@settings(max_examples=50, deadline=None)
@given(**SIZES, temperature=st.floats(0.02, 2.0), teacher_dim=st.integers(1, 9))
def test_relational_kl_loss_ranks_every_text_among_all_others(batch, dim, seed, temperature, teacher_dim):
    student = unit_rows(batch, dim, seed), unit_rows(batch, dim, seed + 1)
    teacher = unit_rows(batch, teacher_dim, seed + 2), unit_rows(batch, teacher_dim, seed + 3)
    terms = []
    for own in range(2 * batch):
        others = [row for row in range(2 * batch) if row != own]
        p, q = (
            softmax((texts[others] @ texts[own]).numpy() / temperature)
            for texts in (torch.cat(teacher), torch.cat(student))
        )
        terms.append(rel_entr(p, q).sum())
    loss = relational_kl_loss(student, teacher, temperature)
    assert loss.item() == pytest.approx(np.mean(terms), rel=1e-7, abs=1e-12)


def test_relational_kl_loss_spares_the_teacher():
    student, teacher = (tuple(unit_rows(5, 7, seed + k).requires_grad_() for k in (0, 1)) for seed in (0, 2))
    learns = torch.autograd.grad(relational_kl_loss(student, teacher), [*student, *teacher], allow_unused=True)
    assert learns[2:] == (None, None) and all(gradient.abs().sum() > 0 for gradient in learns[:2])
    assert relational_kl_loss(teacher, teacher).item() == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("temperature", [1e-5, 5e-5, 1e-3])
def test_relational_kl_loss_leaves_out_the_own_text_at_any_temperature(temperature):
    # Of one pair there is one other text: its probability is 1 for teacher and student, however far away it is.
    text, across = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    student, teacher = ((text, across), (text, -text))
    assert relational_kl_loss(student, teacher, temperature).item() == 0.0
    assert relational_kl_loss(teacher, student, temperature).item() == 0.0


def test_similarity_kl_loss_agrees_with_torch_distributions_and_spares_the_teacher():
    student, teacher = (tuple(unit_rows(5, 7, seed + k).requires_grad_() for k in (0, 1)) for seed in (0, 2))
    s, t = (a @ b.T / 0.5 for a, b in (student, teacher))
    rows = kl_divergence(Categorical(logits=t), Categorical(logits=s)).mean()
    columns = kl_divergence(Categorical(logits=t.T), Categorical(logits=s.T)).mean()
    loss = similarity_kl_loss(student, teacher, 0.5)
    assert loss.item() == pytest.approx(((rows + columns) / 2).item(), rel=1e-9)
    learns = torch.autograd.grad(loss, [*student, *teacher], allow_unused=True)
    assert learns[2:] == (None, None) and all(gradient.abs().sum() > 0 for gradient in learns[:2])
    assert similarity_kl_loss(teacher, teacher, 0.5).item() == pytest.approx(0.0, abs=1e-12)


@settings(max_examples=30, deadline=None)
@given(**SIZES)
def test_cosine_loss(batch, dim, seed):
    student, teacher = (unit_rows(batch, dim, seed + k) * (k + 2) for k in range(2))
    cosines = [
        float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
        for a, b in zip(student.numpy(), teacher.numpy(), strict=True)
    ]
    assert cosine_loss(student, teacher).item() == pytest.approx(1 - np.mean(cosines), abs=1e-9)


def test_cosine_loss_spares_the_teacher():
    student, teacher = (torch.randn(3, 4, requires_grad=True) for _ in range(2))
    learns, still = torch.autograd.grad(cosine_loss(student, teacher), (student, teacher), allow_unused=True)
    assert still is None and learns.abs().sum() > 0


def test_weighted_sum_is_the_papers_formula():
    losses = {4: 1.0, 9: 2.0, 18: 0.5, 27: 4.0, 36: 8.0}
    total = weighted_sum({e: torch.tensor(loss) for e, loss in losses.items()}, MoSEConfig().exit_weights)
    assert total.item() == pytest.approx(sum(e / 36 * loss for e, loss in losses.items()))


def test_exits_that_were_not_built_have_no_share():
    weights = MoSEConfig(exit_layer=9).exit_weights
    assert weighted_sum({4: torch.tensor(1.0), 9: torch.tensor(1.0)}, weights).item() == pytest.approx(13 / 36)
    nano = MoSEConfig.from_preset("mose-nano", exit_layers=(0, 2, 4), num_hidden_layers=4).exit_weights
    assert nano == {0: 0.25, 2: 0.5, 4: 1.0}  # exit 0 weighs as one block, so that it learns


def test_autocast_changes_none_of_them():
    def losses():
        a, b = unit_rows(6, 16, 0, torch.float32), unit_rows(6, 16, 1, torch.float32)
        return torch.stack(
            [
                clip_loss(a, b, torch.tensor([10.0])),
                similarity_kl_loss((a, b), (a.flip(0), b)),
                cosine_loss(a, b),
            ]
        )

    expected = losses()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(losses(), expected)


def test_embeddings_in_bf16_are_compared_in_float32():
    a, b = unit_rows(6, 16, 0, torch.bfloat16), unit_rows(6, 16, 1, torch.bfloat16)
    assert similarities(a, b).dtype == torch.float32
    torch.testing.assert_close(similarities(a, b), a.float() @ b.float().T)
    assert clip_loss(a, b, 10.0).item() == pytest.approx(clip_loss(a.float(), b.float(), 10.0).item())
    assert cosine_loss(a, b).dtype == torch.float32


# --- false negatives, hard negatives, blocks ---------------------------------------------------------------


def clip_by_hand(queries, documents, scale, keys, negatives, negative_keys, rows):
    """One term after the other, false negatives looked up in sets of texts."""
    texts = [set(pair) for pair in keys.tolist()]
    terms = []
    for i in rows:
        columns = [j for j in range(len(texts)) if j == i or not texts[i] & texts[j]]
        known = set().union(*(texts[j] for j in range(len(texts)) if texts[i] & texts[j]))
        hard = [k for k, key in enumerate(negative_keys.tolist()) if key not in known]
        forth = [queries[i] @ documents[j] for j in columns] + [queries[i] @ negatives[k] for k in hard]
        back = [documents[i] @ queries[j] for j in columns]
        for scores in (forth, back):
            total = sum(np.exp(scale * score.item()) for score in scores)
            own = scores[columns.index(i)].item()
            terms.append(np.log(total) - scale * own)
    return np.mean(terms)


@settings(max_examples=50, deadline=None)
@given(
    batch=st.integers(2, 9),
    negatives=st.integers(1, 4),
    seed=st.integers(0, 2**16),
    block=st.integers(1, 10),
    data=st.data(),
)
def test_false_and_hard_negatives_equal_the_definition(batch, negatives, seed, block, data):
    rows = sorted((data.draw(st.integers(0, batch - 1)), data.draw(st.integers(0, batch - 1))))
    rows = range(rows[0], rows[1] + 1)
    generator = torch.Generator().manual_seed(seed)
    keys = torch.randint(0, 2 * batch, (batch, 2), generator=generator)  # some are alike
    negative_keys = torch.randint(0, 2 * batch, (negatives,), generator=generator)
    queries, documents, hard = (
        unit_rows(n, 5, seed + k).requires_grad_() for k, n in enumerate((batch, batch, negatives))
    )
    given_ = {"keys": keys, "hard_negatives": hard, "hard_negative_keys": negative_keys, "rows": rows}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mose.training.losses.BLOCK", block)
        loss = clip_loss(queries, documents, 7.0, **given_)
        found = torch.autograd.grad(loss, (queries, documents, hard))
    expected = clip_by_hand(queries, documents, 7.0, keys, hard, negative_keys, rows)
    assert loss.item() == pytest.approx(expected, rel=1e-9, abs=1e-12)
    whole = torch.autograd.grad(clip_loss(queries, documents, 7.0, **given_), (queries, documents, hard))
    for blockwise, at_once in zip(found, whole, strict=True):
        torch.testing.assert_close(blockwise, at_once, atol=1e-12, rtol=0)


def test_texts_that_differ_change_nothing_and_texts_alike_are_no_negatives():
    queries, documents = unit_rows(4, 8, 0), unit_rows(4, 8, 1)
    plain = clip_loss(queries, documents, 10.0)
    distinct = torch.arange(8).view(4, 2)
    torch.testing.assert_close(clip_loss(queries, documents, 10.0, keys=distinct), plain)
    torch.testing.assert_close(  # hard negatives without keys are all taken
        clip_loss(queries, documents, 10.0, keys=distinct, hard_negatives=documents.flip(1)),
        clip_loss(queries, documents, 10.0, hard_negatives=documents.flip(1)),
    )
    all_alike = torch.zeros(4, 2, dtype=torch.long)
    queries.requires_grad_()
    loss = clip_loss(queries, documents, 10.0, keys=all_alike)
    assert loss.item() == 0 and torch.autograd.grad(loss, queries)[0].isfinite().all()


@pytest.mark.parametrize("block", [1, 4, 5, 100])
def test_blocks_and_parts_of_the_rows_add_up_to_the_whole(block, monkeypatch):
    student, teacher = ((unit_rows(11, 6, k), unit_rows(11, 6, k + 1)) for k in (0, 5))
    kl_losses = (similarity_kl_loss, relational_kl_loss)
    whole = [clip_loss(*student, 9.0), *(loss(student, teacher, 0.1) for loss in kl_losses)]
    monkeypatch.setattr("mose.training.losses.BLOCK", block)
    parts = [(range(0, 3), 3 / 11), (range(3, 11), 8 / 11)]
    clip = sum(share * clip_loss(*student, 9.0, rows=rows) for rows, share in parts)
    kl = [sum(share * loss(student, teacher, 0.1, rows) for rows, share in parts) for loss in kl_losses]
    torch.testing.assert_close([clip, *kl], whole)


def test_share_text_looks_at_both_sides():
    keys = torch.tensor([[1, 2], [3, 1], [4, 5], [6, 5]])
    expected = [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]
    assert share_text(keys, keys).int().tolist() == expected
    assert share_text(keys[:1], keys[2:]).tolist() == [[False, False]]


def test_truncate_keeps_the_first_dimensions_at_unit_norm():
    rows = unit_rows(3, 8, 0)
    expected = rows[:, :3] / np.linalg.norm(rows[:, :3].numpy(), axis=1, keepdims=True)
    torch.testing.assert_close(truncate(rows, 3), expected)
    assert truncate(rows.bfloat16(), 3).dtype == torch.float32


def test_every_deeper_exit_teaches():
    assert deeper_exits((4, 9, 18)) == {4: (9, 18), 9: (18,), 18: ()}
