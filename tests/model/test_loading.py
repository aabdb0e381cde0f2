"""Saving and loading: whole, up to an exit, in shards, in half precision."""

import logging
import warnings
from contextlib import contextmanager

import pytest
import safetensors
import torch
from transformers import AutoModel
from transformers.utils import logging as transformers_logging

from mose.configuration_mose import MoSEConfig
from mose.modeling_mose import MoSEForPreTraining, MoSEForSequenceClassification, MoSEModel

CLASSES = (MoSEModel, MoSEForPreTraining, MoSEForSequenceClassification)
FIELDS = {"MoSEModel": "pooler_output", "MoSEForPreTraining": "prediction_logits"}
TEXTS = ["def add(first, second):\n    return first + second", "Add two numbers.", "x"]
REMOTE_CODE = ("configuration_mose.py", "modeling_mose.py")


def result(model, batch, **kwargs) -> torch.Tensor:
    with torch.no_grad():
        return model(**batch, **kwargs)[FIELDS.get(type(model).__name__, "logits")]


@contextmanager
def logged_warnings():
    """Collect the warnings of transformers' logger and of Python."""
    messages: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: messages.append(record.getMessage())
    logger = transformers_logging.get_logger()
    logger.addHandler(handler)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield messages
        finally:
            logger.removeHandler(handler)
            messages += [str(warning.message) for warning in caught]


@pytest.fixture
def tensors_read(monkeypatch) -> list[str]:
    """The names of the tensors whose data is read from safetensors files."""
    names: list[str] = []

    class Slice:
        """A handle on a tensor, which reads when it is indexed."""

        def __init__(self, name, handle):
            self.name, self.handle = name, handle

        def __getitem__(self, index):
            names.append(self.name)
            return self.handle[index]

        def __getattr__(self, attribute):
            return getattr(self.handle, attribute)

    class File:
        def __init__(self, *args, **kwargs):
            self.file = safetensors.safe_open(*args, **kwargs)

        def __enter__(self):
            self.file.__enter__()
            return self

        def __exit__(self, *args):
            return self.file.__exit__(*args)

        def get_tensor(self, name):
            names.append(name)
            return self.file.get_tensor(name)

        def get_slice(self, name):
            return Slice(name, self.file.get_slice(name))

        def __getattr__(self, attribute):
            return getattr(self.file, attribute)

    monkeypatch.setattr("transformers.modeling_utils.safe_open", File)
    return names


@pytest.mark.parametrize("model_class", CLASSES)
def test_saving_and_loading_keeps_weights_and_results(saved, tiny_batch, model_class):
    model, folder = saved[model_class.__name__]
    with logged_warnings() as messages:
        loaded = model_class.from_pretrained(folder)
    assert not messages
    weights = loaded.state_dict()
    assert set(weights) == set(model.state_dict())
    assert all(torch.equal(weights[name], tensor) for name, tensor in model.state_dict().items())
    for exit_layer in (0, 1, 3):
        assert torch.equal(
            result(loaded, tiny_batch, exit_layer=exit_layer), result(model, tiny_batch, exit_layer=exit_layer)
        )


@pytest.mark.parametrize("exit_layer", [0, 1, 3])
@pytest.mark.parametrize("model_class", CLASSES)
def test_loading_up_to_an_exit_reads_no_more_than_that(saved, tiny_batch, tensors_read, model_class, exit_layer):
    model, folder = saved[model_class.__name__]
    with logged_warnings() as messages:
        loaded = model_class.from_pretrained(folder, exit_layer=exit_layer)
    assert not messages
    assert loaded.config.exit_layer == loaded.base_model.exit_layers[-1] == exit_layer
    assert len(loaded.base_model.layers) == exit_layer
    assert set(tensors_read) <= set(loaded.state_dict())
    unread = set(loaded.state_dict()) - set(tensors_read)
    assert unread <= {"predictions.decoder.weight"}  # tied
    assert torch.equal(result(loaded, tiny_batch), result(model, tiny_batch, exit_layer=exit_layer))


def test_deeper_tensors_and_warnings_would_be_noticed(saved, tensors_read):
    with logged_warnings() as messages:
        MoSEForPreTraining.from_pretrained(saved["MoSEModel"][1])
    assert "predictions.transform.dense.weight" in "".join(messages)
    assert "layers.2.mlp.c_fc.weight" in tensors_read


