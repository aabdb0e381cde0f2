"""The pre-training loss against one that keeps every logit."""

import pytest
import torch
from pretraining_reference import CONTEXT, masked_labels, plain_logits, plain_loss
from torch.nn import functional as F

from mose import modeling_mose
from mose.modeling_mose import MoSEForPreTraining


@pytest.mark.parametrize("rows", [1, 4, 1024])
@pytest.mark.parametrize(("exit_layer", "exits"), [(None, (0, 1, 3)), (1, (0, 1)), (0, (0,))])
def test_the_loss_and_its_gradients_equal_the_plain_ones(
    pretraining, tiny_batch, monkeypatch, rows, exit_layer, exits
):
    monkeypatch.setattr(modeling_mose, "LOGIT_ROWS", rows)
    model, labels = pretraining.double(), masked_labels(tiny_batch)

    def gradients(loss: torch.Tensor) -> dict[str, torch.Tensor]:
        model.zero_grad()
        loss.backward()
        return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    actual = model(**tiny_batch, labels=labels, context_labels=CONTEXT, exit_layer=exit_layer)
    expected = plain_loss(model, tiny_batch, labels, CONTEXT, exits)
    torch.testing.assert_close(actual.loss, expected, atol=1e-8, rtol=0)
    torch.testing.assert_close(gradients(actual.loss), gradients(expected), atol=1e-8, rtol=0)
    assert len(actual.mlm_losses) == len(actual.icc_losses) == len(exits)
    weights = torch.tensor([max(e, 1) / 3 for e in exits], dtype=torch.float64)
    assert not actual.mlm_losses.requires_grad
    torch.testing.assert_close((weights * (actual.mlm_losses + actual.icc_losses)).sum(), expected.detach())


def test_a_plain_context_head_is_conditioned_after_its_pooler(build_model, tiny_config, tiny_batch):
    model = build_model(MoSEForPreTraining, tiny_config(context_pooler="plain"))
    weights = model.state_dict()
    for index, exit_layer in enumerate(model.config.exit_layers):
        out = model(**tiny_batch, exit_layer=exit_layer)
        states = model.model(**tiny_batch, exit_layer=exit_layer).last_hidden_state[:, -1]  # left padding
        states = torch.tanh(states @ weights["pooler.weight"].T + weights["pooler.bias"])
        condition = weights["conditional_embeddings.weight"][index].expand(len(states), -1)
        logits = torch.cat((states, condition), dim=1) @ weights["seq_relationship.weight"].T
        torch.testing.assert_close(out.context_logits, logits + weights["seq_relationship.bias"])


def test_one_masked_token_is_its_own_mean(pretraining, tiny_batch):
    labels = torch.full_like(tiny_batch["input_ids"], -100)
    labels[0, 3] = 7
    out = pretraining(**tiny_batch, labels=labels, exit_layer=0)
    logits, _ = plain_logits(pretraining, tiny_batch, 0)
    torch.testing.assert_close(out.mlm_losses, F.cross_entropy(logits[0, 3:4], labels[0, 3:4])[None].detach())


def test_each_task_can_be_trained_alone(pretraining, tiny_batch):
    labels = masked_labels(tiny_batch)
    both = pretraining(**tiny_batch, labels=labels, context_labels=CONTEXT)
    mlm = pretraining(**tiny_batch, labels=labels)
    icc = pretraining(**tiny_batch, context_labels=CONTEXT)
    torch.testing.assert_close(mlm.loss + icc.loss, both.loss)
    assert mlm.icc_losses is None and icc.mlm_losses is None
    assert pretraining(**tiny_batch).loss is None


def test_nothing_masked_is_no_loss_and_no_gradient(pretraining, tiny_batch):
    labels = torch.full_like(tiny_batch["input_ids"], -100)
    out = pretraining(**tiny_batch, labels=labels, context_labels=CONTEXT)
    assert out.mlm_losses.tolist() == [0.0] * 3
    torch.testing.assert_close(out.loss, pretraining(**tiny_batch, context_labels=CONTEXT).loss)
    out = pretraining(**tiny_batch, labels=labels)
    out.loss.backward()
    assert out.loss == 0
    assert all(p.grad is None or not p.grad.any() for p in pretraining.parameters())


