"""Exits that are rotated towards the deepest one rank among themselves as before, and agree with it."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from mose.configuration_mose import MoSEConfig
from mose.modeling_mose import MoSEModel
from mose.training.finetuning.rotation import last_linear, rotate_exits

DIMS = [24, 8]


def exit_model(config: MoSEConfig, **changes) -> MoSEModel:
    sizes = {"hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48}
    torch.manual_seed(5)
    model = MoSEModel(MoSEConfig.from_dict(config.to_dict() | sizes | {"matryoshka_dims": DIMS} | changes)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model


def embed(model: MoSEModel) -> dict[int, torch.Tensor]:
    ids = torch.randint(5, model.config.vocab_size, (90, 12), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        output = model(ids, torch.ones_like(ids), output_all_exits=True)
    return dict(zip(model.exit_layers, output.exit_embeddings, strict=True))


def arrays(embeddings: dict[int, torch.Tensor]) -> dict[int, np.ndarray]:
    return {exit_layer: rows.numpy() for exit_layer, rows in embeddings.items()}


def cosines(rows: torch.Tensor, dim: int) -> torch.Tensor:
    rows = F.normalize(rows[:, :dim], dim=1)
    return rows @ rows.T


@pytest.mark.parametrize("changes", [{}, {"projection_layers": 2}, {"use_bias": False}])
def test_an_exit_ranks_as_before_at_every_size(trained_config, changes):
    model = exit_model(trained_config, **changes)
    before, deepest = embed(model), model.exit_layers[-1]
    rotate_exits(model, arrays(before))
    after = embed(model)

    assert after[deepest].equal(before[deepest])
    for exit_layer in model.exit_layers[:-1]:
        for dim in (32, *DIMS):
            torch.testing.assert_close(
                cosines(after[exit_layer], dim), cosines(before[exit_layer], dim), atol=2e-6, rtol=0
            )
        # No rotation within these dimensions brings the exits nearer, or it would have been taken.
        for start, end in ((0, 8), (8, 24), (24, 32)):
            product = after[exit_layer][:, start:end].T @ after[deepest][:, start:end]
            torch.testing.assert_close(product, product.T, atol=1e-4, rtol=0)
            assert torch.linalg.eigvalsh(product).min() > -1e-5
        nearness = [(rows[exit_layer] * rows[deepest]).sum() for rows in (before, after)]
        assert nearness[1] > nearness[0] + 1


def test_exits_that_differ_by_rotations_alone_become_equal(trained_config):
    model = exit_model(trained_config)
    deepest = model.exits[str(model.exit_layers[-1])]
    for name, parameter in model.named_parameters():
        if "o_proj" in name or "c_proj" in name:
            torch.nn.init.zeros_(parameter)  # every exit reads the same states
    for exit_layer in model.exit_layers[:-1]:
        model.exits[str(exit_layer)].load_state_dict(deepest.state_dict())
        rotation = torch.block_diag(*(torch.linalg.qr(torch.randn(size, size))[0] for size in (8, 16, 8)))
        with torch.no_grad():
            for parameter in last_linear(model, exit_layer).parameters():
                parameter.copy_(rotation @ parameter)

    before = embed(model)
    assert not before[0].allclose(before[model.exit_layers[-1]], atol=0.1)
    rotate_exits(model, arrays(before))
    after = embed(model)
    for rows in after.values():
        torch.testing.assert_close(rows, after[model.exit_layers[-1]], atol=1e-5, rtol=0)


def test_what_the_weights_claim_is_kept_on_saving(trained_config, tmp_path):
    model = exit_model(trained_config)
    model.describe_space(True, DIMS)
    model.save_pretrained(tmp_path / "before")
    loaded = MoSEModel.from_pretrained(tmp_path / "before")
    rotate_exits(loaded, arrays(embed(loaded)))
    loaded.save_pretrained(tmp_path / "after")
    config = MoSEModel.from_pretrained(tmp_path / "after").config
    assert config.aligned_exits and config.matryoshka_dims == DIMS


def test_embeddings_of_other_texts_are_refused(trained_config):
    model = exit_model(trained_config)
    embeddings = arrays(embed(model))
    with pytest.raises(ValueError, match="every exit of the model, 0 is missing"):
        rotate_exits(model, {exit_layer: rows for exit_layer, rows in embeddings.items() if exit_layer})
    with pytest.raises(ValueError, match=r"must be of \(90, 32\) at every exit, got \(89, 32\) at exit 0"):
        rotate_exits(model, embeddings | {0: embeddings[0][1:]})
