"""The routes over HTTP, through the clients that people use, against direct calls of the model."""

import json
import random
import re
import threading
from base64 import b64decode
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import openai
import pytest
import torch
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from mose.hub.serving.engine import Engine, ExitCost

CLIENTS = 200
TEXTS = ["def add(a, b): return a + b", "", "Add two numbers.", "é ∑ 漢 \U0001f600", "x = 1\n" * 40]


@pytest.fixture(scope="module")
def by_hand(engine, tiny_tokenizer):
    """One text at a time through the model, without batches, padding or tables."""

    def embed(text: str, exit_layer: int = 3) -> np.ndarray:
        batch = tiny_tokenizer(text, return_tensors="pt", split_special_tokens=True)
        batch.pop("token_type_ids", None)
        with torch.no_grad():
            return engine.handler.model(**batch, exit_layer=exit_layer).pooler_output[0].numpy()

    return embed


@pytest.fixture(scope="module")
def client(server) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


# --- OpenAI's client --------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["float", "base64"])
@pytest.mark.parametrize("exit_layer", [0, 1, 3])
def test_openais_client_gets_the_models_vectors(client, by_hand, exit_layer, encoding):
    name = f"tiny@{exit_layer}"
    answer = client.embeddings.create(model=name, input=TEXTS, encoding_format=encoding)
    vectors = [item.embedding for item in answer.data]
    if encoding == "base64":  # asked for by name, it is not decoded by the client
        vectors = [np.frombuffer(b64decode(vector), dtype="<f4") for vector in vectors]
    expected = [by_hand(text, exit_layer) for text in TEXTS]
    np.testing.assert_allclose(vectors, expected, atol=1e-5)
    assert answer.model == name and [item.index for item in answer.data] == list(range(len(TEXTS)))
    assert answer.usage.total_tokens > len(TEXTS)


def test_openais_client_by_default_and_with_fewer_dimensions(client, by_hand):
    answer = client.embeddings.create(model="tiny", input="Add two numbers.", dimensions=7)
    expected = by_hand("Add two numbers.")[:7]
    np.testing.assert_allclose(answer.data[0].embedding, expected / np.linalg.norm(expected), atol=1e-5)
    assert answer.model == "tiny@3"  # the exit that answered
    extra = {"exit_layer": 1, "prompt_name": "query"}
    assert client.embeddings.create(model="tiny", input="x", extra_body=extra).model == "tiny@1"


def test_openais_client_lists_the_exits(client):
    names = [model.id for model in client.models.list()]
    assert names == ["tiny", "tiny@0", "tiny@1", "tiny@3"]
    assert client.models.retrieve("tiny@1").id == "tiny@1"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("tiny@2")


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"model": "gpt"}, openai.NotFoundError, "model must be one of tiny, tiny@0, tiny@1, tiny@3, got 'gpt'"),
        ({"input": []}, openai.BadRequestError, "input must be a text, or a list of at least one text"),
        ({"input": ["x", None]}, openai.BadRequestError, r"input\[1\] must be a text, got null"),
        ({"input": [[1, 2]]}, openai.BadRequestError, "Send the texts themselves"),
        ({"input": ["x"] * 101}, openai.APIStatusError, "at most 100 texts, got 101"),
        ({"dimensions": 33}, openai.BadRequestError, r"dimensions must be an integer in \[1, 32\], got 33"),
        ({"dimensions": True}, openai.BadRequestError, "dimensions: Input should be a valid integer"),
        ({"encoding_format": "int8"}, openai.BadRequestError, "encoding_format: Input should be 'float' or"),
        ({"extra_body": {"exit_layer": 2}}, openai.BadRequestError, "exit_layer must be one of 0, 1, 3, got 2"),
        ({"extra_body": {"top_k": 2}}, openai.BadRequestError, "top_k: Extra inputs are not permitted"),
        ({"model": "tiny@1", "extra_body": {"exit_layer": 3}}, openai.BadRequestError, "model names exit 1"),
        (
            {"extra_body": {"latency_budget_ms": 0}},
            openai.BadRequestError,
            "latency_budget_ms: Input should be g",
        ),
        (
            {"model": "tiny@1", "extra_body": {"latency_budget_ms": 5}},
            openai.BadRequestError,
            "both choose the exit",
        ),
    ],
)
def test_openais_client_raises_its_own_errors(client, changed, error, message):
    with pytest.raises(error, match=message) as caught:
        client.embeddings.create(**{"model": "tiny", "input": "x", **changed})
    assert caught.value.body["type"] in ("invalid_request_error", "not_found_error")


