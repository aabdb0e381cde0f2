"""GradCache against one pass over the whole batch, and against a loop that keeps its graph."""

import copy
from contextlib import nullcontext

import pytest
import torch

from mose.modeling_mose import MoSEModel
from mose.training.finetuning.gradcache import Ranks, embed, gather, gather_ranks, graph_tokens
from mose.training.finetuning.objective import Batch, Objective
from mose.training.losses import clip_loss, weighted_sum

EXITS = (0, 1, 3)
LENGTHS = (9, 2, 5, 12, 1, 7, 12)


@pytest.fixture
def sides():
    """Seven pairs of unlike lengths; queries padded on the left, documents on the right."""
    generator = torch.Generator().manual_seed(4)
    places = torch.arange(12)
    lengths = torch.tensor(LENGTHS)[:, None]
    masks = [(places >= 12 - lengths).long(), (places < lengths.flip(0)).long()]
    return [(torch.randint(4, 320, mask.shape, generator=generator) * mask, mask) for mask in masks]


def model_of(tiny_model, dropout=0.0, dtype=torch.float64) -> MoSEModel:
    model = copy.deepcopy(tiny_model).to(dtype).train()
    for name in ("attention_dropout", "residual_dropout", "embedding_dropout"):
        setattr(model.config, name, dropout)
    for block in model.layers:
        block.mlp.dropout = dropout
    return model


def gradients(model) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_equal_gradients(found, expected, atol):
    assert found.keys() == expected.keys() and len(found) > 10
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=atol, rtol=0, msg=lambda m, n=name: f"{n}: {m}")


def by_hand(model, sides, size):
    """Embeddings with their graph, each mini-batch through the model at once: longest first, queries before
    documents, so that dropout draws as it does in `embed`."""
    found = []
    for ids, mask in sides:
        order = sorted(range(len(ids)), key=lambda row: -int(mask[row].sum()))
        of_exit = {e: [None] * len(ids) for e in model.exit_layers}
        for start in range(0, len(ids), size):
            rows = order[start : start + size]
            longest = int(mask[rows[0]].sum())
            cut = slice(None, longest) if mask[rows[0], 0] else slice(-longest, None)
            cut = slice(None) if longest == mask.shape[1] else cut
            output = model(ids[rows][:, cut], mask[rows][:, cut], output_all_exits=True)
            for e, embeddings in zip(model.exit_layers, output.exit_embeddings, strict=True):
                for row, embedding in zip(rows, embeddings, strict=True):
                    of_exit[e][row] = embedding
        found.append({e: torch.stack(rows) for e, rows in of_exit.items()})
    return found, output.similarity_scale


def total(queries, documents, scale, weights):
    return weighted_sum({e: clip_loss(queries[e], documents[e], scale) for e in queries}, weights)


# --- embeddings --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mini_batch_size", [1, 3, 100])
@pytest.mark.parametrize("grad", [True, False])
def test_mini_batches_do_not_show(tiny_model, sides, mini_batch_size, grad):
    model = model_of(tiny_model)
    with nullcontext() if grad else torch.no_grad():
        found, scale = embed(model, sides, mini_batch_size)
    assert scale.item() == pytest.approx(model.similarity_scale.item())
    for (ids, mask), side in zip(sides, found, strict=True):
        assert tuple(side) == EXITS
        for exit_layer, embeddings in side.items():
            with torch.no_grad():
                whole = model(ids, mask, exit_layer=exit_layer).pooler_output
            torch.testing.assert_close(embeddings.detach(), whole, atol=1e-12, rtol=0)
            assert embeddings.requires_grad == grad
    assert not torch.allclose(found[0][3][0], found[0][3][1])  # a wrong order would show


def test_texts_of_like_length_go_together(tiny_model):
    lengths = torch.tensor([40, 2, 39, 3, 1, 38])
    mask = (torch.arange(40) >= 40 - lengths[:, None]).long()
    shapes = []

    def hook(module, args, kwargs):
        shapes.append(tuple(kwargs["input_ids"].shape))

    tiny_model.register_forward_pre_hook(hook, with_kwargs=True)
    with torch.no_grad():
        embed(tiny_model, [(torch.full((6, 40), 9), mask)], 3)
    assert shapes == [(3, 40), (3, 3)]


