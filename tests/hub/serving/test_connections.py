"""Clients that take too long, too much, or too many places."""

import argparse
import asyncio
import json
import socket
import threading
import time
from contextlib import ExitStack, closing, suppress

import pytest

from mose.hub.serving.batching import Batcher
from mose.hub.serving.command import add_arguments, run
from mose.hub.serving.connections import OTHER_FILES, fit_open_files
from mose.hub.serving.middleware import SMALL_BODY, BodyLimit
from mose.utils.command_line import ArgumentError

HEAD = b"POST /embed HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"


def connect(server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=10)


def read_all(connection: socket.socket) -> bytes:
    """Return what the server sends until it closes the connection."""
    parts = []
    with suppress(ConnectionResetError):
        while part := connection.recv(65_536):
            parts.append(part)
    return b"".join(parts)


@pytest.fixture
def connections():
    """Sockets that are closed when the test ends."""
    with ExitStack() as stack:
        yield lambda server: stack.enter_context(closing(connect(server)))


def test_late_headers_and_bodies_end_while_others_are_answered(server, connections):
    """All together, so that the limit of one second passes once."""
    start = time.monotonic()
    late = {
        b"": b"408",  # not a byte
        b"POST /embed HTTP/1.1\r\nX-Slow: ": b"408",
        HEAD % 100 + b'{"inputs"': b"408",
        b"POST /nowhere HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab": b"408",
    }
    opened = {sent: connections(server) for sent in late}
    for sent, connection in opened.items():
        connection.sendall(sent)

    # A byte now and then does not make it last longer.
    for letter in b"abcdefgh":
        opened[b"POST /embed HTTP/1.1\r\nX-Slow: "].sendall(bytes([letter]))
        assert server.post("/embed", {"inputs": "x"}).status == 200
        time.sleep(0.05)

    for sent, status in late.items():
        answer = read_all(opened[sent])
        assert answer.startswith(b"HTTP/1.1 " + status) and json.loads(answer.partition(b"\r\n\r\n")[2])["error"]
    assert 0.9 < time.monotonic() - start < 5


def test_what_breaks_off_and_what_is_no_http_harms_nobody(server, connections):
    for sent in (
        HEAD % 1000 + b"{",
        b"\x00\x01\x02 no http at all\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        b"GET \xff\xfe HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 20_000,
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
    ):
        with connect(server) as connection, suppress(ConnectionResetError, BrokenPipeError):
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
            connection.recv(100)
    assert server.post("/embed", {"inputs": "still here"}).status == 200


def test_headers_have_a_largest_size(server, connections):
    connection = connections(server)
    with suppress(ConnectionResetError, BrokenPipeError):
        for _ in range(20):
            connection.sendall(b"GET / HTTP/1.1\r\nX: " if not _ else b"y" * 10_000)
        assert read_all(connection).startswith(b"HTTP/1.1 431")


@pytest.mark.parametrize(
    "head", [HEAD % 100_001, HEAD.replace(b"Content-Length: %d", b"Transfer-Encoding: chunked")]
)
def test_the_rest_of_a_body_that_is_too_large_is_not_read(server, connections, head):
    connection = connections(server)
    connection.sendall(head)
    with suppress(ConnectionResetError, BrokenPipeError):
        if b"chunked" in head:
            connection.sendall(b"%x\r\n" % 100_001 + b"x" * 100_001)
        assert read_all(connection).startswith(b"HTTP/1.1 413")


def test_requests_on_one_connection_one_after_another_and_piped(server, connections):
    connection = connections(server)
    body = json.dumps({"inputs": "x", "exit_layer": 0}).encode()
    for count in (1, 1, 3):
        connection.sendall((HEAD % len(body) + body) * count)
        answers = b""
        while answers.count(b"HTTP/1.1 200") < count or not answers.endswith(b"]]"):
            answers += connection.recv(65_536)


def test_a_new_client_takes_the_place_of_one_that_lets_the_server_wait(start_server, connections):
    with start_server("--max-connections", "4") as server:
        slow = [connections(server) for _ in range(4)]
        for connection in slow:
            connection.sendall(b"GET / HTTP/1.1\r\nX-Slow: ")
        time.sleep(0.05)
        for _ in range(6):
            assert server.post("/embed", {"inputs": "x"}).status == 200
        assert read_all(slow[0]) == b""  # the one that waited longest


