"""`MaskedCrossEntropy`: its values, gradients and memory."""

import pytest
import torch
from pretraining_reference import masked_labels
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from mose import modeling_mose
from mose.modeling_mose import MaskedCrossEntropy


def random_rows(dtype: torch.dtype, rows: int = 7, hidden: int = 5, vocab: int = 11):
    torch.manual_seed(0)
    tensors = [torch.randn(shape, dtype=dtype) for shape in ((rows, hidden), (vocab, hidden), (vocab,))]
    scales = torch.rand(rows, dtype=dtype)
    return *(t.requires_grad_() for t in tensors), torch.randint(0, vocab, (rows,)), scales


@pytest.mark.parametrize("rows", [1, 3, 1024])
def test_gradients_are_those_of_finite_differences(monkeypatch, rows):
    monkeypatch.setattr(modeling_mose, "LOGIT_ROWS", rows)
    *tensors, targets, scales = random_rows(torch.float64)
    assert torch.autograd.gradcheck(
        lambda *t: 3 * MaskedCrossEntropy.apply(*t, targets, scales, True)[0], tensors
    )


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-8), (torch.float32, 1e-5)])
def test_it_equals_the_cross_entropy_of_all_logits(dtype, tolerance):
    states, weight, bias, targets, scales = random_rows(dtype, rows=40)
    loss, losses, hits = MaskedCrossEntropy.apply(states, weight, bias, targets, scales, True)
    logits = F.linear(states, weight, bias)
    each = F.cross_entropy(logits, targets, reduction="none")
    torch.testing.assert_close(losses, each.detach(), atol=tolerance, rtol=0)
    assert torch.equal(hits, (logits.argmax(dim=1) == targets).to(dtype))
    actual = torch.autograd.grad(loss, (states, weight, bias), retain_graph=True)
    expected = torch.autograd.grad((each * scales).sum(), (states, weight, bias))
    torch.testing.assert_close((loss, *actual), ((each * scales).sum(), *expected), atol=tolerance, rtol=0)
    again = torch.autograd.grad(loss, (states, weight, bias))  # nothing was used up
    torch.testing.assert_close(again, actual)


@pytest.mark.skipif(not hasattr(F, "linear_cross_entropy"), reason="a newer torch has it")
def test_it_equals_torchs_linear_cross_entropy():
    states, weight, bias, targets, _ = random_rows(torch.float32, rows=40)
    ones = torch.ones(40)
    theirs = F.linear_cross_entropy(
        states,
        weight,
        targets,
        linear_bias=bias,
        reduction="sum",
        options=torch.nn.LinearCrossEntropyOptions(batch_chunk_size=8, chunking_method=None),
    )
    ours = MaskedCrossEntropy.apply(states, weight, bias, targets, ones, True)[0]
    parameters = (states, weight, bias)
    torch.testing.assert_close(
        (ours, *torch.autograd.grad(ours, parameters)), (theirs, *torch.autograd.grad(theirs, parameters))
    )


def test_a_half_precision_model_has_gradients_of_its_type():
    *tensors, targets, scales = random_rows(torch.float32, rows=40)
    half = [t.detach().bfloat16().requires_grad_() for t in tensors]
    loss = MaskedCrossEntropy.apply(*half, targets, scales, True)[0]
    expected = MaskedCrossEntropy.apply(*tensors, targets, scales, True)[0]
    assert loss.dtype == torch.float32
    for ours, theirs in zip(torch.autograd.grad(loss, half), torch.autograd.grad(expected, tensors), strict=True):
        assert ours.dtype == torch.bfloat16
        assert F.cosine_similarity(ours.float().flatten(), theirs.flatten(), dim=0) > 0.999


def test_float16_keeps_the_gradients_of_a_large_batch():
    """With the loss scaled up, as in training: what one of a million tokens counts is below float16's least."""
    *tensors, targets, scales = random_rows(torch.float32, rows=40)
    half = [t.detach().half().requires_grad_() for t in tensors]
    actual, expected = (
        torch.autograd.grad(MaskedCrossEntropy.apply(*of, targets, scales * 1e-8, True)[0] * 2**16, of)
        for of in (half, tensors)
    )
    for ours, theirs in zip(actual, expected, strict=True):
        assert F.cosine_similarity(ours.float().flatten(), theirs.flatten(), dim=0) > 0.999
        torch.testing.assert_close(ours.float().norm(), theirs.norm(), rtol=0.01, atol=0)


class Shapes(TorchDispatchMode):
    """Keeps the shape of what every operation gives."""

    def __init__(self):
        super().__init__()
        self.seen: list[tuple[str, torch.Size]] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        self.seen += [(function.name(), o.shape) for o in (out,) if isinstance(o, torch.Tensor)]
        return out


def test_only_masked_tokens_reach_the_vocabulary_a_few_at_a_time(pretraining, tiny_batch, monkeypatch):
    monkeypatch.setattr(modeling_mose, "LOGIT_ROWS", 4)
    labels = masked_labels(tiny_batch)
    masked = int((labels != -100).sum())
    kept: list[torch.Size] = []
    with (
        Shapes() as forward,
        torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.shape) or t, lambda t: t),
    ):
        loss = pretraining(**tiny_batch, labels=labels).loss
    with Shapes() as backward:
        loss.backward()
    weight = torch.Size((32, 320))  # transposed
    wide = [shape for _, shape in forward.seen if shape[1:] == (320,) and shape != weight]
    assert wide and max(shape[0] for shape in wide) == 4
    projected = [shape[0] for name, shape in forward.seen if name == "aten::addmm" and shape[-1] == 320]
    assert sum(projected) == 3 * masked
    assert not [shape for _, shape in backward.seen if shape[1:] == (320,)]
    assert kept and not [shape for shape in kept if shape[1:] == (320,)]


def test_without_a_backward_pass_no_gradient_is_computed(pretraining, tiny_batch):
    labels = masked_labels(tiny_batch)
    with torch.no_grad(), Shapes() as shapes:
        loss = pretraining(**tiny_batch, labels=labels).loss
    assert not [shape for name, shape in shapes.seen if shape == (320, 32) and "zeros" in name]
    torch.testing.assert_close(loss, pretraining(**tiny_batch, labels=labels).loss.detach())
