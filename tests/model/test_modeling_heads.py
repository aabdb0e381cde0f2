"""The heads: the pre-training loss against one that keeps every logit, and the classifier."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pretraining_reference import CONTEXT, masked_labels, plain_logits, plain_loss
from torch.nn import functional as F

from mose import modeling_mose
from mose.modeling_mose import MoSEForPreTraining, MoSEForSequenceClassification


@pytest.fixture
def pretraining(build_model, tiny_config) -> MoSEForPreTraining:
    return build_model(MoSEForPreTraining, tiny_config())


@pytest.fixture
def classification(build_model, tiny_config) -> MoSEForSequenceClassification:
    return build_model(MoSEForSequenceClassification, tiny_config(num_labels=3))


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

    found = model(**tiny_batch, labels=labels, context_labels=CONTEXT, exit_layer=exit_layer)
    expected = plain_loss(model, tiny_batch, labels, CONTEXT, exits)
    torch.testing.assert_close(found.loss, expected, atol=1e-8, rtol=0)
    torch.testing.assert_close(gradients(found.loss), gradients(expected), atol=1e-8, rtol=0)
    assert len(found.mlm_losses) == len(found.icc_losses) == len(exits)
    weights = torch.tensor([max(e, 1) / 3 for e in exits], dtype=torch.float64)
    assert not found.mlm_losses.requires_grad
    torch.testing.assert_close((weights * (found.mlm_losses + found.icc_losses)).sum(), expected.detach())


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


def test_the_heads_know_the_exit(pretraining, tiny_batch):
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
    found = cut(**tiny_batch, labels=labels, context_labels=CONTEXT)
    assert torch.equal(found.loss, expected.loss)
    assert torch.equal(found.context_logits, expected.context_logits)


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
        found = pretraining(**tiny_batch, labels=labels, context_labels=CONTEXT).loss
    found.backward()
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(expected.item(), rel=0.02)


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


# --- Classification ----------------------------------------------------------------------------------------


def plain_class_logits(model, batch, exit_layer: int) -> torch.Tensor:
    states = model.model(**batch, exit_layer=exit_layer).last_hidden_state
    last = [int(row.nonzero().max()) for row in batch["attention_mask"]]
    head = model.classifiers[str(exit_layer)]
    return head.out_proj(torch.tanh(head.dense(states[range(len(last)), last])))


def test_the_classifier_works_at_every_exit(classification, tiny_batch):
    for exit_layer in (0, 1, 3):
        found = classification(**tiny_batch, exit_layer=exit_layer).logits
        torch.testing.assert_close(found, plain_class_logits(classification, tiny_batch, exit_layer))
    every = classification(**tiny_batch, output_all_exits=True)
    assert torch.equal(every.logits, every.exit_logits[-1])
    for exit_layer, logits in zip((0, 1, 3), every.exit_logits, strict=True):
        assert torch.equal(logits, classification(**tiny_batch, exit_layer=exit_layer).logits)
    assert classification(**tiny_batch).exit_logits is None


def test_the_loss_is_that_of_every_exit_or_of_the_one_named(classification, tiny_batch):
    labels = torch.tensor([0, 2, 1])
    each = {e: F.cross_entropy(plain_class_logits(classification, tiny_batch, e), labels) for e in (0, 1, 3)}
    out = classification(**tiny_batch, labels=labels)
    torch.testing.assert_close(out.loss, each[0] / 3 + each[1] / 3 + each[3])
    torch.testing.assert_close(out.exit_losses, torch.stack(list(each.values())))
    assert not out.exit_losses.requires_grad
    for exit_layer, loss in each.items():
        out = classification(**tiny_batch, labels=labels, exit_layer=exit_layer)
        torch.testing.assert_close(out.loss, loss)
        torch.testing.assert_close(out.exit_losses, loss[None])
    out = classification(**tiny_batch, labels=labels, exit_layer=3, output_all_exits=True)
    torch.testing.assert_close(out.loss, each[3])
    assert len(out.exit_logits) == 3


@pytest.mark.parametrize(
    ("num_labels", "labels", "problem_type", "loss"),
    [
        (1, torch.tensor([0.5, -1.0, 2.0]), "regression", lambda x, y: F.mse_loss(x[:, 0], y)),
        (1, torch.tensor([[1], [0], [2]]), "regression", lambda x, y: F.mse_loss(x, y.float())),
        (3, torch.tensor([0, 2, 1]), "single_label_classification", F.cross_entropy),
        (
            3,
            torch.tensor([[0.0, 1, 1], [1, 0, 0], [0, 0, 0]]),
            "multi_label_classification",
            F.binary_cross_entropy_with_logits,
        ),
    ],
)
@pytest.mark.parametrize("named", [False, True])
def test_the_problem_follows_from_the_labels(
    build_model, tiny_config, tiny_batch, num_labels, labels, problem_type, loss, named
):
    config = tiny_config(num_labels=num_labels, problem_type=problem_type if named else None)
    model = build_model(MoSEForSequenceClassification, config)
    found = model(**tiny_batch, labels=labels, exit_layer=1)
    assert model.config.problem_type == problem_type
    torch.testing.assert_close(found.loss, loss(plain_class_logits(model, tiny_batch, 1), labels))


def test_several_labels_may_be_integers(build_model, tiny_config, tiny_batch):
    config = tiny_config(num_labels=3, problem_type="multi_label_classification")
    model = build_model(MoSEForSequenceClassification, config)
    labels = torch.tensor([[0, 1, 1], [1, 0, 0], [0, 0, 0]])
    assert torch.equal(model(**tiny_batch, labels=labels).loss, model(**tiny_batch, labels=labels.float()).loss)


@settings(max_examples=10, deadline=None)
@given(amount=st.integers(0, 5), side=st.sampled_from(["left", "right"]), length=st.integers(1, 12))
def test_heads_do_not_see_the_padding(tiny_config, build_model, amount, side, length):
    ids = torch.randint(0, 320, (1, length))
    padding = (amount, 0) if side == "left" else (0, amount)
    padded, mask = F.pad(ids, padding), F.pad(torch.ones_like(ids), padding)
    for model_class, field in (
        (MoSEForSequenceClassification, "logits"),
        (MoSEForPreTraining, "context_logits"),
    ):
        model = build_model(model_class, tiny_config())
        with torch.no_grad():
            for exit_layer in (0, 1, 3):
                expected = model(ids, exit_layer=exit_layer)[field]
                found = model(padded, attention_mask=mask, exit_layer=exit_layer)[field]
                torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("head", ["pretraining", "classification"])
def test_states_and_tuples_are_given_where_asked_for(head, tiny_batch, request):
    model = request.getfixturevalue(head)
    model.set_attn_implementation("eager")
    out = model(**tiny_batch, exit_layer=1, output_hidden_states=True, output_attentions=True)
    expected = model.model(**tiny_batch, exit_layer=1, output_hidden_states=True, output_attentions=True)
    torch.testing.assert_close(out.hidden_states, expected.hidden_states)
    torch.testing.assert_close(out.attentions, expected.attentions)
    parts = model(**tiny_batch, return_dict=False)
    assert isinstance(parts, tuple)
    torch.testing.assert_close(parts, model(**tiny_batch).to_tuple())


def test_the_classifier_trains_at_every_exit(classification, tiny_batch):
    classification(**tiny_batch, labels=torch.tensor([0, 2, 1])).loss.backward()
    still = {name for name, p in classification.named_parameters() if p.grad is None or not p.grad.any()}
    # What makes an embedding of normed states, and biases that the attention's softmax cancels.
    embeds = ("gate", "projection", "similarity_scale", "k_proj.bias")
    assert not {name for name in still if not any(part in name for part in embeds)}