def test_a_model_on_several_devices_gives_one_scale(tiny_model, sides):
    class Replicated(torch.nn.Module):
        """Gathers as `DataParallel` does: the embeddings of all parts, and a scale from each."""

        def __init__(self, module):
            super().__init__()
            self.module = module

        def forward(self, **batch):
            output = self.module(**batch)
            output.similarity_scale = output.similarity_scale.repeat(2)
            return output

    gradients = []
    for wrap in (Replicated, lambda model: model):
        model = model_of(tiny_model)
        model.zero_grad()
        (queries, documents), scale = embed(wrap(model), sides, 3)
        assert scale.shape == (1,)
        total(queries, documents, scale, model.config.exit_weights).backward()
        gradients.append(model.similarity_scale.grad.clone())
    torch.testing.assert_close(*gradients)


def test_an_empty_side_has_embeddings_of_no_texts(tiny_model, sides):
    nothing = (torch.zeros(0, 1, dtype=torch.long), torch.zeros(0, 1, dtype=torch.long))
    found, _ = embed(tiny_model, [*sides, nothing], 3)
    assert {e: embeddings.shape for e, embeddings in found[2].items()} == dict.fromkeys(EXITS, (0, 32))


# --- gradients ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("exit_layer", [*EXITS, None])
@pytest.mark.parametrize("mini_batch_size", [1, 3, 100])
def test_gradients_are_those_of_the_whole_batch(tiny_model, sides, exit_layer, mini_batch_size):
    """At each exit alone, and at all together; seven pairs, which no mini-batch divides."""
    model = model_of(tiny_model)
    weights = {e: float(e == exit_layer) for e in EXITS} if exit_layer is not None else model.config.exit_weights
    queries, documents = ({e: model(ids, mask, exit_layer=e).pooler_output for e in EXITS} for ids, mask in sides)
    total(queries, documents, model.similarity_scale.clamp(1e-4, 30), weights).backward()
    expected = gradients(model)
    assert expected["similarity_scale"].abs() > 1e-6
    model.zero_grad()
    (queries, documents), scale = embed(model, sides, mini_batch_size)
    total(queries, documents, scale, weights).backward()
    assert_equal_gradients(gradients(model), expected, 1e-9)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # gradient_checkpointing is to get another name
@pytest.mark.parametrize("checkpointing", [False, True])
def test_dropout_draws_the_same_masks_again(tiny_model, sides, checkpointing):
    model = model_of(tiny_model, dropout=0.3)
    weights = model.config.exit_weights
    torch.manual_seed(11)
    (queries, documents), scale = by_hand(model, sides, 3)
    reference = total(queries, documents, scale, weights)
    reference.backward()
    expected, after = gradients(model), torch.get_rng_state()
    model.zero_grad()
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    torch.manual_seed(11)
    (queries, documents), scale = embed(model, sides, 3)
    loss = total(queries, documents, scale, weights)
    assert torch.equal(torch.get_rng_state(), after)
    loss.backward()
    assert torch.equal(torch.get_rng_state(), after)  # or the next step would draw these masks once more
    assert loss.item() == pytest.approx(reference.item(), abs=1e-12)
    assert_equal_gradients(gradients(model), expected, 1e-9)
    model.zero_grad()
    (queries, documents), scale = embed(model, sides, 3)  # other masks: the test above can fail
    total(queries, documents, scale, weights).backward()
    assert (gradients(model)["embed_tokens.weight"] - expected["embed_tokens.weight"]).abs().max() > 1e-3


@pytest.mark.parametrize("around_backward", [False, True])
def test_autocast_is_the_same_in_both_passes(tiny_model, sides, around_backward):
    model = model_of(tiny_model, dropout=0.2, dtype=torch.float32)

    def run(how):
        model.zero_grad()
        torch.manual_seed(3)
        with torch.autocast("cpu", torch.bfloat16):
            (queries, documents), scale = how(model, sides, 3)
            loss = total(queries, documents, scale, model.config.exit_weights)
            if around_backward:
                loss.backward()
        if not around_backward:
            loss.backward()
        return gradients(model)

    found, expected = run(embed), run(by_hand)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():  # which adds up its mini-batches in bf16
        assert (found[name] - gradient).norm() < 0.03 * gradient.norm() + 1e-4, name


