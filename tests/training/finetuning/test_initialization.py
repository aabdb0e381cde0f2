import copy
import itertools

import numpy as np
import pytest
import torch

from mose.configuration_mose import MoSEConfig
from mose.modeling_mose import MoSEModel
from mose.tokenization.prompts import CLS, MASK, PAD, SEP
from mose.training.finetuning.initialization import (
    fit_projection,
    grow,
    start_embeddings_from,
    start_exits_alike,
    start_from_trunk,
    token_strings,
)


def shallow_model(config: MoSEConfig, exit_layer: int, **changes) -> MoSEModel:
    config = copy.deepcopy(config)
    for name, value in changes.items():
        setattr(config, name, value)
    torch.manual_seed(3)
    model = MoSEModel(config, exit_layer=exit_layer).eval()
    for parameter in model.parameters():  # nothing may agree because it is still zero, or one
        torch.nn.init.normal_(parameter, std=0.1)
    return model


def all_exits(model: MoSEModel, exit_layers, batch) -> dict[int, torch.Tensor]:
    with torch.no_grad():
        return {e: model(**batch, exit_layer=e).pooler_output for e in exit_layers}


@pytest.fixture(scope="module")
def batch(tiny_tokenizer):
    texts = ["def add(first, second): return first", "Add two.", ""]
    return dict(tiny_tokenizer(texts, padding=True, return_tensors="pt", return_token_type_ids=False))


@pytest.mark.parametrize(("start", "end"), [(0, 1), (0, 3), (1, 3)])
@pytest.mark.parametrize("changes", [{}, {"pooling": "mean"}, {"use_bias": False}])
def test_a_grown_model_computes_what_the_shallow_one_did(trained_config, batch, start, end, changes):
    model = shallow_model(trained_config, start, **changes)
    grown = grow(model, end).eval()
    assert grown.exit_layers == tuple(e for e in trained_config.exit_layers if e <= end)
    assert len(grown.layers) == end
    before = all_exits(model, model.exit_layers, batch)
    for exit_layer, embedding in all_exits(grown, grown.exit_layers, batch).items():
        torch.testing.assert_close(embedding, before[min(exit_layer, start)], atol=1e-6, rtol=0)
    assert model.exit_layers[-1] == start  # the model that was given is left as it was


def test_growing_keeps_type_mode_and_configuration(trained_config):
    model = shallow_model(trained_config, 1).bfloat16()
    grown = grow(model, 3)
    assert grown.dtype == torch.bfloat16 and not grown.training and grow(model.train(), 3).training
    assert grown.config.exit_layer is None and model.config.exit_layer == 1
    assert grow(shallow_model(trained_config, 0), 1).config.exit_layer == 1


def test_new_blocks_and_exits_learn_and_share_no_memory(trained_config, batch):
    grown = grow(shallow_model(trained_config, 1), 3)
    prefixes = ("layers.1", "layers.2", "exits.3")
    new = {name: p for name, p in grown.named_parameters() if name.startswith(prefixes)}
    assert new
    before = {name: p.detach().clone() for name, p in new.items()}
    old_exit = grown.state_dict()["exits.1.projection.weight"].clone()
    optimizer = torch.optim.SGD(new.values(), lr=1.0)
    for _ in range(2):  # an output that starts at zero lets its block's inside learn one step later
        optimizer.zero_grad()
        grown(**batch).pooler_output[:, 0].sum().backward()
        optimizer.step()
    # A key's bias shifts all scores of a row alike: softmax does not see it.
    still = [n for n, p in new.items() if torch.equal(p, before[n]) and "k_proj.bias" not in n]
    assert not still
    assert torch.equal(grown.state_dict()["exits.1.projection.weight"], old_exit)


def test_what_cannot_be_grown(trained_config):
    with pytest.raises(ValueError, match="exit_layer must be one of 0, 1, 3, got 2"):
        grow(shallow_model(trained_config, 0), 2)
    with pytest.raises(ValueError, match="exit_layer must be above the model's exit 1, got 1"):
        grow(shallow_model(trained_config, 1), 1)
    final = shallow_model(trained_config, 0, exit_norm="final")
    assert grow(final, 1).exit_layers == (0, 1)
    with pytest.raises(ValueError, match="exit_layer must be below 3, got 3: exit_norm='final'"):
        grow(final, 3)


