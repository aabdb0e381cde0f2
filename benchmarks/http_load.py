"""Load for an embedding server: requests what they must be answered with, clients, and slow ones."""

import asyncio
import base64
import json
import os
import random
import re
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson

from mose.benchmarks.command import Timing
from mose.handler import EndpointHandler

TEXT = "parse read the a file line by line sort list of numbers ( ) : return def class import x = 1"
WORDS = tuple(TEXT.split())
MALFORMED = (b"", b"{", b"\xff\xfe", b'{"inputs": []}', b'{"inputs": [1]}', b'{"inputs": "x", "exit_layer": -1}')
OUTCOMES = ("answered", "refused", "busy", "wrong", "lost")


class LoadRequest(NamedTuple):
    """A request, and what it must be answered with."""

    path: str
    body: bytes
    exit_layer: int | None  # None if it is malformed
    vectors: np.ndarray | None
    tolerance: float = 0.0

    def content(self) -> bytes:
        """Return the request as it is sent."""
        head = f"POST {self.path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(self.body)}\r\n\r\n"
        return head.encode() + self.body


@dataclass
class LoadResult:
    """The answers that clients got in a time."""

    seconds: float = 0.0
    server_seconds: float = 0.0  # of processor time
    client_seconds: float = 0.0
    outcomes: Counter[str] = field(default_factory=Counter)
    texts: int = 0
    waits: dict[int, list[float]] = field(default_factory=dict)

    def add(self, request: LoadRequest, status: int, answer: bytes, wait: float) -> None:
        """Count an answer."""
        outcome = classify_answer(status, answer, request.vectors, request.tolerance)
        self.outcomes[outcome] += 1
        if outcome == "answered" and request.exit_layer is not None and request.vectors is not None:
            self.waits.setdefault(request.exit_layer, []).append(wait)
            self.texts += len(request.vectors)

    def figures(self) -> dict[str, Any]:
        """Return the rates and counts."""
        answered = self.outcomes["answered"]
        rates = {"requests_per_second": answered / self.seconds, "texts_per_second": self.texts / self.seconds}
        for side, seconds in (("server", self.server_seconds), ("client", self.client_seconds)):
            rates[f"{side}_ms_per_request"] = 1000 * seconds / max(self.outcomes.total(), 1)
        return {**rates, **{name: self.outcomes[name] for name in OUTCOMES}}

    def latencies(self) -> dict[str, dict[str, float]]:
        """Return exit -> its requests and times."""
        timings = {exit_layer: Timing(tuple(waits)) for exit_layer, waits in sorted(self.waits.items())}
        return {
            f"exit {exit_layer}": {
                "requests": len(timing.seconds),
                "ms_p50": 1000 * timing.median,
                "ms_p95": 1000 * timing.percentile(95),
            }
            for exit_layer, timing in timings.items()
        }


def random_requests(
    handler: EndpointHandler, count: int, longest: int, exits: Sequence[int], tolerance: float, seed: int = 0
) -> list[LoadRequest]:
    """Return requests with the vectors that each must give, one in ten malformed.

    Args:
        handler: embeds the texts, for comparison.
        count: number of requests.
        longest: words of the longest texts.
        exits: that requests name.
        tolerance: largest difference of a right answer.
        seed: of the texts.
    """
    generator = random.Random(seed)
    requests = []
    for _ in range(count):
        if generator.random() < 0.1:
            requests.append(LoadRequest("/", generator.choice(MALFORMED), None, None))
            continue

        # Mixed lengths and numbers of texts make batches of the server uneven, as real traffic does.
        lengths = [generator.randint(1, longest) for _ in range(generator.choice([1, 1, 1, 1, 4]))]
        texts = [" ".join(generator.choices(WORDS, k=length)) for length in lengths]
        exit_layer = generator.choice(exits)
        vectors = np.array(handler({"inputs": texts, "exit_layer": exit_layer}))
        # Half of them as huggingface's toolkit speaks, half as OpenAI's client does.
        path, body = "/", {"inputs": texts, "exit_layer": exit_layer}
        if generator.random() < 0.5:
            options = {"model": "load", "encoding_format": "base64", "exit_layer": exit_layer}
            path, body = "/v1/embeddings", {"input": texts, **options}
        requests.append(LoadRequest(path, json.dumps(body).encode(), exit_layer, vectors, tolerance))
    return requests


