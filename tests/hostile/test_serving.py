"""Floods against the server as a process of its own, with the shipped model."""

import http.client
import json
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from mose.utils.locations import package_folder

HEAD = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
MEGABYTE = 2**20


class ServerProcess(NamedTuple):
    """A server, and the lines of its log so far."""

    process: subprocess.Popen
    port: int
    log: Path

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)

    def ask(self, inputs: object, timeout: float = 60, **parameters: object) -> int:
        """Return the status of a request's answer."""
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)) as connection:
            connection.request("POST", "/", json.dumps({"inputs": inputs, **parameters}).encode())
            response = connection.getresponse()
            response.read()
            return response.status

    def memory(self) -> int:
        """Return the bytes that the process holds."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return 1024 * int(re.search(r"VmRSS:\s+(\d+)", status)[1])

    def end(self, within: float) -> None:
        """Check that SIGTERM ends the process in time."""
        start = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(60) in (-signal.SIGTERM, 128 + signal.SIGTERM)
        assert time.monotonic() - start < within + 1
        assert len(self.log.read_text().splitlines()) < 50


@pytest.fixture
def start(tmp_path):
    """Starts a server with flags; code in front of it may set limits of the process."""

    @contextmanager
    def start_process(*flags: str, before: str = "") -> Iterator[ServerProcess]:
        log = tmp_path / "log"
        code = f"import sys\n{before}\nfrom mose.hub.__main__ import main\nsys.exit(main(sys.argv[1:]))"
        command = [sys.executable, "-c", code, "serve", str(package_folder()), "--port", "0", "--device", "cpu"]
        with log.open("w") as stream:
            process = subprocess.Popen([*command, *flags], stderr=stream)
        try:
            while not (port := re.search(r"listening on http://127.0.0.1:(\d+)", log.read_text())):
                assert process.poll() is None, log.read_text()
                time.sleep(0.1)
            yield ServerProcess(process, int(port[1]), log)
        finally:
            process.kill()
            process.wait()

    return start_process


def test_three_hundred_slow_clients(start, tries):
    with start("--header-timeout", "5", "--shutdown-timeout", "5") as server, ExitStack() as stack:
        slow = [stack.enter_context(closing(server.connect())) for _ in range(300)]
        for connection in slow:
            connection.sendall(b"POST / HTTP/1.1\r\nX-Slow: ")
        for _ in range(20):
            assert server.ask("x") == 200
        time.sleep(6)
        assert all(connection.recv(12) == b"HTTP/1.1 408" for connection in slow)
        server.end(5)
    tries.record("300 clients that never finish their headers", "closed in time, others answered")


def test_unfinished_bodies_of_sixteen_megabytes(start, tries):
    with start("--body-timeout", "20", "--shutdown-timeout", "5") as server, ExitStack() as stack:
        before, refused = server.memory(), 0
        slow = [stack.enter_context(closing(server.connect())) for _ in range(100)]

        def send(connection: socket.socket) -> None:
            # Without the last byte, so that none is ever complete.
            with suppress(OSError):
                connection.sendall(HEAD % (16 * MEGABYTE) + b" " * (16 * MEGABYTE - 1))

        threads = [threading.Thread(target=send, args=(connection,)) for connection in slow]
        for thread in threads:
            thread.start()
        for _ in range(20):
            assert server.ask("x") == 200
        time.sleep(3)
        grown = server.memory() - before
        for connection in slow:
            connection.settimeout(0.05)
            with suppress(OSError):
                refused += connection.recv(12) == b"HTTP/1.1 503"
        assert refused > 80
        # The bound on bodies, and what the sockets of all hold.
        assert grown < 300 * MEGABYTE, f"{grown / MEGABYTE:.0f} MB"
        server.end(5)
    tries.record("100 unfinished bodies of 16 MB", "503 beyond the bound, memory bounded, others answered")


def test_more_connections_than_open_files(start, tries):
    limit = "import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (700, 700))"
    with start("--shutdown-timeout", "5", before=limit) as server, ExitStack() as stack:
        for number in range(900):
            connection = stack.enter_context(closing(server.connect()))
            with suppress(OSError):
                connection.sendall(HEAD % 100 + b"{" if number % 2 else b"GET / HT")
        time.sleep(1.5)
        for _ in range(20):
            assert server.ask("x") == 200
        server.end(5)
    tries.record("900 connections on 700 open files", "others answered, few log lines")


def test_an_open_body_when_the_server_ends(start, tries):
    with start("--shutdown-timeout", "3") as server, server.connect() as connection:
        connection.sendall(HEAD % 1000 + b"{")
        time.sleep(0.2)
        server.end(3)
    tries.record("SIGTERM with an open body", "ends in time")


def test_two_million_characters_from_twelve_clients(start, tries):
    with start("--shutdown-timeout", "10") as server:
        before, statuses, waits = server.memory(), [], []
        texts = ["return x + y  # sum\n" * 97] * 1_024

        def flood() -> None:
            # The one that is admitted takes minutes, and is cut off when the server ends.
            with suppress(OSError, http.client.HTTPException):
                statuses.append(server.ask(texts, timeout=300))

        threads = [threading.Thread(target=flood) for _ in range(12)]
        for thread in threads:
            thread.start()
        peak, deadline = 0, time.monotonic() + 60
        while len(statuses) < 11 or len(waits) < 12:
            begin = time.monotonic()
            assert server.ask("x", exit_layer=len(waits) % 4) == 200
            waits.append(time.monotonic() - begin)
            peak = max(peak, server.memory())
            assert begin < deadline, statuses

        assert statuses == [503] * 11
        assert max(waits) < 10, sorted(waits)
        assert peak - before < 600 * MEGABYTE, f"{(peak - before) / MEGABYTE:.0f} MB"
        print(f"small requests: at most {max(waits):.1f} s; memory: {(peak - before) / MEGABYTE:.0f} MB more")
        server.end(10)
        for thread in threads:
            thread.join()
    tries.record("12 requests of 2 M characters, then small ones", "503 to the rest, small ones in seconds")


def test_batches_of_ever_new_shapes(start, tries):
    """A compiled kernel for each shape must not stay in memory."""
    draw = random.Random(0)
    with start() as server:

        def send(count: int) -> int:
            for _ in range(count):
                texts = [" ".join(["x"] * draw.randint(1, 20)) for _ in range(draw.randint(1, 60))]
                assert server.ask(texts, exit_layer=draw.choice([1, 2, 3])) == 200
            return server.memory()

        warm, later = send(150), send(300)
        print(f"memory: {warm / MEGABYTE:.0f} MB, then {later / MEGABYTE:.0f} MB")
        assert later - warm < 40 * MEGABYTE
    tries.record("450 batches of different shapes", "memory stays flat")