def test_exits_that_start_alike_project_alike_and_learn_apart(trained_config, batch):
    model = shallow_model(trained_config, 3)
    before = copy.deepcopy(model.state_dict())
    start_exits_alike(model)
    for name, value in model.state_dict().items():
        expected = f"exits.3.{name.split('.', 2)[2]}" if ".projection." in name else name
        assert torch.equal(value, before[expected]), name
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    model(**batch, exit_layer=1).pooler_output[:, 0].sum().backward()
    optimizer.step()
    weights = [model.get_parameter(f"exits.{e}.projection.weight") for e in (0, 1, 3)]
    assert torch.equal(weights[0], weights[2]) and not torch.equal(weights[1], weights[2])  # no memory is shared


def test_token_strings_are_what_tokens_spell(tiny_tokenizer):
    strings = token_strings(tiny_tokenizer)
    assert len(strings) == len(tiny_tokenizer)
    for token in (SEP, CLS, MASK, PAD, "a", "+"):
        assert strings[tiny_tokenizer.convert_tokens_to_ids(token)] == token
    spaced = [i for i in range(len(tiny_tokenizer)) if tiny_tokenizer.decode([i]).strip(" _\n\t")]
    assert all(strings[i] == tiny_tokenizer.decode([i]).strip(" _\n\t") for i in spaced)
    # What is nothing but spaces and underscores stays as it is: a teacher is never asked about "".
    assert " " in strings and "_" in strings and "" not in strings


