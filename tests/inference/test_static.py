"""Exit 0 in numpy against the model in torch."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from mose.configuration_mose import MoSEConfig
from mose.hub.slice import slice_repository
from mose.inference import static
from mose.inference.encoding import encode
from mose.inference.loading import load_model
from mose.inference.static import CONFIG_DEFAULTS, StaticEncoder
from mose.modeling_mose import MoSEForPreTraining, MoSEModel
from mose.tokenization.prompts import code_prompt, text_prompt
from mose.utils.locations import package_folder

TEXTS = [
    "",
    "add",
    "def add(first, second):\n    return first + second",
    "a <sep> that is text <cls><mask>",
    text_prompt() + "a text that begins with a prompt",
    "long " * 100,
    "größer 数 \U0001f600\r\n\t",
]


def tensors_of(folder):
    """Return copies: `load_file` maps the file, which a test writes anew."""
    return {name: tensor.clone() for name, tensor in load_file(folder / "model.safetensors").items()}


def torch_embeddings(source, texts, prompts="", **options):
    model, tokenizer, _ = load_model(str(source), [0], "cpu", trust_remote_code=False)
    return encode(model, tokenizer, texts, [0], prompts, **options)[0]


@pytest.fixture(scope="module")
def shipped():
    return load_model(str(package_folder()), [0], "cpu", trust_remote_code=False)[:2]


@pytest.fixture(scope="module")
def shipped_static():
    return StaticEncoder(package_folder())


@pytest.fixture(scope="module")
def save_model(tiny_config, build_model, tiny_tokenizer, tmp_path_factory):
    """Saves a tiny model with other fields, and returns its folder."""

    def save(model_class=MoSEModel, dtype=torch.float32, shard_size="5GB", **fields):
        folder = tmp_path_factory.mktemp("static")
        model = build_model(model_class, tiny_config(**fields)).to(dtype)
        model.save_pretrained(folder, max_shard_size=shard_size)
        tiny_tokenizer.save_pretrained(folder)
        return folder

    return save


def test_imports_neither_torch_nor_transformers():
    code = (
        "import sys; from mose.inference.static import StaticEncoder; import mose\n"
        "vectors = StaticEncoder(mose.__path__[0]).encode_query(['parse a date'])\n"
        "assert vectors.shape == (1, 384)\n"
        "print([name for name in ('torch', 'transformers', 'huggingface_hub') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=True)
    assert run.stdout.strip() == "[]"


def test_defaults_are_those_of_the_configuration():
    config = MoSEConfig()
    assert {name: getattr(config, name) for name in CONFIG_DEFAULTS} == CONFIG_DEFAULTS


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"gate_kernel_size": 1},
        {"gate_kernel_size": 7, "use_bias": False},
        {"pooling": "mean", "embedding_norm": "at_most_one"},
        {"pooling": "cls"},
        {"exit_norm": "final"},
        {"projection_layers": 2, "truncate_dim": 12},
        {"projection_layers": 2, "projection_act": "silu", "pooling": "cls"},
        {"model_class": MoSEForPreTraining, "shard_size": "20KB"},
        {"dtype": torch.bfloat16},
    ],
    ids=str,
)
@pytest.mark.parametrize("prompts", ["", code_prompt("python"), [text_prompt(), "own: "] * 3 + [code_prompt()]])
def test_equals_the_model(save_model, fields, prompts):
    folder = save_model(**fields)
    expected = torch_embeddings(folder, TEXTS, prompts)
    actual = StaticEncoder(folder).encode(TEXTS, prompts)
    assert actual.dtype == np.float32 and actual.shape == (len(TEXTS), fields.get("truncate_dim", 32))
    if fields.get("embedding_norm") == "at_most_one":
        # `encode` scales to norm 1 in any case.
        actual = actual / np.linalg.norm(actual, axis=1, keepdims=True)
    np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_short_vectors_keep_their_length(save_model):
    folder = save_model(pooling="mean", embedding_norm="at_most_one", initializer_range=1e-4)
    tensors = tensors_of(folder)
    tensors |= {name: tensors[name] / 50 for name in tensors if name.startswith("exits.0.projection")}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})

    model, tokenizer, _ = load_model(str(folder), [0], "cpu", trust_remote_code=False)
    with torch.no_grad():
        expected = model(**tokenizer(["add"], return_tensors="pt")).pooler_output.numpy()
    assert np.linalg.norm(expected) < 0.9
    np.testing.assert_allclose(StaticEncoder(folder).encode(["add"]), expected, atol=1e-5)


@pytest.mark.parametrize("max_length", [2, 3, 14, 15, 16, 40, 5_000])
def test_equals_the_shipped_model_at_every_cut(shipped, max_length):
    encoder = StaticEncoder(package_folder(), max_length=max_length)
    for prompts, vectors in (
        (text_prompt(), encoder.encode_query(TEXTS)),
        (code_prompt("cpp"), encoder.encode_document(TEXTS, "cpp")),
        ([code_prompt(name) for name in "abcdefg"], encoder.encode_document(TEXTS, list("abcdefg"))),
    ):
        expected = encode(*shipped, TEXTS, [0], prompts, max_length=max_length)[0]
        np.testing.assert_allclose(vectors, expected, atol=1e-5)


@given(st.lists(st.text(max_size=80), min_size=1, max_size=12), st.sampled_from(["", text_prompt(), "x<sep>"]))
@settings(max_examples=40)
def test_equals_the_shipped_model_on_any_texts(shipped, shipped_static, texts, prompt):
    expected = encode(*shipped, texts, [0], prompt)[0]
    np.testing.assert_allclose(shipped_static.encode(texts, prompt), expected, atol=1e-5)


def test_batches_change_nothing(shipped_static, monkeypatch):
    texts = [f"{TEXTS[number % len(TEXTS)]} {number}" for number in range(60)]
    together = shipped_static.encode(texts)
    monkeypatch.setattr(static, "TEXTS_AT_ONCE", 7)
    monkeypatch.setattr(static, "TOKENS_AT_ONCE", 50)
    np.testing.assert_allclose(shipped_static.encode(texts), together, atol=1e-6)
    alone = np.concatenate([StaticEncoder(package_folder()).encode([text]) for text in texts[:8]])
    np.testing.assert_allclose(alone, together[:8], atol=1e-6)


def test_truncate_dim(shipped):
    encoder = StaticEncoder(package_folder(), truncate_dim=100)
    assert encoder.encode(TEXTS).shape[1] == 100
    model, tokenizer = shipped
    with torch.no_grad():
        batch = tokenizer([TEXTS[2]], return_tensors="pt")
        expected = model(**batch, exit_layer=0, truncate_dim=64).pooler_output.numpy()
    np.testing.assert_allclose(encoder.encode([TEXTS[2]], truncate_dim=64), expected, atol=1e-5)

    for wrong in (0, 101, True, 1.5):
        with pytest.raises(ValueError, match=r"must be an integer in \[1, 100\]"):
            encoder.encode(TEXTS, truncate_dim=wrong)


def test_slice(tmp_path, shipped_static):
    slice_repository(package_folder(), 0, tmp_path / "slice")
    vectors = StaticEncoder(tmp_path / "slice").encode(TEXTS)
    np.testing.assert_allclose(vectors, shipped_static.encode(TEXTS), atol=1e-6)


@pytest.mark.parametrize(("tables", "least"), [("fp16", 0.99999), ("int8", 0.999)])
def test_smaller_tables(shipped_static, tables, least):
    exact = shipped_static.encode_document(TEXTS)
    cosines = (StaticEncoder(package_folder(), tables=tables).encode_document(TEXTS) * exact).sum(axis=1)
    assert cosines.min() > least


def test_halves_are_widened_exactly():
    finite = np.arange(65_536, dtype=np.uint16).view(np.float16)
    finite = finite[np.isfinite(finite)]
    np.testing.assert_array_equal(static._widen_halves(finite.copy()), finite.astype(np.float32))


def test_hub_id(online, save_model):
    folder = save_model()
    online.add("owner/tiny", folder)
    vectors = StaticEncoder("owner/tiny").encode(TEXTS)
    np.testing.assert_array_equal(vectors, StaticEncoder(folder).encode(TEXTS))


def test_hub_out_of_reach():
    with pytest.raises(
        FileNotFoundError, match=r"config\.json is not in the cache and the Hub cannot be reached"
    ):
        StaticEncoder("owner/absent")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"])
@pytest.mark.parametrize("fault", ["missing", "empty"])
def test_damaged_folders(save_model, tmp_path, name, fault):
    folder = shutil.copytree(save_model(), tmp_path / "copy")
    (folder / name).unlink()
    if fault == "empty":
        (folder / name).touch()
    with pytest.raises(FileNotFoundError if fault == "missing" else ValueError, match=name):
        StaticEncoder(folder)


def test_cut_and_incomplete_weights(save_model, tmp_path):
    folder = shutil.copytree(save_model(), tmp_path / "copy")
    weights = folder / "model.safetensors"
    tensors = tensors_of(folder)
    weights.write_bytes(weights.read_bytes()[:6_000])
    with pytest.raises(ValueError, match=r"ends within|damaged"):
        StaticEncoder(folder)

    del tensors["exits.0.projection.weight"]
    save_file(tensors, weights)
    with pytest.raises(ValueError, match=r"lack exits\.0\.projection\.weight"):
        StaticEncoder(folder)


@pytest.mark.parametrize("tables", ["fp32", "fp16", "int8"])
def test_broken_weights(save_model, tmp_path, tables):
    folder = shutil.copytree(save_model(), tmp_path / "copy")
    tensors = tensors_of(folder)
    tensors["exits.0.norm.weight"][3] = float("nan")
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(FloatingPointError, match="Load intact weights"):
        StaticEncoder(folder, tables=tables).encode(["add"])


def test_bad_arguments(save_model, shipped_static):
    folder = save_model(exit_layers=(1, 3))
    with pytest.raises(ValueError, match="must have an exit 0, got exits 1, 3"):
        StaticEncoder(folder)
    with pytest.raises(ValueError, match="projection_act must be one of"):
        StaticEncoder(save_model(projection_layers=2, projection_act="mish"))
    with pytest.raises(ValueError, match="tables must be one of fp32, fp16, int8, got 'int4'"):
        StaticEncoder(package_folder(), tables="int4")
    with pytest.raises(ValueError, match="max_length must be at least 2"):
        StaticEncoder(package_folder(), max_length=1)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        StaticEncoder(Path("nowhere"))

    for texts, prompts, message in (
        ("text", "", "not one string"),
        ([], "", "no texts"),
        (["a"], [], "0 prompts"),
    ):
        with pytest.raises(ValueError, match=message):
            shipped_static.encode(texts, prompts)


def test_tokenizer_of_another_model(save_model, tmp_path):
    folder = shutil.copytree(save_model(), tmp_path / "copy")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(package_folder() / name, folder / name)
    assert json.loads((folder / "config.json").read_text())["vocab_size"] == 320
    with pytest.raises(ValueError, match="must be below the vocabulary of 320"):
        StaticEncoder(folder).encode(["return the parser's namespace"])


def test_the_documentations_example_runs(capsys):
    text = (package_folder() / "docs/deploy.md").read_text(encoding="utf-8")
    (example,) = (part.split("```")[0] for part in text.split("```python\n")[1:] if "StaticEncoder" in part)
    exec(example, {})
    similarities = [float(number) for number in capsys.readouterr().out.strip(" []\n").split()]
    assert similarities[0] > similarities[1]
