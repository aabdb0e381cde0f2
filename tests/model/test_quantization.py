"""int8 weights by torchao and bitsandbytes: near the model, and the same after saving."""

import pytest
import torch
from safetensors import safe_open
from transformers import BitsAndBytesConfig, TorchAoConfig

from mose.modeling_mose import MoSEModel


def torchao_int8():
    from torchao.quantization import Int8WeightOnlyConfig

    return TorchAoConfig(Int8WeightOnlyConfig())


def bitsandbytes_int8():
    return BitsAndBytesConfig(load_in_8bit=True)


@pytest.mark.slow
@pytest.mark.parametrize(("package", "make"), [("torchao", torchao_int8), ("bitsandbytes", bitsandbytes_int8)])
def test_int8_loads_runs_saves_and_reloads(package, make, tiny_model, tiny_batch, tmp_path):
    pytest.importorskip(package)
    tiny_model.save_pretrained(tmp_path / "float")
    with torch.no_grad():
        expected = tiny_model(**tiny_batch, output_all_exits=True).exit_embeddings
        model = MoSEModel.from_pretrained(tmp_path / "float", quantization_config=make())
        actual = model(**tiny_batch, output_all_exits=True).exit_embeddings
        for near, exact in zip(actual, expected, strict=True):
            assert torch.nn.functional.cosine_similarity(near, exact).min() > 0.999

        model.save_pretrained(tmp_path / "int8")
        with safe_open(tmp_path / "int8" / "model.safetensors", "pt") as file:
            assert sum(file.get_slice(name).get_dtype() == "I8" for name in file.keys()) >= 27  # noqa: SIM118
        again = MoSEModel.from_pretrained(tmp_path / "int8")(**tiny_batch, output_all_exits=True).exit_embeddings
        for first, second in zip(actual, again, strict=True):
            torch.testing.assert_close(first, second, atol=1e-6, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("exit_layer", [0, 1])
def test_int8_of_torchao_loads_up_to_an_exit(tiny_model, tiny_batch, tmp_path, exit_layer):
    pytest.importorskip("torchao")
    tiny_model.save_pretrained(tmp_path / "float")
    MoSEModel.from_pretrained(tmp_path / "float", quantization_config=torchao_int8()).save_pretrained(tmp_path)
    with torch.no_grad():
        whole = MoSEModel.from_pretrained(tmp_path)(**tiny_batch, exit_layer=exit_layer).pooler_output
        cut = MoSEModel.from_pretrained(tmp_path, exit_layer=exit_layer)
        torch.testing.assert_close(cut(**tiny_batch).pooler_output, whole, atol=1e-6, rtol=0)
    assert len(cut.layers) == exit_layer
