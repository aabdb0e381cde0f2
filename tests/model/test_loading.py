"""Saving and loading: whole, up to an exit, and as remote code where `mose` is not installed."""

import json
import logging
import os
import subprocess
import sys
import warnings
from contextlib import contextmanager

import numpy as np
import pytest
import safetensors
import torch
from transformers.utils import logging as transformers_logging

from mose.hub.files import write_sentence_transformers_files
from mose.modeling_mose import MoSEForPreTraining, MoSEForSequenceClassification, MoSEModel
from mose.tokenization.prompts import code_prompt, text_prompt

CLASSES = (MoSEModel, MoSEForPreTraining, MoSEForSequenceClassification)
FIELDS = {"MoSEModel": "pooler_output", "MoSEForPreTraining": "prediction_logits"}
TEXTS = ["def add(first, second):\n    return first + second", "Add two numbers.", "x"]
REMOTE_CODE = ("configuration_mose.py", "modeling_mose.py")


@pytest.fixture(scope="module")
def saved(build_model, tiny_config, tiny_tokenizer, tmp_path_factory):
    """class name → (model, folder that holds it), each with the tokenizer and sentence-transformers' files."""
    found = {}
    for model_class in CLASSES:
        model = build_model(model_class, tiny_config(num_labels=3))
        folder = tmp_path_factory.mktemp(model_class.__name__)
        model.save_pretrained(folder)
        tiny_tokenizer.save_pretrained(folder)
        write_sentence_transformers_files(folder)
        found[model_class.__name__] = (model, folder)
    return found


def result(model, batch, **kwargs) -> torch.Tensor:
    with torch.no_grad():
        return model(**batch, **kwargs)[FIELDS.get(type(model).__name__, "logits")]


@contextmanager
def complaints():
    """What is warned of meanwhile, by transformers' logger or by Python's warnings."""
    found: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: found.append(record.getMessage())
    logger = transformers_logging.get_logger()
    logger.addHandler(handler)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield found
        finally:
            logger.removeHandler(handler)
            found += [str(warning.message) for warning in caught]


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
def test_what_is_saved_is_loaded(saved, tiny_batch, model_class):
    model, folder = saved[model_class.__name__]
    with complaints() as found:
        loaded = model_class.from_pretrained(folder)
    assert not found
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
    with complaints() as found:
        loaded = model_class.from_pretrained(folder, exit_layer=exit_layer)
    assert not found
    assert loaded.config.exit_layer == loaded.base_model.exit_layers[-1] == exit_layer
    assert len(loaded.base_model.layers) == exit_layer
    assert set(tensors_read) <= set(loaded.state_dict())
    unread = set(loaded.state_dict()) - set(tensors_read)
    assert unread <= {"predictions.decoder.weight"}  # tied
    assert torch.equal(result(loaded, tiny_batch), result(model, tiny_batch, exit_layer=exit_layer))


def test_deeper_tensors_and_complaints_are_noticed_where_there_are_some(saved, tensors_read):
    with complaints() as found:
        MoSEForPreTraining.from_pretrained(saved["MoSEModel"][1])
    assert "predictions.transform.dense.weight" in "".join(found)
    assert "layers.2.mlp.c_fc.weight" in tensors_read


@pytest.mark.parametrize("model_class", CLASSES)
def test_a_model_cut_at_an_exit_is_saved_and_loaded_as_such(saved, tiny_batch, tmp_path, model_class):
    model, folder = saved[model_class.__name__]
    model_class.from_pretrained(folder, exit_layer=1).save_pretrained(tmp_path)
    for kwargs in ({}, {"exit_layer": None}, {"exit_layer": 1}):
        with complaints() as found:
            loaded = model_class.from_pretrained(tmp_path, **kwargs)
        assert not found
        assert loaded.base_model.exit_layers == (0, 1)
        assert torch.equal(result(loaded, tiny_batch), result(model, tiny_batch, exit_layer=1))
    with pytest.raises(ValueError, match="cannot be loaded at exit_layer=3: it lacks"):
        model_class.from_pretrained(tmp_path, exit_layer=3)
    with pytest.raises(ValueError, match="exit_layer must be one of 0, 1, 3, got 2"):
        model_class.from_pretrained(tmp_path, exit_layer=2)