@pytest.mark.parametrize("model_class", CLASSES)
def test_a_model_cut_at_an_exit_stays_cut_when_saved_and_loaded(saved, tiny_batch, tmp_path, model_class):
    model, folder = saved[model_class.__name__]
    model_class.from_pretrained(folder, exit_layer=1).save_pretrained(tmp_path)
    for kwargs in ({}, {"exit_layer": None}, {"exit_layer": 1}):
        with logged_warnings() as messages:
            loaded = model_class.from_pretrained(tmp_path, **kwargs)
        assert not messages
        assert loaded.base_model.exit_layers == (0, 1)
        assert torch.equal(result(loaded, tiny_batch), result(model, tiny_batch, exit_layer=1))
    with pytest.raises(ValueError, match="cannot be loaded at exit_layer=3: it lacks"):
        model_class.from_pretrained(tmp_path, exit_layer=3)
    with pytest.raises(ValueError, match="exit_layer must be one of 0, 1, 3, got 2"):
        model_class.from_pretrained(tmp_path, exit_layer=2)


def test_exit_layer_overrides_a_given_configuration(saved):
    model, folder = saved["MoSEModel"]
    loaded = MoSEModel.from_pretrained(folder, config=model.config, exit_layer=1)
    assert loaded.exit_layers == (0, 1)
    assert model.config.exit_layer is None


@pytest.mark.parametrize("source", CLASSES)
@pytest.mark.parametrize("target", CLASSES)
def test_every_class_loads_the_trunk_of_every_other(saved, tiny_batch, source, target):
    model, folder = saved[source.__name__]
    loaded = target.from_pretrained(folder, exit_layer=1)
    expected = model.base_model(**tiny_batch, exit_layer=1).pooler_output
    assert torch.equal(loaded.base_model(**tiny_batch).pooler_output, expected)


def test_a_checkpoint_in_shards_loads_up_to_an_exit(saved, tiny_batch, tensors_read, tmp_path):
    model = saved["MoSEModel"][0]
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 3
    with logged_warnings() as messages:
        loaded = MoSEModel.from_pretrained(tmp_path, exit_layer=1)
    assert not messages
    assert set(tensors_read) == set(loaded.state_dict())
    assert torch.equal(result(loaded, tiny_batch), result(model, tiny_batch, exit_layer=1))


def test_half_precision_survives_saving_and_loading(saved, tiny_batch, tmp_path):
    model = MoSEModel.from_pretrained(saved["MoSEModel"][1], dtype=torch.bfloat16)
    model.save_pretrained(tmp_path)
    loaded = MoSEModel.from_pretrained(tmp_path, dtype="auto")
    assert {p.dtype for p in loaded.parameters()} == {torch.bfloat16}
    assert torch.equal(result(loaded, tiny_batch), result(model, tiny_batch))
    widened = MoSEModel.from_pretrained(tmp_path, dtype=torch.float32)
    torch.testing.assert_close(result(widened, tiny_batch), result(model, tiny_batch).float(), atol=0.02, rtol=0)


def test_on_a_cpu_the_default_is_float32_through_every_entrance(saved, tmp_path):
    model = MoSEModel.from_pretrained(saved["MoSEModel"][1], dtype=torch.bfloat16)
    model.save_pretrained(tmp_path)
    assert MoSEConfig.from_pretrained(tmp_path).dtype == torch.bfloat16
    entrances = {
        "class": lambda **options: MoSEModel.from_pretrained(tmp_path, **options),
        "auto": lambda **options: AutoModel.from_pretrained(tmp_path, trust_remote_code=True, **options),
        "head": lambda **options: MoSEForPreTraining.from_pretrained(tmp_path, **options),
    }
    for name, load in entrances.items():
        for options in ({}, {"dtype": None}, {"device_map": "cpu"}, {"device_map": {"": "cpu"}}):
            assert load(**options).dtype == torch.float32, (name, options)
        for dtype in ("auto", torch.bfloat16, "bfloat16"):
            assert load(dtype=dtype).dtype == torch.bfloat16, (name, dtype)


def test_claims_are_kept_as_long_as_the_weights_are(tiny_config, build_model, tmp_path):
    build_model(MoSEModel, tiny_config(aligned_exits=True, matryoshka_dims=[16])).save_pretrained(tmp_path / "a")

    def claims(change, folder=tmp_path / "b"):
        model = MoSEModel.from_pretrained(tmp_path / "a")
        change(model)
        model.save_pretrained(folder)
        config = MoSEConfig.from_pretrained(folder)
        return config.aligned_exits, config.matryoshka_dims

    def step(model):
        model.train()(torch.tensor([[5, 6, 7]]), output_all_exits=True).exit_embeddings[1].sum().backward()
        torch.optim.SGD(model.parameters(), lr=1e-3).step()

    def step_and_check(model):
        step(model)
        model.describe_space(aligned_exits=True, matryoshka_dims=[16])

    for unchanged in (lambda model: model, MoSEModel.train, MoSEModel.bfloat16, step_and_check):
        assert claims(unchanged) == (True, [16])
    assert claims(step) == (False, None)
