"""The masked language model: its loss that keeps no logits, and the model that reads it at any exit."""

import subprocess
import sys

import pytest
import torch
from pretraining_reference import CONTEXT, masked_labels, plain_logits
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import pipeline

from mose import modeling_mose
from mose.modeling_mose import MaskedCrossEntropy, MoSEForMaskedLM, MoSEForPreTraining


@pytest.fixture
def pretraining(build_model, tiny_config) -> MoSEForPreTraining:
    return build_model(MoSEForPreTraining, tiny_config())


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
    found = torch.autograd.grad(loss, (states, weight, bias), retain_graph=True)
    expected = torch.autograd.grad((each * scales).sum(), (states, weight, bias))
    torch.testing.assert_close((loss, *found), ((each * scales).sum(), *expected), atol=tolerance, rtol=0)
    again = torch.autograd.grad(loss, (states, weight, bias))  # nothing was used up
    torch.testing.assert_close(again, found)


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
    found, expected = (
        torch.autograd.grad(MaskedCrossEntropy.apply(*of, targets, scales * 1e-8, True)[0] * 2**16, of)
        for of in (half, tensors)
    )
    for ours, theirs in zip(found, expected, strict=True):
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


def test_only_masked_tokens_reach_the_vocabulary_and_few_logits_are_alive(pretraining, tiny_batch, monkeypatch):
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


def test_accuracies_count_what_is_right(pretraining, tiny_batch):
    labels = masked_labels(tiny_batch)
    chosen = labels != -100
    with torch.no_grad():
        logits = {e: plain_logits(pretraining, tiny_batch, e) for e in (0, 1, 3)}
        labels[chosen] = torch.where(
            torch.arange(chosen.sum()) % 2 == 0, logits[3][0][chosen].argmax(dim=1), labels[chosen]
        )
    out = pretraining(**tiny_batch, labels=labels, context_labels=CONTEXT)
    for at, (mlm, icc) in enumerate(logits.values()):
        assert out.mlm_accuracies[at] == (mlm.argmax(dim=2) == labels)[chosen].float().mean()
        assert out.icc_accuracies[at] == (icc.argmax(dim=1) == CONTEXT).float().mean()
    assert out.mlm_accuracies[-1] >= 0.5


def rows_of(batch: dict[str, torch.Tensor], rows: slice) -> dict[str, torch.Tensor]:
    return {name: value[rows] for name, value in batch.items()}


def test_batches_of_a_step_add_up_to_one_batch(pretraining, tiny_batch):
    """Masked tokens are spread unevenly: the mean of the batches' means would be another loss."""
    labels = masked_labels(tiny_batch)
    batch = {**tiny_batch, "labels": labels, "context_labels": CONTEXT}
    masked = int((labels != -100).sum())
    parts = [rows_of(batch, slice(0, 1)), rows_of(batch, slice(1, 3))]
    assert len({int((part["labels"] != -100).sum()) / len(part["labels"]) for part in parts}) == 2
    whole = pretraining(**batch)
    out = [pretraining(**p, num_items_in_batch=torch.tensor(masked), num_examples_in_batch=3) for p in parts]
    torch.testing.assert_close(sum(o.loss for o in out), whole.loss)
    found = torch.autograd.grad(sum(o.loss for o in out), list(pretraining.predictions.parameters()))
    torch.testing.assert_close(found, torch.autograd.grad(whole.loss, list(pretraining.predictions.parameters())))
    # Without the number of examples, MLM is exact and the shares of ICC still add up to one.
    out = [pretraining(**p, num_items_in_batch=masked) for p in parts]
    weights = torch.tensor([max(e, 1) / 3 for e in (0, 1, 3)])
    shares = [(p["labels"] != -100).sum() / masked for p in parts]
    icc = sum(share * (weights * o.icc_losses).sum() for share, o in zip(shares, out, strict=True))
    torch.testing.assert_close(sum(o.loss for o in out), (weights * whole.mlm_losses).sum() + icc)


