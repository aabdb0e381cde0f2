"""The closed form of the FLOPs against torch's own counter; parameters against a model that is built."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from mose.configuration_mose import MoSEConfig
from mose.eval.baselines import load_baseline
from mose.eval.costs import costs, counted_flops_per_token, flops_per_token, parameters
from mose.inference.encoders import MoSEEncoder
from mose.modeling_mose import MoSEModel


@pytest.mark.parametrize(
    "overrides",
    [
        {"pooling": "gated"},
        {"pooling": "mean", "num_key_value_heads": 4},
        {"pooling": "cls", "exit_norm": "final", "use_bias": False},
        {"pooling": "mean", "projection_layers": 2},
        {"pooling": "gated", "projection_layers": 2},
        {"pooling": "cls", "projection_layers": 2},
    ],
)
@pytest.mark.parametrize("tokens", [1, 37])
def test_flops_equal_those_that_torch_counts(tiny_config, overrides, tokens):
    # In training mode: for inference on a CPU, exit 0 looks up tables, and torch counts no fused kernels.
    model = MoSEModel(tiny_config(**overrides)).train()
    model.set_attn_implementation("eager")
    for exit_layer in model.exit_layers:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(input_ids=torch.ones(3, tokens, dtype=torch.long), exit_layer=exit_layer)
        expected = counter.get_total_flops() / (3 * tokens)
        if model.config.pooling == "gated":
            # The gate's layer of positions has one input, and runs as a product of numbers.
            expected += 2 * model.config.gate_size
        assert flops_per_token(model.config, exit_layer, tokens) == pytest.approx(expected, rel=1e-12)


def test_the_paper_s_claim_of_exit_4():
    """About 90 % fewer FLOPs than all 36 blocks, and the sizes that the model cards name."""
    config = MoSEConfig()
    share = flops_per_token(config, 4, 2048) / flops_per_token(config, 36, 2048)
    assert 0.10 < share < 0.12


def test_parameters_are_those_of_a_model_loaded_at_the_exit(model, model_folder, tokenizer):
    result = costs(MoSEEncoder(model, tokenizer))
    for exit_layer in model.exit_layers:
        loaded = MoSEModel.from_pretrained(model_folder, exit_layer=exit_layer)
        count = sum(parameter.numel() for parameter in loaded.parameters())
        assert parameters(model, exit_layer) == result[str(exit_layer)]["parameters"] == count
        assert result[str(exit_layer)]["memory_mb"] == pytest.approx(4 * count / 1e6)


def test_flops_of_a_baseline(tiny_teacher):
    """One BERT block, by hand: four projections, scores and mixing, an MLP of 64; its pooler reads one token."""
    baseline = load_baseline(tiny_teacher, device="cpu")
    hidden, mlp, tokens = 48, 64, 20
    block = 2 * hidden * 4 * hidden + 4 * hidden * tokens + 4 * hidden * mlp
    result = counted_flops_per_token(baseline, tokens)
    assert result in (pytest.approx(block), pytest.approx(block + 2 * hidden * hidden / tokens))
    assert costs(baseline)[baseline.name]["parameters"] == sum(p.numel() for p in baseline.model.parameters())