def teacher_vectors(tokenizer, dim, seed=0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    vectors = generator.standard_normal((len(tokenizer), dim)) * np.linspace(1, 5, dim) + 3
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


def test_embeddings_start_as_whitened_principal_components(trained_config, tiny_tokenizer):
    model = MoSEModel(trained_config)
    vectors = teacher_vectors(tiny_tokenizer, 40)
    before = model.state_dict()["embed_tokens.weight"].clone()
    start_embeddings_from(model, tiny_tokenizer, vectors)
    centred = vectors.astype(np.float64) - vectors.astype(np.float64).mean(axis=0)
    variances, axes = np.linalg.eigh(np.cov(centred.T))  # ascending; another route than the SVD
    expected = centred @ axes[:, ::-1][:, :32] / np.sqrt(variances[::-1][:32])
    np.testing.assert_allclose(np.cov(expected.T), np.eye(32), atol=1e-9)
    expected /= np.sqrt((expected**2).mean(axis=1, keepdims=True))
    ordinary = np.array([i for i in range(len(tiny_tokenizer)) if i not in tiny_tokenizer.all_special_ids])
    found = model.state_dict()["embed_tokens.weight"].numpy()
    signs = np.sign((found[ordinary] * expected[ordinary]).sum(axis=0))  # an axis may point either way
    np.testing.assert_allclose(found[ordinary] * signs, expected[ordinary], atol=1e-4)
    np.testing.assert_allclose((found[ordinary] ** 2).mean(axis=1), 1, atol=1e-5)
    special = tiny_tokenizer.all_special_ids
    assert len(special) == 4 and torch.equal(model.state_dict()["embed_tokens.weight"][special], before[special])


def test_tokens_that_spell_the_same_start_as_one(trained_config, tiny_tokenizer, tiny_teacher, tmp_path):
    from mose.training.finetuning.teacher import teacher_embeddings

    model = MoSEModel(trained_config)
    strings = token_strings(tiny_tokenizer)
    start_embeddings_from(model, tiny_tokenizer, teacher_embeddings(strings, tiny_teacher, tmp_path))
    twins = {i: strings.index(s) for i, s in enumerate(strings) if strings.index(s) != i}
    assert twins
    weight = model.state_dict()["embed_tokens.weight"]
    assert all(torch.equal(weight[i], weight[j]) for i, j in twins.items())
    different = itertools.pairwise(sorted({strings.index(s) for s in strings}))
    assert not any(torch.equal(weight[i], weight[j]) for i, j in different)


def test_rows_beyond_the_tokenizer_are_left_alone(trained_config, tiny_tokenizer):
    config = copy.deepcopy(trained_config)
    config.vocab_size += 5
    model = MoSEModel(config)
    before = model.state_dict()["embed_tokens.weight"][-5:].clone()
    start_embeddings_from(model, tiny_tokenizer, teacher_vectors(tiny_tokenizer, 40))
    assert torch.equal(model.state_dict()["embed_tokens.weight"][-5:], before)


def test_teachers_that_do_not_fit(trained_config, tiny_tokenizer):
    model, tokens = MoSEModel(trained_config), len(tiny_tokenizer)
    with pytest.raises(ValueError, match=f"There must be {tokens} teacher vectors, one per token, got 7"):
        start_embeddings_from(model, tiny_tokenizer, np.ones((7, 40)))
    with pytest.raises(ValueError, match="must span at least 32 dimensions, got 1[56]"):
        start_embeddings_from(model, tiny_tokenizer, teacher_vectors(tiny_tokenizer, 16))
    flat = teacher_vectors(tiny_tokenizer, 40)
    flat[:, 10:] = 0
    with pytest.raises(ValueError, match="must span at least 32 dimensions, got 1[01]"):
        start_embeddings_from(model, tiny_tokenizer, flat)
    config = copy.deepcopy(trained_config)
    config.vocab_size = 100
    with pytest.raises(ValueError, match=f"at most vocab_size=100 tokens, got {tokens}"):
        start_embeddings_from(MoSEModel(config), tiny_tokenizer, teacher_vectors(tiny_tokenizer, 40))


@pytest.mark.parametrize("use_bias", [True, False])
def test_a_projection_is_fitted_to_what_enters_it(trained_config, use_bias):
    model = shallow_model(trained_config, 1, use_bias=use_bias)
    generator = torch.Generator().manual_seed(0)
    batches = [
        (torch.randint(4, 300, (20, 9), generator=generator), torch.ones(20, 9, dtype=torch.long))
        for _ in range(6)
    ]
    # Targets that a projection can reach: those of another one.
    goal = shallow_model(trained_config, 1, use_bias=use_bias)
    torch.nn.init.normal_(goal.get_parameter("exits.1.projection.weight"), generator=generator)
    if use_bias:
        torch.nn.init.normal_(goal.get_parameter("exits.1.projection.bias"), std=3.0, generator=generator)
    with torch.no_grad():
        targets = torch.cat([goal(*batch).pooler_output for batch in batches])
        untouched = model(*batches[0], exit_layer=0).pooler_output
        fit_projection(model, 1, batches, targets)
        found = torch.cat([model(*batch).pooler_output for batch in batches])
        assert torch.equal(model(*batches[0], exit_layer=0).pooler_output, untouched)
    assert (found * targets).sum(dim=1).min() > 0.99


def test_a_fitted_projection_is_the_ridge_regression(trained_config):
    model = shallow_model(trained_config, 0)
    ids = torch.randint(4, 300, (50, 7), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    targets = torch.nn.functional.normalize(
        torch.randn(50, 32, generator=torch.Generator().manual_seed(1)), dim=1
    )
    exit_ = model.get_submodule("exits.0")
    with torch.no_grad():  # the gate's weighted mean of the normed states, by hand
        normed = exit_.get_submodule("norm")(model.embed_tokens(ids))
        pooled = (exit_.get_submodule("gate")(normed, mask)[..., None] * normed).sum(dim=1).double().numpy()
    fit_projection(model, 0, [(ids[:30], mask[:30]), (ids[30:], mask[30:])], targets)
    inputs = np.concatenate([pooled, np.ones((50, 1))], axis=1)
    penalty = np.sqrt(1e-3 * (inputs**2).sum(axis=0).mean()) * np.eye(33)
    rows, goals = np.concatenate([inputs, penalty]), np.concatenate([targets.numpy(), np.zeros((33, 32))])
    expected = np.linalg.lstsq(rows, goals)[0]
    np.testing.assert_allclose(
        model.get_parameter("exits.0.projection.weight").detach(), expected[:32].T, atol=1e-5
    )
    np.testing.assert_allclose(model.get_parameter("exits.0.projection.bias").detach(), expected[32], atol=1e-5)
    with pytest.raises(ValueError, match="at least hidden_size=32 texts, got 31"):
        fit_projection(model, 0, [(ids[:31], mask[:31])], targets[:31])


def test_a_trunk_gives_its_blocks_and_norms_and_no_heads(trained_config):
    trunk = shallow_model(trained_config, 3)
    state = trunk.state_dict()
    weights = {f"model.{name}": tensor for name, tensor in state.items() if not name.startswith("exits.0.")}
    weights["lm_head.bias"] = torch.ones(3)
    model = shallow_model(trained_config, 3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 1
    own = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    start_from_trunk(model, weights)

    for name, tensor in model.state_dict().items():
        is_own = any(part in name for part in ("gate", "projection", "similarity_scale"))
        source = name.replace("exits.0.", "exits.1.")  # the next deeper exit's
        torch.testing.assert_close(tensor, own[name] if is_own else state[source], rtol=0, atol=0)

    del weights["model.layers.0.mlp.c_fc.weight"]
    with pytest.raises(ValueError, match="must have layers.0.mlp.c_fc.weight of .*, got nothing"):
        start_from_trunk(model, weights)