# --- The Hub's client, and TEI ----------------------------------------------------------------------------


def test_the_hubs_client_with_all_that_it_can_send(server, by_hand, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)  # the server is on this machine
    client = InferenceClient(server.url)
    options = {"truncate": True, "truncation_direction": "left", "dimensions": 9, "normalize": False}
    for encoding in ("float", "base64"):
        vectors = client.feature_extraction(TEXTS[:3], encoding_format=encoding, **options)
        np.testing.assert_allclose(vectors, [by_hand(text)[:9] for text in TEXTS[:3]], atol=1e-5)
    assert client.feature_extraction("x", prompt_name="query").shape == (32,)

    long = "x = 1\n" * 2_000
    left, right = (
        client.feature_extraction(f"a{long}b", truncation_direction=word) for word in ("left", "right")
    )
    assert np.abs(left - right).max() > 1e-4
    with pytest.raises(HfHubHTTPError, match="must have at most 1024 tokens"):
        client.feature_extraction(long, truncate=False)


def test_tei_answers_a_list_for_one_text_as_well(server, by_hand):
    body = {"inputs": "Add two numbers.", "truncate": True, "truncation_direction": "Right", "normalize": True}
    reply = server.post("/embed", body)
    np.testing.assert_allclose(reply.json(), [by_hand("Add two numbers.")], atol=1e-5)
    assert reply.headers["x-mose-exit-layer"] == "3"

    info = server.request("GET", "/info").json()
    assert info["max_client_batch_size"] == 100 and info["max_input_length"] == 1024 and info["auto_truncate"]
    assert info["model_type"] == {"embedding": {"pooling": "gated"}} and info["exit_layers"] == [0, 1, 3]
    error = server.post("/embed", {"inputs": []}).json()
    assert error["error_type"] == "Validation" and "at least one text" in error["error"]


def test_the_toolkits_routes(server):
    body = {"inputs": "x", "parameters": {"exit_layer": 1, "truncate_dim": 5}}
    assert server.post("/predict", body).json() == server.post("/", body).json()
    # As `curl -d` sends it.
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert server.post("/", body, **form).json() == server.post("/", body).json()
    for path in ("/health", "/"):
        assert server.request("GET", path).status == server.request("HEAD", path).status == 200


@settings(max_examples=8)
@given(st.data())
def test_every_dialect_gives_the_same_vectors(server, engine, data):
    strategy = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=40), min_size=1, max_size=5)
    texts, exit_layer = data.draw(strategy), data.draw(st.sampled_from([0, 1, 3]))
    expected = engine.handler({"inputs": texts, "parameters": {"exit_layer": exit_layer}})
    toolkit = server.post("/", {"inputs": texts, "parameters": {"exit_layer": exit_layer}}).json()
    tei = server.post("/embed", {"inputs": texts, "exit_layer": exit_layer}).json()
    answer = server.post("/v1/embeddings", {"input": texts, "model": f"tiny@{exit_layer}"}).json()
    for vectors in (toolkit, tei, [item["embedding"] for item in answer["data"]]):
        np.testing.assert_allclose(vectors, expected, atol=1e-5)


def test_bf16_is_near_and_the_lookup_the_same(engine, tiny_model_folder):
    rounded = Engine(tiny_model_folder, "cpu", dtype="bf16")
    ids = [[5, 6, 7, 8], [9] * 20]
    for exit_layer in engine.exit_layers:
        difference = np.abs(rounded.embed(ids, exit_layer) - engine.embed(ids, exit_layer)).max()
        assert 0 < difference < 0.03
    np.testing.assert_array_equal(rounded.embed_static(ids, 0), engine.embed_static(ids, 0))
    assert (engine.dtype, rounded.dtype) == (torch.float32, torch.bfloat16)


# --- The exit by time -------------------------------------------------------------------------------------


def test_the_deepest_exit_that_answers_in_time(start_server):
    with start_server() as server:
        server.service.costs = {0: ExitCost(0.001, 0), 1: ExitCost(0.01, 0), 3: ExitCost(0.02, 0.001)}

        def exit_for(budget, texts="x", path="/embed"):
            reply = server.post(path, {"inputs": texts, "parameters": {"latency_budget_ms": budget}})
            return int(reply.headers["x-mose-exit-layer"]) if reply.status == 200 else reply.json()["error"]

        assert [exit_for(budget, path="/") for budget in (2, 15, 60)] == [0, 1, 3]
        assert exit_for(60, ["a long text " * 20] * 3, "/") == 1  # tokens count
        assert "latency_budget_ms must be at least 1.0 for 3 tokens (exit 0), got 0.5" in exit_for(0.5, path="/")
        body = {"model": "tiny", "input": "x", "latency_budget_ms": 15}
        assert server.post("/v1/embeddings", body).json()["model"] == "tiny@1"


