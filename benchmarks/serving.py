"""Measure the server under load: throughput and latency by exit, wrong answers, and memory.

Clients send one request after another, texts of mixed number and length at mixed exits, some of them malformed.
Beside them, connections that never finish their headers stay open. Every answer is compared with the vectors of a
direct call. A single client before and after them measures one request at a time. Server and clients share the
machine. The server's own processor time per request does not depend on what else runs there.
"""

import argparse
import asyncio
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mose.benchmarks import command
from mose.benchmarks.command import Benchmark, Report
from mose.handler import EndpointHandler
from mose.utils.locations import package_folder

TEXT = "parse read the a file line by line sort list of numbers ( ) : return def class import x = 1"
WORDS = tuple(TEXT.split())
MALFORMED = (b"", b"{", b"\xff\xfe", b'{"inputs": []}', b'{"inputs": [1]}', b'{"inputs": "x", "exit_layer": -1}')
START_SECONDS = 120
#: Largest difference of a right answer. On a GPU the model computes in bf16, where the batch matters more.
TOLERANCES = {"cpu": 1e-5, "cuda": 0.03}
OUTCOMES = ("answered", "refused", "busy", "wrong", "lost")
LATENCY_COLUMNS = {"requests": ("requests", ",d"), "ms p50": ("ms_p50", ".1f"), "p95": ("ms_p95", ".1f")}
LOAD_COLUMNS = {
    "requests/s": ("requests_per_second", ".0f"),
    "texts/s": ("texts_per_second", ".0f"),
    "CPU ms/request": ("cpu_ms_per_request", ".2f"),
    **{name: (name, ",d") for name in OUTCOMES},
}


class LoadRequest(NamedTuple):
    """A request, and what it must be answered with."""

    body: bytes
    exit_layer: int | None  # None if it is malformed
    vectors: np.ndarray | None
    tolerance: float = 0.0


@dataclass
class LoadResult:
    """The answers that clients got in a time."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0  # of the server
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
        rates["cpu_ms_per_request"] = 1000 * self.cpu_seconds / max(answered, 1)
        return {**rates, **{name: self.outcomes[name] for name in OUTCOMES}}

    def latencies(self) -> dict[str, dict[str, float]]:
        """Return exit -> its requests and times."""
        timings = {exit_layer: command.Timing(tuple(waits)) for exit_layer, waits in sorted(self.waits.items())}
        return {
            f"exit {exit_layer}": {
                "requests": len(timing.seconds),
                "ms_p50": 1000 * timing.median,
                "ms_p95": 1000 * timing.percentile(95),
            }
            for exit_layer, timing in timings.items()
        }


class ServerLoad(Benchmark):
    """Throughput, latency and correctness of the server under many clients, and with one."""

    description = "Throughput, latency and memory of the served model, and whether each answer is right."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        default = str(package_folder())
        parser.add_argument("--model", default=default, help="folder or Hub id (default: the shipped model)")
        parser.add_argument("--device", default="cpu", help="of the server's model (default: %(default)s)")
        command.add_count(parser, "--clients", 200, "simultaneous clients")
        command.add_count(parser, "--seconds", 60, "seconds of the load")
        command.add_count(parser, "--slow", 50, "connections beside them that never finish their headers")
        command.add_count(parser, "--requests", 1_000, "different requests")
        command.add_count(parser, "--words", 50, "words of the longest texts")

    def measure(self, options: argparse.Namespace) -> Report:
        command.require_linux()
        handler = EndpointHandler(options.model, device=options.device)
        requests = random_requests(handler, options.requests, options.words, seed=0)
        with running_server(options.model, ["--device", options.device, "--header-timeout", "5"]) as (
            port,
            process,
        ):
            return asyncio.run(measure_load(port, process, requests, options))

    def render(self, report: Report) -> str:
        head = (
            "{clients} clients for {seconds} s, one request in ten malformed, {slow} slow connections beside them"
        )
        ratio = "{ratio:.1f} times the requests of one client".format_map(report)
        memory = {name: command.figure(value, "MB") for name, value in report["memory"].items()}
        parts = [
            head.format_map(report["settings"]),
            command.figures_table("", report["load"], LOAD_COLUMNS),
            *(
                f"\n{name}\n{command.figures_table('', rows, LATENCY_COLUMNS)}"
                for name, rows in report["ms"].items()
            ),
            f"\n{ratio}; {report['slow_closed']} slow connections were closed",
            "memory: {first} in the first third of the time, {last} in the last; at most {most}".format_map(
                memory
            ),
        ]
        return "\n".join(parts)


async def measure_load(
    port: int, process: int, requests: list[LoadRequest], options: argparse.Namespace
) -> Report:
    """Run one client, all clients, and one client again, on a server that is warm."""
    good = [request for request in requests if request.vectors is not None]
    await run_clients(port, process, requests, options.clients, options.seconds / 10)

    seconds_alone = max(1.0, options.seconds / 6)
    alone = [await run_clients(port, process, good, 1, seconds_alone)]
    memory: list[int] = []
    closed: list[float] = []
    sampler = asyncio.create_task(sample_memory(process, memory))
    slow = [asyncio.create_task(run_slow_client(port, closed)) for _ in range(options.slow)]
    together = await run_clients(port, process, requests, options.clients, options.seconds)
    for task in (sampler, *slow):
        task.cancel()
    await asyncio.gather(sampler, *slow, return_exceptions=True)

    # Again, since the load of other processes may have changed.
    alone.append(await run_clients(port, process, good, 1, seconds_alone))
    rates = [result.figures()["requests_per_second"] for result in alone]
    third = max(1, len(memory) // 3)
    return {
        "load": {
            "one client": alone[0].figures(),
            f"{options.clients} clients": together.figures(),
            "one client, again": alone[1].figures(),
        },
        "ms": {"one client": alone[0].latencies(), f"{options.clients} clients": together.latencies()},
        "ratio": together.figures()["requests_per_second"] / np.mean(rates),
        "slow_closed": len(closed),
        "memory": {
            "first": float(np.median(memory[:third])),
            "last": float(np.median(memory[-third:])),
            "most": float(max(memory)),
        },
    }


async def run_clients(
    port: int, process: int, requests: list[LoadRequest], clients: int, seconds: float
) -> LoadResult:
    """Send requests from this number of clients for a time, and wait for the last answers."""
    result, cpu_start = LoadResult(), cpu_seconds(process)
    start = time.perf_counter()

    async def run_client(number: int) -> None:
        draw = random.Random(number)
        connection = Connection(port)
        while time.perf_counter() - start < seconds:
            request = draw.choice(requests)
            begin = time.perf_counter()
            try:
                status, answer = await connection.ask(request.body)
            except (OSError, EOFError):
                result.outcomes["lost"] += 1
                await connection.close()
            else:
                result.add(request, status, answer, time.perf_counter() - begin)
        await connection.close()

    await asyncio.gather(*(run_client(number) for number in range(clients)))
    result.seconds = time.perf_counter() - start
    result.cpu_seconds = cpu_seconds(process) - cpu_start
    return result


def cpu_seconds(process: int) -> float:
    """Return the processor time that a process has used."""
    # After the name in parentheses, which may hold spaces, these are the 12th and 13th field.
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Connection:
    """An HTTP connection that is kept open, with as little work for the clients' process as possible."""

    def __init__(self, port: int):
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, body: bytes) -> tuple[int, bytes]:
        """Return the status and the body of the answer to a request.

        Raises:
            OSError: the connection broke.
            EOFError: the server closed it.
        """
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port, limit=2**24)
        reader, writer = self._streams
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(re.search(rb"content-length: (\d+)", head)[1])  # type: ignore[index]
        answer = await reader.readexactly(length)
        if b"connection: close" in head:
            await self.close()
        return int(head[9:12]), answer

    async def close(self) -> None:
        """Close the connection; the next request opens it again."""
        if self._streams is not None:
            self._streams[1].close()
        self._streams = None


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