def test_when_all_places_are_busy_new_clients_get_503(start_server, connections, engine, monkeypatch):
    is_open = threading.Event()
    embed = engine.embed
    monkeypatch.setattr(engine, "embed", lambda ids, exit_layer: (is_open.wait(10), embed(ids, exit_layer))[1])
    monkeypatch.setattr(engine, "measure_costs", dict)
    with start_server("--max-connections", "2") as server:
        body = json.dumps({"inputs": "x"}).encode()
        busy = [connections(server) for _ in range(2)]
        for connection in busy:
            connection.sendall(HEAD % len(body) + body)
        while server.service.batchers["model"].waiting_requests + len(server.server.server_state.tasks) < 2:
            time.sleep(0.005)
        answer = read_all(connections(server))
        assert answer.startswith(b"HTTP/1.1 503") and b"too many connections" in answer
        is_open.set()
        assert all(connection.recv(20).startswith(b"HTTP/1.1 200") for connection in busy)


def test_a_full_queue_answers_503_and_short_requests_still_fit(start_server, engine, monkeypatch):
    """One client sends as much as it can; what does not fit is refused at once, and says when to return."""
    is_open = threading.Event()
    embed = engine.embed
    monkeypatch.setattr(engine, "embed", lambda ids, exit_layer: (is_open.wait(10), embed(ids, exit_layer))[1])
    monkeypatch.setattr(engine, "measure_costs", dict)
    with start_server("--max-queue-tokens", "20000") as server:
        results = []

        def send(texts: list[str]) -> None:
            results.append(server.post("/v1/embeddings", {"model": "tiny", "input": texts}))

        long = [threading.Thread(target=send, args=(["x" * 500] * 20,)) for _ in range(6)]
        for thread in long:
            thread.start()
        while len(results) < 5:
            time.sleep(0.005)
        refused = [reply for reply in results if reply.status == 503]
        assert len(refused) == len(results) and all(int(reply.headers["retry-after"]) >= 1 for reply in refused)
        assert "tokens of requests like this one wait" in refused[0].json()["error"]["message"]

        short = threading.Thread(target=send, args=(["x"],))
        short.start()
        assert server.post("/embed", {"inputs": "x", "exit_layer": 0}).status == 200  # has a queue of its own
        is_open.set()
        for thread in (*long, short):
            thread.join(10)
        assert sorted(reply.status for reply in results) == [200, 200, 503, 503, 503, 503, 503]
        assert server.service.batchers["model"].waiting_tokens == 0


def test_work_for_clients_that_have_gone_is_dropped(start_server, engine, monkeypatch):
    is_open, rounds = threading.Event(), []

    def embed(ids, exit_layer):
        rounds.append(len(ids))
        is_open.wait(10)
        return engine.handler.embed(ids, exit_layer)

    monkeypatch.setattr(engine, "embed", embed)
    monkeypatch.setattr(engine, "measure_costs", dict)
    with start_server() as server:
        batcher: Batcher = server.service.batchers["model"]
        body = json.dumps({"inputs": ["x"] * 9}).encode()
        for _ in range(3):
            with connect(server) as connection:
                connection.sendall(HEAD % len(body) + body)
                while not rounds or (batcher.waiting_requests == 0 and len(rounds) == 0):
                    time.sleep(0.005)
                time.sleep(0.02)
        deadline = time.monotonic() + 10
        while batcher.waiting_tokens and time.monotonic() < deadline:
            time.sleep(0.005)
        assert batcher.waiting_tokens == 0
        is_open.set()
        assert server.post("/embed", {"inputs": "x"}).status == 200
        assert sum(rounds[1:]) == 1  # neither of the other two was embedded