def test_an_exit_may_be_chosen_beside_a_configuration(saved):
    model, folder = saved["MoSEModel"]
    loaded = MoSEModel.from_pretrained(folder, config=model.config, exit_layer=1)
    assert loaded.exit_layers == (0, 1)
    assert model.config.exit_layer is None


@pytest.mark.parametrize("source", CLASSES)
@pytest.mark.parametrize("target", CLASSES)
def test_every_class_takes_the_trunk_of_every_other(saved, tiny_batch, source, target):
    model, folder = saved[source.__name__]
    loaded = target.from_pretrained(folder, exit_layer=1)
    expected = model.base_model(**tiny_batch, exit_layer=1).pooler_output
    assert torch.equal(loaded.base_model(**tiny_batch).pooler_output, expected)


def test_a_checkpoint_in_shards_loads_up_to_an_exit(saved, tiny_batch, tensors_read, tmp_path):
    model = saved["MoSEModel"][0]
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 3
    with complaints() as found:
        loaded = MoSEModel.from_pretrained(tmp_path, exit_layer=1)
    assert not found
    assert set(tensors_read) == set(loaded.state_dict())
    assert torch.equal(result(loaded, tiny_batch), result(model, tiny_batch, exit_layer=1))


def test_half_precision_is_loaded_as_it_was_saved(saved, tiny_batch, tmp_path):
    model = MoSEModel.from_pretrained(saved["MoSEModel"][1], dtype=torch.bfloat16)
    model.save_pretrained(tmp_path)
    loaded = MoSEModel.from_pretrained(tmp_path)
    assert {p.dtype for p in loaded.parameters()} == {torch.bfloat16}
    assert torch.equal(result(loaded, tiny_batch), result(model, tiny_batch))
    widened = MoSEModel.from_pretrained(tmp_path, dtype=torch.float32)
    torch.testing.assert_close(result(widened, tiny_batch), result(model, tiny_batch).float(), atol=0.02, rtol=0)


# Runs where `mose` cannot be imported, in a folder of its own: what a user of the Hub has.
STRANGER = """
import importlib.abc, json, logging, sys, warnings
from pathlib import Path

class NoMoSE(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "mose":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, NoMoSE())
try:
    import mose
    sys.exit("mose can be imported")
except ModuleNotFoundError:
    pass

import numpy as np
import torch
import transformers
from transformers.utils import logging as transformers_logging

folders, texts = json.loads(sys.argv[1]), json.loads(sys.argv[2])
results, complaints = {}, []
handler = logging.Handler(logging.WARNING)
handler.emit = lambda record: complaints.append(record.getMessage())
transformers_logging.get_logger().addHandler(handler)
logging.getLogger("sentence_transformers").addHandler(handler)
warnings.showwarning = lambda message, *rest: complaints.append(str(message))

tokenizer = transformers.AutoTokenizer.from_pretrained(folders["MoSEModel"], trust_remote_code=True)
batch = tokenizer(texts, padding=True, return_tensors="pt")
for auto, name, field in (
    ("AutoModel", "MoSEModel", "pooler_output"),
    ("AutoModelForPreTraining", "MoSEForPreTraining", "prediction_logits"),
    ("AutoModelForSequenceClassification", "MoSEForSequenceClassification", "logits"),
):
    for exit_layer in (None, 0, 1):
        model = getattr(transformers, auto).from_pretrained(
            folders[name], trust_remote_code=True, exit_layer=exit_layer
        )
        assert type(model).__name__ == name and type(model).__module__.startswith("transformers_modules.")
        with torch.no_grad():
            results[f"{name} {exit_layer}"] = model(**batch)[field].numpy()
    model.save_pretrained(f"again_{name}")
    again = getattr(transformers, auto).from_pretrained(f"again_{name}", trust_remote_code=True)
    with torch.no_grad():
        results[f"{name} again"] = again(**batch)[field].numpy()

pipeline = transformers.pipeline("feature-extraction", model=folders["MoSEModel"], trust_remote_code=True)
results["pipeline"] = np.array(pipeline(texts[0]))

from sentence_transformers import SentenceTransformer

encoder = SentenceTransformer(folders["MoSEModel"], trust_remote_code=True, device="cpu")
results["sentence None"] = encoder.encode(texts)
for exit_layer in (0, 1, 3):
    results[f"sentence {exit_layer}"] = encoder.encode(texts, exit_layer=exit_layer)
    results[f"query {exit_layer}"] = encoder.encode_query(texts, exit_layer=exit_layer)
    results[f"document {exit_layer}"] = encoder.encode_document(texts, exit_layer=exit_layer)
shallow = SentenceTransformer(
    folders["MoSEModel"], trust_remote_code=True, device="cpu", config_kwargs={"exit_layer": 1}
)
assert len(shallow[0].model.layers) == 1
results["sentence cut at 1"] = shallow.encode(texts)
np.savez("results.npz", **results)
Path("complaints.json").write_text(json.dumps(complaints))
"""


