"""Measure requests per second and latency of `mose hub serve` under clients that all send at once.

Each client sends its requests one after another: texts of mixed number and length at mixed exits, one request in
ten malformed. Every answer is compared with the vectors of a direct call. Server and clients share the machine.
"""

import argparse
import http.client
import json
import random
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np

from mose.benchmarks import command
from mose.benchmarks.command import Benchmark, Report
from mose.handler import EndpointHandler
from mose.utils.locations import package_folder

TEXT = "parse read the a file line by line sort list of numbers ( ) : return def class import x = 1"
WORDS = tuple(TEXT.split())
MALFORMED = (b"", b"{", b"\xff\xfe", b'{"inputs": []}', b'{"inputs": [1]}', b'{"inputs": "x", "exit_layer": -1}')
START_SECONDS = 120
OUTCOMES = ("answered", "refused", "wrong", "lost")
COLUMNS = {
    "requests/s": ("requests_per_second", ".0f"),
    "texts/s": ("texts_per_second", ".0f"),
    "ms p50": ("ms_p50", ".0f"),
    "p95": ("ms_p95", ".0f"),
    **{name: (name, "d") for name in OUTCOMES},
}


class ServerLoad(Benchmark):
    """Throughput, latency and correctness of the server by number of clients."""

    description = "Requests per second of the served model, and whether each is answered correctly."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        default = str(package_folder())
        parser.add_argument("--model", default=default, help="folder or Hub id (default: the shipped model)")
        parser.add_argument(
            "--clients",
            type=command.positive_int,
            nargs="+",
            default=[1, 8, 50, 200],
            metavar="N",
            help="numbers of simultaneous clients (default: 1 8 50 200)",
        )
        command.add_count(parser, "--requests", 1000, "requests for each number of clients")
        command.add_count(parser, "--words", 400, "words of the longest texts")

    def measure(self, options: argparse.Namespace) -> Report:
        handler = EndpointHandler(options.model, device="cpu")
        requests = random_requests(handler, options.requests, options.words, seed=0)
        with running_server(options.model) as port:
            # The first forwards allocate memory and start threads.
            for body, _ in requests[:20]:
                send_request(port, "POST", "/", body)
            rows = {str(clients): measure_clients(port, requests, clients) for clients in options.clients}
        return {"clients": rows}

    def render(self, report: Report) -> str:
        head = "{requests} requests each".format_map(report["settings"])
        return f"{head}\n{command.figures_table('clients', report['clients'], COLUMNS)}"


def measure_clients(port: int, requests: list[tuple[bytes, Any]], clients: int) -> dict[str, float]:
    """Send the requests from this number of simultaneous clients."""

    def run_client(number: int) -> list[tuple[str, float]]:
        results = []
        for body, expected in requests[number::clients]:
            start = time.perf_counter()
            status, answer = send_request(port, "POST", "/", body)
            results.append((classify_answer(status, answer, expected), time.perf_counter() - start))
        return results

    start = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        results = [result for part in pool.map(run_client, range(clients)) for result in part]
    seconds = time.perf_counter() - start

    # Every request should have one result. What is missing is reported as lost.
    outcomes = Counter(outcome for outcome, _ in results)
    outcomes["lost"] = len(requests) - len(results)
    waits = command.Timing(tuple(wait for _, wait in results))
    texts = sum(len(vectors) for _, vectors in requests if vectors is not None)
    return {
        "requests_per_second": len(results) / seconds,
        "texts_per_second": texts / seconds,
        "ms_p50": 1000 * waits.median,
        "ms_p95": 1000 * waits.percentile(95),
        **{name: outcomes[name] for name in OUTCOMES},
    }


def random_requests(handler: EndpointHandler, count: int, longest: int, seed: int) -> list[tuple[bytes, Any]]:
    """Return request bodies with the vectors that each must give, or None for a malformed one."""
    generator = random.Random(seed)
    requests: list[tuple[bytes, Any]] = []
    for _ in range(count):
        if generator.random() < 0.1:
            requests.append((generator.choice(MALFORMED), None))
            continue

        # Mixed lengths and batch sizes make batches of the server uneven, as real traffic does.
        lengths = [generator.choice([3, 12, 50, longest]) for _ in range(generator.choice([1, 1, 2, 8]))]
        request = {
            "inputs": [" ".join(generator.choices(WORDS, k=min(length, longest))) for length in lengths],
            "parameters": {"exit_layer": generator.choice(handler.model.exit_layers)},
        }
        requests.append((json.dumps(request).encode(), np.array(handler(request))))
    return requests


@contextmanager
def running_server(model: str) -> Iterator[int]:
    """Start a server in a process of its own, and yield its port."""
    # Port 0 asks the system for a free one.
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mose.hub", "serve", model, "--port", str(port), "--device", "cpu"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    try:
        deadline = time.monotonic() + START_SECONDS
        while not _is_healthy(port):
            if process.poll() is not None:
                raise RuntimeError(f"The server ended: {process.communicate()[1][-500:]}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"The server did not start in {START_SECONDS} s.")
            time.sleep(0.1)
        yield port
    finally:
        process.terminate()
        process.communicate(timeout=30)


def _is_healthy(port: int) -> bool:
    with suppress(OSError):
        return send_request(port, "GET", "/health")[0] == 200
    return False


def send_request(port: int, method: str, path: str = "/", body: bytes | None = None) -> tuple[int, bytes]:
    """Send a request to the server on this machine, and return the status and body of its response."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    try:
        connection.request(method, path, body)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def classify_answer(status: int, answer: bytes, expected: Any) -> str:
    """Return "answered" or "refused" if the response is the right one, otherwise "wrong"."""
    if expected is None:
        return "refused" if 400 <= status < 500 else "wrong"
    if status != 200:
        return "wrong"
    vectors = np.array(json.loads(answer))
    return "answered" if vectors.shape == expected.shape and np.abs(vectors - expected).max() < 1e-5 else "wrong"


if __name__ == "__main__":
    sys.exit(ServerLoad().main())
