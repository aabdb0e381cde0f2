"""The fused kernels of inference on a CPU, against the plain path, which autograd takes."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mose import modeling_mose
from mose.modeling_mose import ShiftedSum, folded_attention, fused_dtype, linear


@pytest.fixture
def every_size_fused(monkeypatch):
    monkeypatch.setattr(modeling_mose, "FUSED_TOKENS", 0)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("padded", [False, True])
def test_inference_equals_the_path_of_training(tiny_model, tiny_batch, attention, padded):
    tiny_model.set_attn_implementation(attention)
    batch = tiny_batch if padded else {"input_ids": tiny_batch["input_ids"]}
    expected = tiny_model(**batch, output_all_exits=True)
    with torch.no_grad():
        actual = tiny_model(**batch, output_all_exits=True)
    for one, other in zip(actual.exit_embeddings, expected.exit_embeddings, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


def test_long_sequences_use_the_attention_of_the_configuration(tiny_model, tiny_batch, monkeypatch):
    calls = []
    original = modeling_mose.folded_attention
    monkeypatch.setattr(modeling_mose, "folded_attention", lambda *a: calls.append(1) or original(*a))
    with torch.no_grad():
        short = tiny_model(**tiny_batch).pooler_output
        assert len(calls) == 3
        monkeypatch.setattr(modeling_mose, "FOLDED_TOKENS", 8)
        torch.testing.assert_close(tiny_model(**tiny_batch).pooler_output, short, atol=1e-5, rtol=0)
    assert len(calls) == 3


def test_folded_attention_is_attention_of_grouped_queries():
    torch.manual_seed(0)
    query, (key, value) = torch.randn(3, 8, 7, 6), torch.randn(2, 3, 2, 7, 6)
    mask = torch.tensor([[1] * 7, [0] * 2 + [1] * 5, [1] * 4 + [0] * 3])
    bias = torch.zeros(mask.shape).masked_fill(mask == 0, -3e4)[:, None]
    for added, allowed in ((None, None), (bias, mask[:, None, None].bool())):
        expected = F.scaled_dot_product_attention(
            query, key, value, attn_mask=allowed, scale=0.3, enable_gqa=True
        )
        actual = folded_attention(query, key, value, added, 0.3)
        torch.testing.assert_close(actual, expected.transpose(1, 2), atol=1e-6, rtol=0)


def test_bf16_is_as_close_to_fp32_as_autocast_alone(tiny_model, every_size_fused):
    ids = torch.randint(4, 320, (3, 40))
    exact = tiny_model(ids).pooler_output.detach()
    with torch.autocast("cpu", torch.bfloat16):
        plain = tiny_model(ids).pooler_output.detach()
        with torch.no_grad():
            fused = tiny_model(ids).pooler_output
    assert not torch.equal(fused, plain)
    cosines = [(embedding * exact).sum(dim=1).min() for embedding in (plain, fused)]
    assert cosines[1] > 0.999 and cosines[1] > 1 - 2 * (1 - cosines[0])


def test_only_plain_layers_in_inference_are_fused():
    layer, states = nn.Linear(4, 4).eval(), torch.randn(2, 3, 4)
    assert fused_dtype(layer, states) is None  # autograd
    with torch.no_grad():
        assert fused_dtype(layer, states) == torch.float32
        assert fused_dtype(layer, states.double()) is None
        assert fused_dtype(nn.Linear(4, 4).train(), states) is None  # as in GradCache, whose passes must agree
        # Casting the weights of a query costs more than fusing saves.
        assert fused_dtype(layer, states.bfloat16()) is None
        assert fused_dtype(nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)).eval(), states) is None

        calls = []
        layer.register_forward_hook(lambda *_: calls.append(1))
        linear(layer, states)
        assert calls


@pytest.mark.parametrize("tokens", [1, 3, 9])
def test_shifted_sum_and_its_gradients_are_those_of_a_convolution(tokens):
    torch.manual_seed(0)
    base = torch.randn(2, tokens, 5, dtype=torch.double, requires_grad=True)
    taps = torch.randn(2, tokens, 4 * 5, dtype=torch.double, requires_grad=True)
    padded = [F.pad(tap, (0, 0, shift, 0))[:, :tokens] for shift, tap in enumerate(taps.chunk(4, dim=-1))]
    torch.testing.assert_close(ShiftedSum.apply(base, taps), base + sum(padded))
    assert torch.autograd.gradcheck(ShiftedSum.apply, (base, taps))
