"""The repository root as a model repository, used where `mose` is not installed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import mose
from mose.configuration_mose import PRESETS
from mose.hub.files import sentence_transformers_files
from mose.inference.loading import load_model
from mose.search import Index
from mose.tokenization.inputs import input_ids

pytestmark = pytest.mark.slow

ROOT = Path(mose.__file__).parent

#: Run where `import mose` fails; prints what the assertions below look at.
NEWCOMER = """
import importlib.util, json, sys
sys.modules["mose"] = None  # as if it were not installed
import torch
from sentence_transformers import SentenceTransformer
from transformers import (AutoModel, AutoModelForPreTraining, AutoModelForSequenceClassification, AutoTokenizer,
                          pipeline)
root = sys.argv[1]
options = {"trust_remote_code": True, "dtype": torch.float32}
tokenizer = AutoTokenizer.from_pretrained(root, trust_remote_code=True)
model = AutoModel.from_pretrained(root, **options).eval()
text = "read a file line by line"
st = SentenceTransformer(root, trust_remote_code=True, model_kwargs={"dtype": torch.float32}, device="cpu")
prompt = st.prompts["query"]
batch = tokenizer([prompt + text, prompt + "x"], padding=True, return_tensors="pt")
found = {"exits": list(model.exit_layers), "differences": {}}
with torch.no_grad():
    for k in model.exit_layers:
        ours = model(**batch, exit_layer=k).pooler_output[0]
        theirs = torch.as_tensor(st.encode_query(text, exit_layer=k))
        found["differences"][k] = (ours - theirs).abs().max().item()
    states = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
features = torch.tensor(pipeline("feature-extraction", model=model, tokenizer=tokenizer)(text)[0])
found["pipeline"] = (features - states).abs().max().item()
for head in (AutoModelForPreTraining, AutoModelForSequenceClassification):
    loaded = head.from_pretrained(root, **options).eval()
    same = (loaded.model.embed_tokens.weight == model.embed_tokens.weight).all().item()
    found[head.__name__] = [type(loaded).__name__, same]
# As huggingface's inference toolkit loads it.
spec = importlib.util.spec_from_file_location("handler", f"{root}/handler.py")
sys.modules["handler"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["handler"])
serve = sys.modules["handler"].EndpointHandler(root, device="cpu")
answer = torch.tensor(serve({"inputs": text, "parameters": {"prompt_name": "query"}}))
found["handler"] = (answer - torch.as_tensor(st.encode_query(text))).abs().max().item()
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def newcomer() -> dict:
    run = subprocess.run(
        [sys.executable, "-c", NEWCOMER, str(ROOT)],
        cwd="/",
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return next(json.loads(line) for line in run.stdout.splitlines() if line.startswith('{"exits"'))


@pytest.mark.slow
def test_sentence_transformers_gives_our_vectors_at_every_exit(newcomer):
    assert newcomer["exits"] == list(PRESETS["mose-nano"]["exit_layers"])
    assert max(newcomer["differences"].values()) <= 1e-6


def test_pipeline_gives_the_deepest_exits_states(newcomer):
    assert newcomer["pipeline"] <= 1e-5


def test_the_inference_entry_point_gives_the_same_vectors(newcomer):
    assert newcomer["handler"] <= 1e-6


def test_every_head_loads_on_the_shipped_trunk(newcomer):
    assert newcomer["AutoModelForPreTraining"] == ["MoSEForPreTraining", True]
    assert newcomer["AutoModelForSequenceClassification"] == ["MoSEForSequenceClassification", True]


@pytest.mark.parametrize("side", ["left", "right"])
def test_an_embedding_does_not_depend_on_the_batch(side):
    """In float32, whatever stands beside a text, and on whichever side how much padding is."""
    model, tokenizer, exits = load_model(str(ROOT), device="cpu")
    code = (ROOT / "handler.py").read_text(encoding="utf-8")
    texts = ["x", "", *(code[start : start + 7 * start % 1500] for start in range(100, 9000, 1500))]
    ids = [row[:1024] for row in input_ids(tokenizer, texts)]
    tokenizer.padding_side = side
    with torch.no_grad():
        alone = [model(torch.tensor([row]), output_all_exits=True).exit_embeddings for row in ids]
        for size in (3, len(ids)):
            for start in range(0, len(ids), size):
                batch = tokenizer.pad({"input_ids": ids[start : start + size]}, return_tensors="pt")
                together = model(**batch, output_all_exits=True).exit_embeddings
                for number in range(len(exits)):
                    expected = torch.cat([one[number] for one in alone[start : start + size]])
                    torch.testing.assert_close(together[number], expected, atol=1e-6, rtol=0)


def test_weights_are_small_bf16_and_finite():
    path = ROOT / "model.safetensors"
    assert path.stat().st_size <= 32 * 2**20
    with safe_open(path, "pt") as file:
        for name in list(file.keys()):
            tensor = file.get_tensor(name)
            assert tensor.dtype == torch.bfloat16
            assert torch.isfinite(tensor).all(), name


def test_its_sizes_are_those_of_the_preset():
    config = json.loads((ROOT / "config.json").read_text(encoding="utf-8"))
    preset = json.loads(json.dumps(PRESETS["mose-nano"]))  # tuples become lists
    assert {name: config[name] for name in preset} == preset


def test_files_beside_the_weights_equal_those_that_training_writes():
    for name, content in sentence_transformers_files(PRESETS["mose-nano"]["hidden_size"]).items():
        assert json.loads((ROOT / name).read_text(encoding="utf-8")) == content, name


@pytest.mark.slow
@pytest.mark.parametrize("exit_layer", PRESETS["mose-nano"]["exit_layers"])
def test_search_finds_functions_by_plain_descriptions(exit_layer, tmp_path):
    """Of five functions, each is found by a plain description; a model that has not learned finds one."""
    from mose.inference.loading import load_model

    functions = {
        "read_lines": "def read_lines(path):\n    with open(path) as handle:\n        return handle.readlines()",
        "is_prime": "def is_prime(n):\n    return n > 1 and all(n % d for d in range(2, int(n**0.5) + 1))",
        "send_mail": "def send_mail(to, text):\n    with SMTP() as smtp:\n        smtp.sendmail(ME, to, text)",
        "flatten": "def flatten(nested):\n    for part in nested:\n        yield from part",
        "sha": "def sha(data):\n    return hashlib.sha256(data).hexdigest()",
    }
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "code.py").write_text("\n\n\n".join(functions.values()) + "\n")
    model, tokenizer, _ = load_model(str(ROOT), [exit_layer], "cpu")
    index = Index.build(tree, model, tokenizer, tmp_path / "index", exit_layer, progress=False)
    queries = {
        "read all lines of a file": "read_lines",
        "check if a number is prime": "is_prime",
        "send an email message": "send_mail",
        "turn a list of lists into a flat list": "flatten",
        "compute the hash of some bytes": "sha",
    }
    hits = {query: index.search(query, 1, hybrid=False)[0].name for query in queries}
    assert sum(hits[query] == name for query, name in queries.items()) >= 4, hits
