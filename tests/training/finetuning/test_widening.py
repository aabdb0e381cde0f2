"""A wider model begins with what the narrow one knows, and its new parts learn."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from mose.configuration_mose import MoSEConfig
from mose.modeling_mose import MoSEModel
from mose.training.finetuning.widening import widen_model, wider_config

SIZES = {"hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48}


def narrow_model(config: MoSEConfig, **changes) -> MoSEModel:
    torch.manual_seed(3)
    model = MoSEModel(MoSEConfig.from_dict(config.to_dict() | SIZES | changes)).eval()
    for parameter in model.parameters():  # nothing may agree because it is still zero, or one
        torch.nn.init.normal_(parameter, std=0.1)
    return model


def vectors_of(tokenizer, dim: int = 70) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((len(tokenizer), dim)).astype(np.float32) + 0.3


def embed(model: MoSEModel, batch, exit_layer: int) -> torch.Tensor:
    with torch.no_grad():
        return model(**batch, exit_layer=exit_layer).pooler_output


@pytest.fixture(scope="module")
def batch(tiny_tokenizer):
    texts = ["def add(first, second): return first", "Add two.", ""]
    return dict(tiny_tokenizer(texts, padding=True, return_tensors="pt", return_token_type_ids=False))


@pytest.mark.parametrize("changes", [{}, {"pooling": "mean"}, {"use_bias": False}, {"projection_layers": 2}])
def test_exit_0_of_a_wider_model_begins_with_the_narrow_embedding(trained_config, tiny_tokenizer, batch, changes):
    model = narrow_model(trained_config, **changes)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    wide = widen_model(model, 48, tiny_tokenizer, vectors_of(tiny_tokenizer))
    begins = F.normalize(embed(wide, batch, 0)[:, :32], dim=1)
    torch.testing.assert_close(begins, embed(model, batch, 0), atol=1e-5, rtol=0)
    assert all(tensor.equal(before[name]) for name, tensor in model.state_dict().items())


def test_every_exit_is_the_same_where_blocks_add_nothing(trained_config, tiny_tokenizer, batch):
    model = narrow_model(trained_config)
    for name, parameter in model.named_parameters():
        if "o_proj" in name or "c_proj" in name:
            torch.nn.init.zeros_(parameter)
    wide = widen_model(model, 64, tiny_tokenizer, vectors_of(tiny_tokenizer))
    for exit_layer in model.exit_layers:
        begins = F.normalize(embed(wide, batch, exit_layer)[:, :32], dim=1)
        torch.testing.assert_close(begins, embed(model, batch, exit_layer), atol=1e-5, rtol=0)


def test_deeper_exits_change_little_where_blocks_add_little(trained_config, tiny_tokenizer, batch):
    model = narrow_model(trained_config)
    with torch.no_grad():
        model.embed_tokens.weight.normal_()  # as trained models have it; blocks add a tenth of that
        for name, parameter in model.named_parameters():
            if "o_proj" in name or "c_proj" in name:
                parameter += 0.5  # the same in every dimension, which the next norm takes off
    model.set_attn_implementation("eager")
    wide = widen_model(model, 48, tiny_tokenizer, vectors_of(tiny_tokenizer))
    assert wide.config._attn_implementation == "eager"
    for exit_layer in model.exit_layers[1:]:
        alike = F.cosine_similarity(embed(wide, batch, exit_layer)[:, :32], embed(model, batch, exit_layer))
        assert alike.min() > 0.98, exit_layer


def test_new_dimensions_are_small_and_the_same_at_every_exit(trained_config, tiny_tokenizer, batch):
    model = narrow_model(trained_config)
    for name, parameter in model.named_parameters():
        if "o_proj" in name or "c_proj" in name:
            torch.nn.init.zeros_(parameter)  # every exit reads the same states
        elif name.startswith("exits.") and "projection" not in name:
            torch.nn.init.ones_(parameter)
    wide = widen_model(model, 48, tiny_tokenizer, vectors_of(tiny_tokenizer))
    first, *others = (embed(wide, batch, exit_layer)[:, 32:] for exit_layer in wide.exit_layers)
    assert first.norm(dim=1).min() > 0.001 and first.norm(dim=1).max() < 0.5
    for other in others:
        assert F.cosine_similarity(other, first).min() > 0.999


def test_sizes_that_a_narrow_model_was_trained_for_are_kept_once(trained_config):
    config = MoSEConfig.from_dict(trained_config.to_dict() | SIZES | {"matryoshka_dims": [32, 16]})
    assert wider_config(config, 48).matryoshka_dims == [32, 16]
    config.matryoshka_dims = [16]
    assert wider_config(config, 48).matryoshka_dims == [32, 16]
    with pytest.raises(ValueError, match="hidden_size must be a multiple of 16, .* above 32, got 40"):
        wider_config(config, 40)


def test_new_dimensions_hold_what_the_teachers_add_to_the_embeddings(trained_config, tiny_tokenizer):
    # Vectors of a linear part, which the embeddings tell, and 16 directions that they do not.
    model = narrow_model(trained_config)
    generator = np.random.default_rng(1)
    old = model.embed_tokens.weight.detach().double().numpy()[: len(tiny_tokenizer)]
    hidden = generator.standard_normal((len(old), 16))
    vectors = 3 * old @ generator.standard_normal((32, 60)) + hidden @ generator.standard_normal((16, 60)) + 2
    wide = widen_model(model, 48, tiny_tokenizer, vectors)

    weight = wide.embed_tokens.weight.detach().double().numpy()[: len(tiny_tokenizer)]
    ordinary = sorted(set(range(len(weight))) - set(tiny_tokenizer.all_special_ids))
    # Each row has a scale of its own, so what is the same is its direction.
    rows = weight[ordinary, 32:]
    known = np.column_stack((old[ordinary], np.ones(len(ordinary))))
    part = hidden[ordinary] - known @ np.linalg.lstsq(known, hidden[ordinary], rcond=None)[0]
    part = np.linalg.solve(np.linalg.cholesky(np.cov(part.T)), part.T).T  # white, in some rotation
    part -= part.mean(axis=0)

    # Tokens that are alike in one are alike in the other.
    left, right = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (rows, part))
    same = np.corrcoef((left @ left.T).ravel(), (right @ right.T).ravel())[0, 1]
    assert same > 0.9
    assert np.allclose(weight.mean(axis=1), 0, atol=1e-6)
    assert np.allclose(weight[:, :32].std(axis=1), weight[:, 32:].std(axis=1), atol=1e-5)


def test_the_configuration_keeps_the_size_of_a_head_and_its_groups(trained_config, tiny_tokenizer):
    model = narrow_model(trained_config, matryoshka_dims=[16, 8], aligned_exits=True).bfloat16().train()
    wide = widen_model(model, 48, tiny_tokenizer, vectors_of(tiny_tokenizer))
    config = wide.config
    assert (config.num_attention_heads, config.num_key_value_heads, config.intermediate_size) == (6, 3, 72)
    assert config.exit_layers == model.config.exit_layers and wide.dtype == torch.bfloat16 and wide.training
    # Cut to the old size, they are the old embeddings.
    assert config.matryoshka_dims == [32, 16, 8] and config.aligned_exits
    assert model.config.hidden_size == 32 and model.config.matryoshka_dims == [16, 8]
    plain = widen_model(narrow_model(trained_config), 48, tiny_tokenizer, vectors_of(tiny_tokenizer))
    assert plain.config.matryoshka_dims is None


def test_all_new_parts_learn(trained_config, tiny_tokenizer, batch):
    model = widen_model(narrow_model(trained_config), 48, tiny_tokenizer, vectors_of(tiny_tokenizer)).eval()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    for _ in range(3):
        optimizer.zero_grad()
        outputs = model(**batch, output_all_exits=True)
        sum((e @ e.roll(1, 0).T).sum() for e in outputs.exit_embeddings).backward()
        optimizer.step()
    for name, parameter in model.named_parameters():
        changed = parameter.detach() != before[name]
        if parameter.dim() == 2 and "place" not in name and "embed_tokens" not in name:
            new_rows, new_columns = changed[-1:], changed[:, -1:]
            assert new_rows.any() and new_columns.any(), name


@pytest.mark.parametrize("size", [16, 32, 40])
def test_sizes_that_no_group_of_heads_divides_are_refused(trained_config, tiny_tokenizer, size):
    with pytest.raises(ValueError, match=f"hidden_size must be a multiple of 16, .* above 32, got {size}"):
        widen_model(narrow_model(trained_config), size, tiny_tokenizer, vectors_of(tiny_tokenizer))


def test_vectors_and_norms_that_do_not_fit_are_refused(trained_config, tiny_tokenizer):
    model, vectors = narrow_model(trained_config), vectors_of(tiny_tokenizer)
    with pytest.raises(ValueError, match=f"must be {len(vectors)} teacher vectors, one per token, got 1"):
        widen_model(model, 48, tiny_tokenizer, vectors[:1])
    with pytest.raises(ValueError, match="must span at least 16 dimensions, got 3"):
        widen_model(model, 48, tiny_tokenizer, vectors[:, :3])
    with pytest.raises(ValueError, match="exit_norm must be 'every' to widen a model, got 'final'"):
        widen_model(narrow_model(trained_config, exit_norm="final"), 48, tiny_tokenizer, vectors)
