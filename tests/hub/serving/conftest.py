"""A server in a thread of this process, around a model of three blocks."""

import argparse
import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from mose.hub.files import write_sentence_transformers_files
from mose.hub.serving.command import add_arguments, build_server
from mose.hub.serving.engine import Engine


class Reply(NamedTuple):
    """The server's answer."""

    status: int
    headers: dict[str, str]
    content: bytes

    def json(self) -> Any:
        return json.loads(self.content)


@dataclass
class RunningServer:
    """A server that listens on loopback."""

    port: int
    service: Any
    guard: Any
    thread: threading.Thread
    server: Any

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def request(self, method: str, path: str, body: Any = None, **headers: str) -> Reply:
        content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, content, headers)
            response = connection.getresponse()
            return Reply(response.status, dict(response.getheaders()), response.read())
        finally:
            connection.close()

    def post(self, path: str, body: Any, **headers: str) -> Reply:
        return self.request("POST", path, body, **headers)


@pytest.fixture(scope="session")
def engine(tiny_model_folder) -> Engine:
    write_sentence_transformers_files(Path(tiny_model_folder))
    engine = Engine(tiny_model_folder, "cpu", max_texts=100, max_characters=60_000)
    engine.name = "tiny"
    return engine


@pytest.fixture(scope="session")
def start_server(engine) -> Callable[..., Any]:
    """Starts a server with flags of `mose hub serve`; a context manager."""

    @contextmanager
    def start(*flags: str, keys: tuple[str, ...] = ()) -> Iterator[RunningServer]:
        parser = argparse.ArgumentParser()
        add_arguments(parser)
        options = parser.parse_args(["-", "--port", "0", "--max-body-bytes", "100000", *flags])
        server, service = build_server(engine, options, keys)
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.005)

        port = server.servers[0].sockets[0].getsockname()[1]
        yield RunningServer(port, service, server.guard, thread, server)
        server.should_exit = True
        thread.join(10)
        service.close(10)
        assert not thread.is_alive()

    return start


@pytest.fixture(scope="session")
def server(start_server) -> Iterator[RunningServer]:
    """A server that tests share; none of them may stop it or fill its queue."""
    with start_server("--header-timeout", "1", "--body-timeout", "1") as running:
        yield running