def test_accumulated_losses_add_up(tiny_model, sides):
    model = model_of(tiny_model)
    for _ in range(2):
        (queries, documents), scale = embed(model, sides, 2)
        (total(queries, documents, scale, model.config.exit_weights) / 2).backward()
    found = gradients(model)
    model.zero_grad()
    (queries, documents), scale = by_hand(model, sides, 7)
    total(queries, documents, scale, model.config.exit_weights).backward()
    assert_equal_gradients(found, gradients(model), 1e-9)


def test_each_text_goes_through_the_trunk_twice_and_no_graph_is_kept(tiny_model, sides):
    model = model_of(tiny_model)
    passes = []
    model.register_forward_hook(lambda *_: passes.append(torch.is_grad_enabled()))
    (queries, documents), scale = embed(model, sides, 3)
    assert passes == [False] * 6  # three mini-batches of either side
    total(queries, documents, scale, model.config.exit_weights).backward()
    assert passes == [False] * 6 + [True] * 6


@pytest.mark.parametrize(
    "settings", [{"align_weight": 0.7}, {"distillation": "kl"}, {"matryoshka_dims": (32, 8)}]
)
def test_every_objective_goes_through_the_cache(tiny_model, sides, settings):
    model = model_of(tiny_model)
    objective = Objective(**settings)

    def run(how, size):
        model.zero_grad()
        (queries, documents), scale = how(model, sides, size)
        loss, _ = objective(Batch(queries, documents, scale), model.config.exit_weights)
        loss.backward()
        return gradients(model)

    assert_equal_gradients(run(embed, 3), run(by_hand, 7), 1e-9)


# --- several processes: what one of them needs of it; two of them are in test_ranks.py ---------------------


def test_one_process_gathers_nothing():
    rows = torch.randn(3, 2, requires_grad=True)
    alone = gather_ranks(3)
    assert alone == Ranks((3,), 0) and alone.rows == range(3) and alone.share == 1.0
    assert gather(rows, alone) is rows


def test_shares_make_the_mean_of_means_the_mean_over_all():
    lengths, values = (3, 1, 4), torch.arange(8.0)
    of_ranks = [Ranks(lengths, rank) for rank in range(3)]
    assert [list(each.rows) for each in of_ranks] == [[0, 1, 2], [3], [4, 5, 6, 7]]
    means = [each.share * values[each.rows.start : each.rows.stop].mean() for each in of_ranks]
    assert torch.stack(means).mean() == values.mean()


@pytest.mark.parametrize("kept_tokens", [25, 50, 10_000])
def test_kept_graphs_change_no_gradient_and_spare_the_second_pass(tiny_model, sides, kept_tokens):
    model = model_of(tiny_model)
    passes = []
    hook = model.register_forward_hook(lambda *_: passes.append(torch.is_grad_enabled()))
    results = []
    for kept in (0, kept_tokens):
        model.zero_grad()
        (queries, documents), scale = embed(model, sides, 2, kept)
        total(queries, documents, scale, model.config.exit_weights).backward()
        results.append((gradients(model), len(passes)))
        passes.clear()
    hook.remove()

    (expected, twice), (actual, fewer) = results
    assert fewer < twice and (kept_tokens < 10_000 or 2 * fewer == twice)
    for name, gradient in expected.items():
        torch.testing.assert_close(actual[name], gradient, atol=1e-6, rtol=1e-4)


def test_graphs_are_kept_within_the_memory(tiny_config):
    config = tiny_config()
    assert graph_tokens(config, 16, 0) == 0
    assert graph_tokens(config, 16, 100) > graph_tokens(config, 64, 100) > 0
    assert graph_tokens(tiny_config(exit_layer=1), 16, 100) > graph_tokens(config, 16, 100)