def test_measured_costs_grow_with_depth(engine):
    costs = engine.measure_costs()
    seconds = [costs[exit_layer].seconds(500) for exit_layer in engine.exit_layers]
    assert seconds[0] > 0 and seconds == sorted(seconds)


# --- Errors -----------------------------------------------------------------------------------------------


def malformed(draw: random.Random, field: str) -> bytes:
    x = f'"{field}": "x"'.encode()
    deep = b"[" * 40_000 + b"]" * 40_000
    return draw.choice(
        [
            b"",
            b"{",
            b"null",
            b"\xff\xfe\x00garbage",
            bytes(draw.randrange(256) for _ in range(300)),
            json.dumps({field: []}).encode(),
            json.dumps({field: 5}).encode(),
            b"{" + x + b', "exit_layer": 2}',
            b"{" + x + b', "exit_layer": NaN}',
            b"{" + x + b', "latency_budget_ms": Infinity}',
            json.dumps({field: "\ud800"}).encode(),
            json.dumps({field: ["x", None]}).encode(),
            json.dumps({field: ["x"] * 101}).encode(),
            json.dumps({field: "x" * 60_001}).encode(),
            json.dumps({field: "x" * 110_000}).encode(),
            json.dumps({field: [1] * 30_000}).encode(),
            deep,
            b'{"%s": %s}' % (field.encode(), deep[:90_000]),
            b'{"%s": [%s]}' % (field.encode(), b"[" * 950 + b"]" * 950),
            b"{" + x + b', "exit_layer": ' + b"1" * 5_000 + b"}",
        ]
    )


def assert_error_shape(path: str, reply) -> None:
    error = reply.json()
    if path.startswith("/v1"):
        assert error.keys() == {"error"} and error["error"].keys() == {"message", "type", "param", "code"}
    else:
        assert isinstance(error["error"], str) and error.keys() - {"error"} <= {"error_type"}


@pytest.mark.parametrize("path", ["/", "/predict", "/embed", "/v1/embeddings"])
def test_every_kind_of_malformed_request(server, path):
    draw = random.Random(path)
    for _ in range(40):
        body = malformed(draw, "input" if path.startswith("/v1") else "inputs")
        reply = server.post(path, body)
        assert 400 <= reply.status < 500, body[:80]
        assert_error_shape(path, reply)


@pytest.mark.parametrize("path", ["/nowhere", "/v1", "/v1/chat/completions", "/embed/", "/docs/x", "/%00%ff"])
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_unknown_routes_and_methods_are_json(server, path, method):
    reply = server.request(method, path)
    assert reply.status in (404, 405, 400)
    assert reply.headers["content-type"] == "application/json"
    assert_error_shape(path, reply)


@pytest.mark.parametrize("path", ["/embed", "/v1/embeddings", "/predict", "/metrics", "/"])
def test_methods_that_a_route_has_not_are_json(server, path):
    reply = server.request("PATCH", path)
    assert reply.status == 405 and "allow" in reply.headers
    assert_error_shape(path, reply)


def test_a_failure_of_the_model_is_a_500_that_tells_no_secrets(start_server, engine, monkeypatch):
    def broken(ids, exit_layer):
        raise RuntimeError("/secret/path")

    monkeypatch.setattr(engine, "embed", broken)
    monkeypatch.setattr(engine, "measure_costs", lambda: {0: ExitCost(0, 0)})
    with start_server() as server:
        reply = server.post("/", {"inputs": "x"})
        assert reply.status == 500 and b"secret" not in reply.content
        assert server.post("/", {"inputs": "x", "exit_layer": 0}).status == 200


def test_weights_that_are_not_finite_are_a_500(start_server, engine, monkeypatch):
    monkeypatch.setattr(engine, "embed", lambda ids, exit_layer: np.full((len(ids), 32), np.nan, np.float32))
    with start_server() as server:
        assert server.post("/embed", {"inputs": "x"}).status == 500


# --- Documentation, metrics and keys ----------------------------------------------------------------------


