"""A published repository as a stranger meets it: by its id, in a fresh process, where `mose` is not installed."""

import json

import numpy as np
import pytest
import torch
from loopback_hub import LoopbackHub
from sentence_transformers import SentenceTransformer

from mose.hub.publish import publish

pytestmark = pytest.mark.slow

REPO = "tester/tiny-mose"
TEXTS = ["def add(first, second):\n    return first + second", "Add two numbers.", "x"]
EXITS = (0, 1, 3)

STRANGER = """
import json, logging
import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer, pipeline
from transformers.utils import logging as transformers_logging

repo, texts = sys.argv[1], json.loads(sys.argv[2])
complaints, results = [], {}
handler = logging.Handler(logging.WARNING)
handler.emit = lambda record: complaints.append(record.getMessage())
transformers_logging.get_logger().addHandler(handler)
logging.getLogger("sentence_transformers").addHandler(handler)

tokenizer = AutoTokenizer.from_pretrained(repo, trust_remote_code=True)
batch = tokenizer(texts, padding=True, return_tensors="pt")

def embed(model, **options):
    with torch.no_grad():
        return model.eval()(**batch, **options).pooler_output.numpy()

# A repository for each exit, of which nothing but this is asked: what is downloaded is what the exit costs.
for exit_layer in (0, 1, 3):
    model = AutoModel.from_pretrained(
        f"tester/for-exit{exit_layer}", trust_remote_code=True, revision="v1", exit_layer=exit_layer,
        variant=f"exit{exit_layer}",
    )
    assert type(model).__module__.startswith("transformers_modules.") and len(model.layers) == exit_layer
    results[f"exit {exit_layer}"] = embed(model)
whole = AutoModel.from_pretrained(repo, trust_remote_code=True)
for exit_layer in (0, 1, 3):
    results[f"whole {exit_layer}"] = embed(whole, exit_layer=exit_layer)
results["pipeline"] = np.array(pipeline("feature-extraction", model=repo, trust_remote_code=True)(texts[0]))

from sentence_transformers import SentenceTransformer

encoder = SentenceTransformer(repo, trust_remote_code=True, device="cpu")
for exit_layer in (0, 1, 3):
    results[f"query {exit_layer}"] = encoder.encode_query(texts, exit_layer=exit_layer)
    results[f"document {exit_layer}"] = encoder.encode_document(texts, exit_layer=exit_layer)
shallow = SentenceTransformer(
    "tester/shallow", trust_remote_code=True, device="cpu",
    model_kwargs={"variant": "exit1"}, config_kwargs={"exit_layer": 1},
)
results["shallow"] = shallow.encode(texts)
try:
    AutoModel.from_pretrained(repo, trust_remote_code=True, variant="exit1")
except ValueError as error:
    complaints.append(f"refused: {error}")
np.savez(sys.argv[3], **results)
print(json.dumps(complaints))
"""


@pytest.fixture(scope="module")
def stranger(shared_model_folder, tmp_path_factory):
    """The Hub that served them, the stranger's results, what it complained of, bytes by exit."""
    results = tmp_path_factory.mktemp("stranger") / "results.npz"
    with LoopbackHub() as hub, pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        patch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        for repo in (REPO, "tester/shallow", *(f"tester/for-exit{e}" for e in EXITS)):
            publish(shared_model_folder, repo, endpoint=hub.url, token=hub.token, private=True, tag="v1")
        done = hub.python(STRANGER, REPO, json.dumps(TEXTS), str(results), without_mose=True)
        yield hub, dict(np.load(results)), json.loads(done.stdout.splitlines()[-1])


def ours(model, tokenizer, texts, **options) -> np.ndarray:
    with torch.no_grad():
        return model(**tokenizer(texts, padding=True, return_tensors="pt"), **options).pooler_output.numpy()


@pytest.mark.parametrize("exit_layer", EXITS)
def test_vectors_are_those_from_before_publishing(stranger, shared_tiny_model, tiny_tokenizer, exit_layer):
    results = stranger[1]
    expected = ours(shared_tiny_model, tiny_tokenizer, TEXTS, exit_layer=exit_layer)
    assert np.array_equal(results[f"exit {exit_layer}"], expected)
    assert np.array_equal(results[f"whole {exit_layer}"], expected)


def test_sentence_transformers_and_the_pipeline_give_what_they_gave_before(
    stranger, shared_model_folder, shared_tiny_model, tiny_tokenizer
):
    results = stranger[1]
    local = SentenceTransformer(str(shared_model_folder), trust_remote_code=True, device="cpu")
    for exit_layer in EXITS:
        assert np.array_equal(results[f"query {exit_layer}"], local.encode_query(TEXTS, exit_layer=exit_layer))
        assert np.array_equal(
            results[f"document {exit_layer}"], local.encode_document(TEXTS, exit_layer=exit_layer)
        )
    assert np.array_equal(results["shallow"], local.encode(TEXTS, exit_layer=1))
    with torch.no_grad():
        states = shared_tiny_model(**tiny_tokenizer(TEXTS[:1], return_tensors="pt")).last_hidden_state
    assert np.array_equal(results["pipeline"], states.numpy())


def test_an_exit_downloads_the_shards_up_to_it_and_no_more(stranger):
    hub = stranger[0]
    shards = {name: len(content) for name, content in hub.repository(REPO).files().items() if "-of-0000" in name}
    for place, exit_layer in enumerate(EXITS):
        for repo in (f"tester/for-exit{exit_layer}", *(["tester/shallow"] if exit_layer == 1 else [])):
            served = hub.served[repo]
            weights = {name: size for name, size in served.items() if name.endswith(".safetensors")}
            assert weights == dict(sorted(shards.items())[: place + 1])  # each once, whole
            indices = {name for name in served if "index" in name}
            assert indices == {f"model.safetensors.index.exit{exit_layer}.json"}
    assert {name: size for name, size in hub.served[REPO].items() if name in shards} == shards


def test_nobody_complains_but_of_a_variant_without_its_exit(stranger):
    # transformers advises to pin the revision of code, as "v1" does above.
    report, refused = [
        text for text in stranger[2] if "To avoid downloading new versions of the code" not in text
    ]
    assert "LOAD REPORT" in report and "exits.3." in report
    assert "refused:" in refused and "it lacks" in refused and "Load it at an exit it holds" in refused