def test_without_labels_the_logits_of_the_exit_are_given(pretraining, tiny_batch):
    for exit_layer in (0, 1, 3):
        out = pretraining(**tiny_batch, exit_layer=exit_layer)
        expected = plain_logits(pretraining, tiny_batch, exit_layer)
        torch.testing.assert_close((out.prediction_logits, out.context_logits), expected)
    labelled = pretraining(**tiny_batch, labels=masked_labels(tiny_batch))
    assert labelled.prediction_logits is None
    torch.testing.assert_close(labelled.context_logits, expected[1])


def test_the_heads_are_conditioned_on_the_exit(pretraining, tiny_batch):
    before = {e: pretraining(**tiny_batch, exit_layer=e) for e in (0, 1, 3)}
    with torch.no_grad():
        pretraining.conditional_embeddings.weight[1] += 1  # that of exit 1
    for exit_layer, old in before.items():
        new = pretraining(**tiny_batch, exit_layer=exit_layer)
        for name in ("prediction_logits", "context_logits"):
            assert torch.equal(new[name], old[name]) == (exit_layer != 1)


def test_a_pretraining_model_cut_at_an_exit_keeps_its_conditions(pretraining, tiny_batch):
    cut = MoSEForPreTraining(pretraining.config, exit_layer=1).eval()
    weights = pretraining.state_dict()
    cut.load_state_dict({name: weights[name] for name in cut.state_dict()})
    labels = masked_labels(tiny_batch)
    expected = pretraining(**tiny_batch, labels=labels, context_labels=CONTEXT, exit_layer=1)
    actual = cut(**tiny_batch, labels=labels, context_labels=CONTEXT)
    assert torch.equal(actual.loss, expected.loss)
    assert torch.equal(actual.context_logits, expected.context_logits)


@pytest.mark.parametrize("tied", [True, False])
def test_the_decoder_shares_the_embeddings_where_tied(build_model, tiny_config, tiny_batch, tied):
    model = build_model(MoSEForPreTraining, tiny_config(tie_word_embeddings=tied))
    decoder, embeddings = model.predictions.decoder, model.model.embed_tokens
    assert (decoder.weight is embeddings.weight) == tied
    model.resize_token_embeddings(330, mean_resizing=False)
    decoder = model.predictions.decoder
    assert decoder.weight.shape == (330, 32) and decoder.bias.shape == (330,)
    assert (decoder.weight is model.model.embed_tokens.weight) == tied
    assert model(**tiny_batch).prediction_logits.shape == (3, 9, 330)
    assert model.get_output_embeddings() is decoder


def test_autocast_trains_near_full_precision(pretraining, tiny_batch):
    labels = masked_labels(tiny_batch)
    expected = pretraining(**tiny_batch, labels=labels, context_labels=CONTEXT).loss
    with torch.autocast("cpu", torch.bfloat16):
        actual = pretraining(**tiny_batch, labels=labels, context_labels=CONTEXT).loss
    actual.backward()
    assert actual.dtype == torch.float32
    assert actual.item() == pytest.approx(expected.item(), rel=0.02)


def test_an_mlm_step_lowers_the_loss_at_every_exit(pretraining, tiny_batch):
    labels = masked_labels(tiny_batch)
    optimizer = torch.optim.SGD(pretraining.parameters(), lr=0.02)
    losses = []
    for _ in range(8):
        out = pretraining(**tiny_batch, labels=labels, context_labels=CONTEXT)
        losses.append(torch.cat((out.mlm_losses, out.icc_losses)))
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
    assert (losses[-1] < losses[0]).all()


def test_accuracies_are_shares_of_correct_predictions(pretraining, tiny_batch):
    labels = masked_labels(tiny_batch)
    chosen = labels != -100
    with torch.no_grad():
        logits = {e: plain_logits(pretraining, tiny_batch, e) for e in (0, 1, 3)}
        labels[chosen] = torch.where(
            torch.arange(chosen.sum()) % 2 == 0, logits[3][0][chosen].argmax(dim=1), labels[chosen]
        )
    out = pretraining(**tiny_batch, labels=labels, context_labels=CONTEXT)
    for index, (mlm, icc) in enumerate(logits.values()):
        assert out.mlm_accuracies[index] == (mlm.argmax(dim=2) == labels)[chosen].float().mean()
        assert out.icc_accuracies[index] == (icc.argmax(dim=1) == CONTEXT).float().mean()
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
    actual = torch.autograd.grad(sum(o.loss for o in out), list(pretraining.predictions.parameters()))
    torch.testing.assert_close(
        actual, torch.autograd.grad(whole.loss, list(pretraining.predictions.parameters()))
    )
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