def test_the_schema_describes_every_route(server):
    schema = server.request("GET", "/openapi.json").json()
    routes = {f"{method} {path}" for path, item in schema["paths"].items() for method in item}
    assert routes >= {
        *("get /health", "post /", "post /predict", "post /embed", "get /info", "get /metrics"),
        *("post /v1/embeddings", "get /v1/models", "get /v1/models/{model}"),
    }
    request = schema["components"]["schemas"]["OpenAIRequest"]
    assert set(request["required"]) == {"model", "input"} and "latency_budget_ms" in request["properties"]


def test_the_documentation_needs_no_other_machine(server):
    page = server.request("GET", "/docs").content.decode()
    files = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert len(files) == 3 and all(file.startswith("/") for file in files)
    sizes = {file: len(server.request("GET", file).content) for file in files}
    assert server.request("GET", files[0]).status == 200 and max(sizes.values()) > 10**6, sizes
    assert server.request("GET", "/static-offline-docs/nothing.js").json()["error"]


def test_metrics_count_requests_texts_and_exits(start_server):
    with start_server() as server:
        server.post("/embed", {"inputs": ["a", "b"], "exit_layer": 1})
        server.post("/embed", {"inputs": []})
        server.post("/x" * 50, {})
        text = server.request("GET", "/metrics").content.decode()
    samples = {}
    for family in text_string_to_metric_families(text):
        samples |= {(sample.name, *sample.labels.values()): sample.value for sample in family.samples}
    assert samples["mose_requests_total", "/embed", "200"] == 1
    assert samples["mose_requests_total", "/embed", "400"] == 1
    assert samples["mose_requests_total", "other", "404"] == 1
    assert samples["mose_request_seconds_count", "1", "/embed"] == 1
    assert samples["mose_round_texts_sum", "1"] == 2
    assert samples["mose_queue_tokens", "model"] == 0 and samples["mose_connections",] >= 1


def test_a_key_is_asked_for_everywhere_but_by_probes(start_server):
    with start_server(keys=("first", "sécond")) as server:
        for method, path in (("POST", "/"), ("POST", "/v1/embeddings"), ("GET", "/metrics"), ("GET", "/nowhere")):
            for headers in ({}, {"Authorization": "Bearer third"}, {"Authorization": "first"}):
                reply = server.request(method, path, **headers)
                assert reply.status == 401 and reply.headers["www-authenticate"] == "Bearer"
                assert_error_shape(path, reply)
        assert server.request("GET", "/health").status == 200
        assert server.post("/", {"inputs": "x"}, Authorization="bearer first").status == 200

        allowed = openai.OpenAI(base_url=f"{server.url}/v1", api_key="first")
        assert len(allowed.embeddings.create(model="tiny", input="x").data) == 1
        with pytest.raises(openai.AuthenticationError):
            allowed.with_options(api_key="wrong").models.list()


# --- Many clients -----------------------------------------------------------------------------------------


def well_formed(draw: random.Random) -> dict:
    words = ("def", "add", "first", "return", "sum", "of", "two", "numbers", "(", ")", ":", "+", "é", "漢")
    few = [draw.choice([0, 1, 4, 8, 16, 32]) for _ in range(draw.choice([1, 2, 7]))]
    texts = [" ".join(draw.choices(words, k=length)) for length in ([400] if draw.random() < 0.05 else few)]
    parameters = {
        "exit_layer": draw.choice([0, 1, 3]),
        "prompt_name": draw.choice(["query", "python", None]),
        "truncate_dim": draw.choice([None, 5, 32]),
    }
    parameters = {name: value for name, value in parameters.items() if value is not None}
    return {"inputs": draw.choice([texts, texts[0]]), "parameters": parameters}


@pytest.mark.slow
def test_two_hundred_clients_at_once(engine, server):
    """Mixed sizes, one in ten malformed: each well-formed one gets the vectors that a direct call gives."""
    draw = random.Random(0)
    bad = set(draw.sample(range(CLIENTS), CLIENTS // 10))
    requests = [malformed(draw, "inputs") if i in bad else well_formed(draw) for i in range(CLIENTS)]
    together = threading.Barrier(CLIENTS)

    def client(request):
        together.wait(60)
        return server.post("/", request)

    with ThreadPoolExecutor(CLIENTS) as pool:
        replies = list(pool.map(client, requests))
    for i, reply in enumerate(replies):
        if i in bad:
            assert 400 <= reply.status < 500, (reply.status, requests[i][:80])
        else:
            expected = np.array(engine.handler(requests[i]))
            np.testing.assert_allclose(reply.json(), expected, atol=1e-5)