def classify_answer(status: int, answer: bytes, expected: np.ndarray | None, tolerance: float = 1e-5) -> str:
    """Return "answered" or "refused" if the response is the right one, "busy" for 503, otherwise "wrong"."""
    if status == 503:
        return "busy"
    if expected is None:
        return "refused" if 400 <= status < 500 else "wrong"
    if status != 200:
        return "wrong"

    vectors = _read_vectors(answer)
    if vectors.shape != expected.shape:
        return "wrong"
    return "answered" if np.abs(vectors - expected).max() <= tolerance else "wrong"


def _read_vectors(answer: bytes) -> np.ndarray:
    value = orjson.loads(answer)
    if isinstance(value, dict):  # OpenAI's, in base64
        parts = b"".join(base64.b64decode(item["embedding"]) for item in value["data"])
        return np.frombuffer(parts, "<f4").reshape(len(value["data"]), -1)
    return np.array(value)


async def run_clients(
    port: int, process: int, requests: Sequence[LoadRequest], clients: int, seconds: float
) -> LoadResult:
    """Send requests from this number of clients, one after another each, and wait for the last answers.

    Args:
        port: of the server on this machine.
        process: number of the server's process.
        requests: drawn at random.
        clients: number of clients.
        seconds: after which no more requests are sent.
    """
    result, server_start, client_start = LoadResult(), cpu_seconds(process), time.process_time()
    contents = [(request, request.content()) for request in requests]
    start = time.perf_counter()

    async def run_client(number: int) -> None:
        draw = random.Random(number)
        connection = Connection(port)
        while time.perf_counter() - start < seconds:
            request, content = draw.choice(contents)
            begin = time.perf_counter()
            try:
                status, answer = await connection.ask(content)
            except OSError:
                result.outcomes["lost"] += 1
            else:
                result.add(request, status, answer, time.perf_counter() - begin)
        connection.close()

    await asyncio.gather(*(run_client(number) for number in range(clients)))
    result.seconds = time.perf_counter() - start
    result.server_seconds = cpu_seconds(process) - server_start
    result.client_seconds = time.process_time() - client_start
    return result


def cpu_seconds(process: int) -> float:
    """Return the processor time that a process has used."""
    # After the name in parentheses, which may hold spaces, these are the 12th and 13th field.
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Connection(asyncio.Protocol):
    """An HTTP connection that is kept open, with as little work for the clients' process as possible."""

    def __init__(self, port: int):
        self._port = port
        self._transport: asyncio.Transport | None = None
        self._received = b""
        self._answer: asyncio.Future[tuple[int, bytes]] = asyncio.get_running_loop().create_future()

    async def ask(self, content: bytes) -> tuple[int, bytes]:
        """Return the status and the body of the answer to a request.

        Raises:
            OSError: the connection broke.
        """
        loop = asyncio.get_running_loop()
        if self._transport is None:
            self._transport, _ = await loop.create_connection(lambda: self, "127.0.0.1", self._port)
        self._answer = loop.create_future()
        self._transport.write(content)
        return await self._answer

    def close(self) -> None:
        """Close the connection; the next request opens it again."""
        if self._transport is not None:
            self._transport.close()
        self._transport, self._received = None, b""

    def data_received(self, data: bytes) -> None:
        """Give the answer to who waits for it, once it is complete."""
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        if not end:
            return
        head = head.lower()
        length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
        if len(body) < length:
            return

        self._received = b""
        if b"connection: close" in head:
            self.close()
        self._answer.set_result((int(head[9:12]), body))

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell who waits for an answer."""
        # One that the server has closed after its answer is replaced already.
        if not self._answer.done():
            self.close()
            self._answer.set_exception(ConnectionResetError("the server closed the connection"))


async def run_slow_client(port: int, closed: list[float]) -> None:
    """Send a header byte by byte, again and again, and note when the server closes the connection."""
    while True:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST / HTTP/1.1\r\nX-Slow: ")
        with suppress(OSError):
            while not reader.at_eof():
                writer.write(b"x")
                await asyncio.sleep(0.5)
                # What the server says is read, or its end would not be seen.
                with suppress(TimeoutError):
                    await asyncio.wait_for(reader.read(1_000), 0.01)
        closed.append(time.perf_counter())
        writer.close()


async def sample_memory(process: int, samples: list[int]) -> None:
    """Note the resident bytes of a process once a second."""
    while True:
        status = Path(f"/proc/{process}/status").read_text()
        samples.append(1024 * int(re.search(r"VmRSS:\s+(\d+)", status)[1]))  # type: ignore[index]
        await asyncio.sleep(1)