def random_requests(handler: EndpointHandler, count: int, longest: int, seed: int) -> list[LoadRequest]:
    """Return requests with the vectors that each must give, or None for a malformed one."""
    generator = random.Random(seed)
    requests = []
    for _ in range(count):
        if generator.random() < 0.1:
            requests.append(LoadRequest(generator.choice(MALFORMED), None, None))
            continue

        # Mixed lengths and batch sizes make batches of the server uneven, as real traffic does.
        lengths = [generator.choice([3, 6, 12, 25, longest]) for _ in range(generator.choice([1, 1, 1, 1, 4]))]
        exit_layer = generator.choice(handler.model.exit_layers)
        texts = [" ".join(generator.choices(WORDS, k=min(length, longest))) for length in lengths]
        request = {"inputs": texts, "parameters": {"exit_layer": exit_layer}}
        expected, tolerance = np.array(handler(request)), TOLERANCES[handler.model.device.type]
        requests.append(LoadRequest(json.dumps(request).encode(), exit_layer, expected, tolerance))
    return requests


@contextmanager
def running_server(model: str, flags: list[str]) -> Iterator[tuple[int, int]]:
    """Start a server in a process of its own, and yield its port and process number."""
    command_line = [sys.executable, "-m", "mose.hub", "serve", model, "--port", "0", *flags]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command_line, stdout=subprocess.DEVNULL, stderr=log)

        def read_log() -> str:
            log.seek(0)
            return log.read()

        try:
            deadline = time.monotonic() + START_SECONDS
            while not (match := re.search(r"listening on http://127.0.0.1:(\d+)", read_log())):
                if process.poll() is not None:
                    raise RuntimeError(f"The server ended: {read_log()[-500:]}")
                if time.monotonic() > deadline:
                    raise RuntimeError(f"The server did not start in {START_SECONDS} s.")
                time.sleep(0.1)
            yield int(match[1]), process.pid
        finally:
            process.terminate()
            process.wait(timeout=30)


def classify_answer(status: int, answer: bytes, expected: np.ndarray | None, tolerance: float = 1e-5) -> str:
    """Return "answered" or "refused" if the response is the right one, "busy" for 503, otherwise "wrong"."""
    if status == 503:
        return "busy"
    if expected is None:
        return "refused" if 400 <= status < 500 else "wrong"
    if status != 200:
        return "wrong"
    vectors = np.array(json.loads(answer))
    if vectors.shape != expected.shape:
        return "wrong"
    return "answered" if np.abs(vectors - expected).max() <= tolerance else "wrong"


if __name__ == "__main__":
    sys.exit(ServerLoad().main())