def test_requests_that_are_not_answered_in_time_get_503(start_server, engine, monkeypatch, caplog):
    is_open = threading.Event()
    embed = engine.embed
    monkeypatch.setattr(engine, "embed", lambda ids, exit_layer: (is_open.wait(10), embed(ids, exit_layer))[1])
    monkeypatch.setattr(engine, "measure_costs", dict)
    with start_server("--shutdown-timeout", "0.3") as server:
        replies = []
        client = threading.Thread(target=lambda: replies.append(server.post("/embed", {"inputs": "x"})))
        client.start()
        while not server.service.batchers["model"].waiting_tokens:
            time.sleep(0.005)
        server.server.should_exit = True
        client.join(5)
        is_open.set()
    assert replies[0].status == 503 and replies[0].json()["error"] == "the server is ending"
    assert "Traceback" not in caplog.text


def test_large_bodies_share_a_bound_and_small_ones_are_free():
    reading = asyncio.Event()

    async def app(scope, receive, send):
        await receive()

    async def ask(limit: BodyLimit, size: int, more: bool) -> int:
        """Return the status of a request, or 200 if its body reached the application."""
        sent, statuses = [size], [200]

        async def receive():
            if sent:
                return {"type": "http.request", "body": b"x" * sent.pop(), "more_body": more}
            reading.set()
            return await asyncio.sleep(10)

        async def send(message):
            statuses.append(message.get("status", statuses[-1]))

        scope = {"type": "http", "method": "POST", "path": "/embed", "headers": []}
        await limit(scope, receive, send)
        return statuses[-1]

    async def attack() -> list[int]:
        limit = BodyLimit(app, max_bytes=10**6, max_total=500_000)
        slow = asyncio.create_task(ask(limit, 500_000, more=True))
        await reading.wait()
        statuses = [await ask(limit, size, more=False) for size in (SMALL_BODY, 200_000, 10**6 + 1)]
        slow.cancel()
        await asyncio.gather(slow, return_exceptions=True)
        assert limit.total == 0
        return [*statuses, await ask(limit, 200_000, more=False)]

    assert asyncio.run(attack()) == [200, 503, 413, 200]


def test_the_server_ends_in_time_whatever_clients_do(start_server, connections):
    with start_server("--shutdown-timeout", "1") as server:
        for sent in (b"", b"GET / HT", HEAD % 100 + b"{", b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"):
            connections(server).sendall(sent)
        # A client that reads nothing of a long answer.
        deaf = connections(server)
        body = json.dumps({"inputs": ["x"] * 100}).encode()
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        deaf.sendall((HEAD % len(body) + body) * 200)
        time.sleep(0.2)
        start = time.monotonic()
        server.server.should_exit = True
        server.thread.join(5)
        assert not server.thread.is_alive() and time.monotonic() - start < 2


# --- The command ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--api-key-file", "nowhere"], "--api-key-file nowhere"),
        (["--api-key-file", "/dev/null"], "/dev/null holds no key"),
        ([], "./nowhere: no such folder"),
    ],
)
def test_bad_arguments_are_named(flags, message):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    with pytest.raises(ArgumentError, match=message):
        run(parser.parse_args(["./nowhere", *flags]))
    for bad in (["--port", "70000"], ["--body-timeout", "nan"], ["--max-texts", "0"]):
        with pytest.raises(SystemExit):
            parser.parse_args(["./nowhere", *bad])


@pytest.mark.parametrize(
    ("limits", "raised", "connections"),
    [
        ((1_024, 500_000), 1_408, 1_024),  # raised as far as needed
        ((10_000, 10_000), 10_000, 1_024),
        ((1_000, 1_000), 1_000, 616),
    ],
)
def test_connections_fit_the_limit_of_open_files(monkeypatch, limits, raised, connections):
    current = list(limits)
    monkeypatch.setattr("resource.getrlimit", lambda kind: tuple(current))
    monkeypatch.setattr("resource.setrlimit", lambda kind, new: current.__setitem__(slice(None), new))
    assert fit_open_files(1_024) == connections
    assert current[0] == raised >= connections + OTHER_FILES


def test_too_few_open_files_for_any_connection_are_named(monkeypatch):
    monkeypatch.setattr("resource.getrlimit", lambda kind: (256, 256))
    monkeypatch.setattr("resource.setrlimit", lambda kind, new: None)
    with pytest.raises(ValueError, match="must be at least 385, got 256. Raise it"):
        fit_open_files(1_024)
