"""The handler over HTTP: a server on loopback, many clients, and every request accounted for."""

import http.client
import json
import random
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import uvicorn

from mose.handler import EndpointHandler
from mose.hub.files import write_sentence_transformers_files
from mose.hub.serve import application

CLIENTS = 200


@pytest.fixture(scope="module")
def handler(tiny_model_folder) -> EndpointHandler:
    write_sentence_transformers_files(Path(tiny_model_folder))
    return EndpointHandler(tiny_model_folder, max_texts=100, max_characters=60_000, device="cpu")


@pytest.fixture(scope="module")
def port(handler):
    """A server in a thread of this process, on a port that was free."""
    config = uvicorn.Config(application(handler, max_bytes=100_000), port=0, log_level="error", backlog=CLIENTS)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    thread.join(10)
    assert not thread.is_alive()


def post(port: int, body: bytes, path: str = "/") -> tuple[int, object]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("POST", path, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def malformed(draw: random.Random) -> bytes:
    deep = b"[" * 50_000 + b"]" * 50_000
    return draw.choice(
        [
            b"",
            b"{",
            b"\xff\xfe\x00garbage",
            bytes(draw.randrange(256) for _ in range(300)),
            b'{"inputs": []}',
            b'{"inputs": 5}',
            b'{"inputs": "x", "parameters": {"exit_layer": 2}}',
            b'{"inputs": "x", "parameters": {"exit_layer": NaN}}',
            b'{"inputs": "\\ud800"}',
            b'{"inputs": ["x", null]}',
            json.dumps({"inputs": ["x"] * 101}).encode(),
            json.dumps({"inputs": "x" * 60_001}).encode(),
            b'{"inputs": "' + b"x" * 110_000 + b'"}',
            deep[:90_000],
            b'{"inputs": "x", "parameters": {"exit_layer": ' + b"1" * 5_000 + b"}}",
        ]
    )


def well_formed(draw: random.Random) -> dict:
    words = [
        "def",
        "add",
        "first",
        "second",
        "return",
        "sum",
        "of",
        "two",
        "numbers",
        "(",
        ")",
        ":",
        "+",
        "é",
        "漢",
    ]
    lengths = (
        [400]
        if draw.random() < 0.05
        else [draw.choice([0, 1, 4, 8, 16, 32]) for _ in range(draw.choice([1, 2, 7]))]
    )
    texts = [" ".join(draw.choices(words, k=length)) for length in lengths]
    parameters = {
        "exit_layer": draw.choice([0, 1, 3]),
        "prompt_name": draw.choice(["query", "python", None]),
        "truncate_dim": draw.choice([None, 5, 32]),
    }
    parameters = {name: value for name, value in parameters.items() if value is not None}
    return {"inputs": draw.choice([texts, texts[0]]), "parameters": parameters}


@pytest.mark.slow
def test_two_hundred_clients_at_once(handler, port):
    """Mixed sizes, one in ten malformed: each well-formed one gets the vectors that a direct call gives."""
    draw = random.Random(0)
    bad = set(draw.sample(range(CLIENTS), CLIENTS // 10))
    requests = [malformed(draw) if i in bad else well_formed(draw) for i in range(CLIENTS)]
    together = threading.Barrier(CLIENTS)

    def client(request) -> tuple[int, object]:
        body = request if isinstance(request, bytes) else json.dumps(request).encode()
        together.wait(60)
        return post(port, body)

    with ThreadPoolExecutor(CLIENTS) as pool:
        answers = list(pool.map(client, requests))
    assert len(answers) == CLIENTS
    for i, (status, answer) in enumerate(answers):
        if i in bad:
            assert 400 <= status < 500 and isinstance(answer["error"], str), (status, requests[i][:80])
        else:
            assert status == 200, answer
            expected = torch.tensor(handler(requests[i]))
            torch.testing.assert_close(torch.tensor(answer), expected, atol=1e-6, rtol=0)
    assert post(port, b'{"inputs": "still here"}')[0] == 200


@pytest.mark.parametrize("seed", range(3))
def test_every_kind_of_malformed_request_alone(port, seed):
    draw = random.Random(seed)
    for _ in range(20):
        body = malformed(draw)
        status, answer = post(port, body)
        assert 400 <= status < 500 and answer.keys() == {"error"}, body[:80]


def test_what_breaks_off_and_what_is_no_http_harms_nobody(port):
    for sent in (
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{",
        b"\x00\x01\x02 no http at all\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ):
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(sent)
    assert post(port, b'{"inputs": "still here"}')[0] == 200


def test_routes_are_the_toolkits(port):
    assert post(port, b'{"inputs": "x"}', "/predict") == post(port, b'{"inputs": "x"}')
    for path, status in (("/health", 200), ("/", 200), ("/nowhere", 404)):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("GET", path)
        assert connection.getresponse().status == status
        connection.close()


def test_a_failure_of_the_model_is_a_500_that_tells_no_secrets():
    from mose.hub.serve import respond

    def broken(data):
        raise RuntimeError("/secret/path")

    body, status = respond(broken, b'{"inputs": "x"}')
    assert status == 500 and b"secret" not in body
    body, status = respond(lambda data: [float("nan")], b'{"inputs": "x"}')
    assert status == 500


def test_nesting_of_any_depth_is_the_clients_fault():
    """Some depths can just be decoded, and no more be shown in a message."""
    from mose.handler import _shorten
    from mose.hub.serve import respond

    for depth in (*range(900, 1_010), 10_000, 100_000):
        body, status = respond(lambda data: [_shorten(data)], b"[" * depth + b"]" * depth)
        assert status in (200, 400), body