@pytest.fixture(scope="module")
def stranger(saved, tmp_path_factory):
    """What a process without `mose` got from the folders, and what it was warned of."""
    home = tmp_path_factory.mktemp("stranger")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_HOME": str(home / "cache"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    folders = {name: str(folder) for name, (_, folder) in saved.items()}
    done = subprocess.run(
        [sys.executable, "-c", STRANGER, json.dumps(folders), json.dumps(TEXTS)],
        cwd=home,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return home, dict(np.load(home / "results.npz")), json.loads((home / "complaints.json").read_text())


def ours(model, tokenizer, texts, **kwargs) -> np.ndarray:
    return result(model, tokenizer(texts, padding=True, return_tensors="pt"), **kwargs).numpy()


@pytest.mark.slow
def test_strangers_load_every_class_at_any_exit(stranger, saved, tiny_tokenizer):
    home, results, complaints = stranger
    assert not complaints
    for name, (model, _) in saved.items():
        for exit_layer in (None, 0, 1):
            expected = ours(model, tiny_tokenizer, TEXTS, exit_layer=exit_layer)
            np.testing.assert_allclose(results[f"{name} {exit_layer}"], expected, atol=1e-6)
        # Cut at exit 1, saved by the remote class, loaded again.
        np.testing.assert_allclose(results[f"{name} again"], expected, atol=1e-6)
        assert {path.name for path in (home / f"again_{name}").glob("*.py")} == set(REMOTE_CODE)


@pytest.mark.slow
def test_strangers_extract_features(stranger, saved, tiny_tokenizer):
    batch = tiny_tokenizer(TEXTS[:1], return_tensors="pt")
    with torch.no_grad():
        expected = saved["MoSEModel"][0](**batch).last_hidden_state.numpy()
    np.testing.assert_allclose(stranger[1]["pipeline"], expected, atol=1e-6)


@pytest.mark.slow
def test_strangers_sentence_transformers_vectors_are_ours(stranger, saved, tiny_tokenizer):
    model, results = saved["MoSEModel"][0], stranger[1]
    for exit_layer in (None, 0, 1, 3):
        expected = ours(model, tiny_tokenizer, TEXTS, exit_layer=exit_layer)
        np.testing.assert_allclose(results[f"sentence {exit_layer}"], expected, atol=1e-6)
    np.testing.assert_allclose(
        results["sentence cut at 1"], ours(model, tiny_tokenizer, TEXTS, exit_layer=1), atol=1e-6
    )
    for exit_layer in (0, 1, 3):
        for name, prompt in (("query", text_prompt()), ("document", code_prompt())):
            expected = ours(model, tiny_tokenizer, [prompt + text for text in TEXTS], exit_layer=exit_layer)
            np.testing.assert_allclose(results[f"{name} {exit_layer}"], expected, atol=1e-6)
