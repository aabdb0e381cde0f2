"""`MoSEForSequenceClassification`: logits and losses at every exit."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from mose.modeling_mose import MoSEForPreTraining, MoSEForSequenceClassification


@pytest.fixture
def classification(build_model, tiny_config) -> MoSEForSequenceClassification:
    return build_model(MoSEForSequenceClassification, tiny_config(num_labels=3))


def plain_class_logits(model, batch, exit_layer: int) -> torch.Tensor:
    states = model.model(**batch, exit_layer=exit_layer).last_hidden_state
    last = [int(row.nonzero().max()) for row in batch["attention_mask"]]
    head = model.classifiers[str(exit_layer)]
    return head.out_proj(torch.tanh(head.dense(states[range(len(last)), last])))


def test_the_classifier_works_at_every_exit(classification, tiny_batch):
    for exit_layer in (0, 1, 3):
        actual = classification(**tiny_batch, exit_layer=exit_layer).logits
        torch.testing.assert_close(actual, plain_class_logits(classification, tiny_batch, exit_layer))
    every = classification(**tiny_batch, output_all_exits=True)
    assert torch.equal(every.logits, every.exit_logits[-1])
    for exit_layer, logits in zip((0, 1, 3), every.exit_logits, strict=True):
        assert torch.equal(logits, classification(**tiny_batch, exit_layer=exit_layer).logits)
    assert classification(**tiny_batch).exit_logits is None


def test_the_loss_covers_every_exit_or_the_chosen_one(classification, tiny_batch):
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
def test_the_problem_type_follows_from_the_labels(
    build_model, tiny_config, tiny_batch, num_labels, labels, problem_type, loss, named
):
    config = tiny_config(num_labels=num_labels, problem_type=problem_type if named else None)
    model = build_model(MoSEForSequenceClassification, config)
    actual = model(**tiny_batch, labels=labels, exit_layer=1)
    assert model.config.problem_type == problem_type
    torch.testing.assert_close(actual.loss, loss(plain_class_logits(model, tiny_batch, 1), labels))


def test_multi_label_targets_may_be_integers(build_model, tiny_config, tiny_batch):
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
                actual = model(padded, attention_mask=mask, exit_layer=exit_layer)[field]
                torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("head", ["pretraining", "classification"])
def test_heads_return_hidden_states_attentions_and_tuples(head, tiny_batch, request):
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
