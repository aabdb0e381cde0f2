"""A tiny random model and small source trees."""

import numpy as np
import pytest
import torch

from mose.configuration_mose import MoSEConfig
from mose.modeling_mose import MoSEModel
from mose.search.index import Index

DATES = '''\
import datetime


def parse_iso_date(text):
    """Parse an ISO 8601 date."""
    return datetime.date.fromisoformat(text)


def next_month(day):
    return day.replace(month=day.month % 12 + 1)
'''
NUMBERS = "def add(a, b):\n    return a + b\n"
SCRIPT = "function readFile(path) {\n  return fs.readFileSync(path);\n}\n"


@pytest.fixture(scope="session")
def tokenizer(tiny_tokenizer):
    return tiny_tokenizer


@pytest.fixture(scope="session")
def tiny_model(tokenizer):
    """Return a function that creates models which differ in their weights alone."""

    def make(seed):
        torch.manual_seed(seed)
        config = MoSEConfig.from_preset(
            "mose-nano-256",
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_attention_heads=4,
            num_hidden_layers=2,
            exit_layers=(0, 1, 2),
            max_position_embeddings=512,
        )
        return MoSEModel(config).eval()

    return make


@pytest.fixture(scope="session")
def model(tiny_model):
    return tiny_model(0)


@pytest.fixture(scope="session")
def model_folder(model, tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "tree"
    (root / "web").mkdir(parents=True)
    (root / "dates.py").write_text(DATES)
    (root / "numbers.py").write_text(NUMBERS)
    (root / "web" / "files.js").write_text(SCRIPT)
    return root


@pytest.fixture
def build(tree, tmp_path, model, tokenizer):
    def run(**options):
        return Index.build(tree, model, tokenizer, tmp_path / "index", 1, progress=False, **options)

    return run


@pytest.fixture(scope="session")
def many(tmp_path_factory):
    """A tree of 40 functions, no two alike."""
    root = tmp_path_factory.mktemp("many")
    for number in range(8):
        bodies = (f"def f{number}_{k}(x):\n    return x * {number * 31 + k}\n\n\n" for k in range(5))
        (root / f"m{number}.py").write_text("".join(bodies))
    return root


@pytest.fixture(scope="session")
def embed(tokenizer):
    """Embeddings by plain forward passes: no batches, no padding, no autocast."""

    def run(model, texts, exit_layer):
        rows = []
        with torch.no_grad():
            for text in texts:
                batch = tokenizer([text], return_tensors="pt", truncation=True, max_length=512)
                rows.append(model(**batch, exit_layer=exit_layer).pooler_output[0].numpy())
        return np.stack(rows)

    return run