@pytest.mark.parametrize("items", [0, torch.tensor(0)])
def test_a_step_without_a_masked_token_has_a_loss(pretraining, tiny_batch, items):
    labels = torch.full_like(tiny_batch["input_ids"], -100)
    out = pretraining(**tiny_batch, labels=labels, context_labels=CONTEXT, num_items_in_batch=items)
    assert out.loss == 0
    out.loss.backward()
    assert all(p.grad.isfinite().all() for p in pretraining.parameters() if p.grad is not None)


# --- MoSEForMaskedLM ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pretrained_folder(build_model, trained_config, tiny_tokenizer, tmp_path_factory) -> str:
    folder = str(tmp_path_factory.mktemp("pretrained"))
    build_model(MoSEForPreTraining, trained_config).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("exit_layer", [0, 1, 3, None])
def test_the_masked_language_model_reads_a_pretrained_checkpoint_at_any_exit(
    pretrained_folder, tiny_batch, exit_layer
):
    model, info = MoSEForMaskedLM.from_pretrained(
        pretrained_folder, exit_layer=exit_layer, output_loading_info=True
    )
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert len(model.model.layers) == (3 if exit_layer is None else exit_layer)
    full = MoSEForPreTraining.from_pretrained(pretrained_folder)
    batch = {**tiny_batch, "input_ids": tiny_batch["input_ids"].clamp(max=full.config.vocab_size - 1)}
    expected = full(**batch, exit_layer=exit_layer).prediction_logits
    torch.testing.assert_close(model(**batch).logits, expected)


def test_its_loss_is_the_mlm_part_and_its_logits_are_left_out_in_training(build_model, tiny_config, tiny_batch):
    model = build_model(MoSEForMaskedLM, tiny_config())
    labels = masked_labels(tiny_batch)
    out = model(**tiny_batch, labels=labels)
    losses = []
    for e in (0, 1, 3):
        logits = model(**tiny_batch, exit_layer=e).logits
        losses.append(max(e, 1) / 3 * F.cross_entropy(logits.flatten(0, 1), labels.flatten()))
    torch.testing.assert_close(out.loss, sum(losses))
    assert out.logits.shape == (3, 9, 320)
    assert model.train()(**tiny_batch, labels=labels).logits is None


SCRIPT = """
import sys
sys.modules["mose"] = None  # what the Hub's user does not have
from transformers import AutoModelForMaskedLM, pipeline
folder = sys.argv[1]
for exit_layer in (0, 1, 3):
    fill = pipeline("fill-mask", model=folder, trust_remote_code=True, model_kwargs={"exit_layer": exit_layer})
    assert len(fill.model.model.layers) == exit_layer
    found = fill("def <mask>(first):", top_k=2)
    print(exit_layer, *(f"{row['token']}:{row['score']:.5f}" for row in found))
"""


@pytest.mark.slow
def test_fill_mask_works_at_any_exit_without_the_package(pretrained_folder, tmp_path):
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, pretrained_folder], capture_output=True, text=True, cwd=tmp_path
    )
    assert run.returncode == 0, run.stderr
    lines = dict(line.split(" ", 1) for line in run.stdout.splitlines())
    assert list(lines) == ["0", "1", "3"]
    model = MoSEForMaskedLM.from_pretrained(pretrained_folder, exit_layer=1)
    tokenizer = pipeline("fill-mask", model=pretrained_folder, trust_remote_code=True).tokenizer
    batch = tokenizer("def <mask>(first):", return_tensors="pt")
    with torch.no_grad():
        logits = model(**batch).logits[batch["input_ids"] == tokenizer.mask_token_id][0]
    scores, tokens = logits.softmax(dim=0).topk(2)
    assert lines["1"].split() == [f"{t}:{s:.5f}" for t, s in zip(tokens.tolist(), scores.tolist(), strict=True)]
