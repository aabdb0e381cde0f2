"""The model repository as a Hub user has it: remote code, in a process where `mose` cannot be imported."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from mose.tokenization.prompts import code_prompt, text_prompt

FIELDS = {"MoSEModel": "pooler_output", "MoSEForPreTraining": "prediction_logits"}
TEXTS = ["def add(first, second):\n    return first + second", "Add two numbers.", "x"]
pytestmark = pytest.mark.slow
REMOTE_CODE = ("configuration_mose.py", "modeling_mose.py")

SCRIPT = """
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
results, warned = {}, []
handler = logging.Handler(logging.WARNING)
handler.emit = lambda record: warned.append(record.getMessage())
transformers_logging.get_logger().addHandler(handler)
logging.getLogger("sentence_transformers").addHandler(handler)
warnings.showwarning = lambda message, *rest: warned.append(str(message))

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
Path("warned.json").write_text(json.dumps(warned))
"""


def result(model, batch, **kwargs) -> torch.Tensor:
    with torch.no_grad():
        return model(**batch, **kwargs)[FIELDS.get(type(model).__name__, "logits")]


@pytest.fixture(scope="module")
def outsider(saved, tmp_path_factory):
    """Home, results and warnings of a process without `mose` that loaded the folders."""
    home = tmp_path_factory.mktemp("outsider")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_HOME": str(home / "cache"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    folders = {name: str(folder) for name, (_, folder) in saved.items()}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(folders), json.dumps(TEXTS)],
        cwd=home,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return home, dict(np.load(home / "results.npz")), json.loads((home / "warned.json").read_text())


def ours(model, tokenizer, texts, **kwargs) -> np.ndarray:
    return result(model, tokenizer(texts, padding=True, return_tensors="pt"), **kwargs).numpy()


def test_every_class_loads_at_any_exit(outsider, saved, tiny_tokenizer):
    home, results, warned = outsider
    assert not warned
    for name, (model, _) in saved.items():
        for exit_layer in (None, 0, 1):
            expected = ours(model, tiny_tokenizer, TEXTS, exit_layer=exit_layer)
            np.testing.assert_allclose(results[f"{name} {exit_layer}"], expected, atol=1e-6)
        # Cut at exit 1, saved by the remote class, loaded again.
        np.testing.assert_allclose(results[f"{name} again"], expected, atol=1e-6)
        assert {path.name for path in (home / f"again_{name}").glob("*.py")} == set(REMOTE_CODE)


def test_the_pipeline_extracts_features(outsider, saved, tiny_tokenizer):
    batch = tiny_tokenizer(TEXTS[:1], return_tensors="pt")
    with torch.no_grad():
        expected = saved["MoSEModel"][0](**batch).last_hidden_state.numpy()
    np.testing.assert_allclose(outsider[1]["pipeline"], expected, atol=1e-6)


def test_sentence_transformers_gives_the_same_vectors(outsider, saved, tiny_tokenizer):
    model, results = saved["MoSEModel"][0], outsider[1]
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
