"""How many requests does the served model answer? `python -m mose.hub serve` under clients that all want at once.

Each client sends its requests one after another: texts of mixed number and length at mixed exits, one in ten
malformed. Every answer is checked against the vectors of a direct call; server and clients share the machine.
"""

import argparse
import http.client
import json
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
from command import Report, new_parser, positive, run, table
from transformers.utils import logging

from mose.handler import EndpointHandler

TEXT = "parse read the a file line by line sort list of numbers ( ) : return def class import x = 1"
WORDS = tuple(TEXT.split())
MALFORMED = (b"", b"{", b"\xff\xfe", b'{"inputs": []}', b'{"inputs": [1]}', b'{"inputs": "x", "exit_layer": -1}')
START_SECONDS = 120


@contextmanager
def server(model: str) -> Iterator[int]:
    """The port of a server in a process of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mose.hub", "serve", model, "--port", str(port), "--device", "cpu"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        end = time.monotonic() + START_SECONDS
        while True:
            try:
                if ask(port, "GET", "/health")[0] == 200:
                    break
            except OSError:
                if process.poll() is not None:
                    raise RuntimeError(f"the server ended: {process.stderr.read()[-500:]}") from None  # type: ignore
                if time.monotonic() > end:
                    raise RuntimeError(f"the server did not start in {START_SECONDS} s") from None
                time.sleep(0.1)
        yield port
    finally:
        process.terminate()
        process.communicate(timeout=30)


def ask(port: int, method: str, path: str = "/", body: bytes | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    try:
        connection.request(method, path, body)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def make_requests(handler: EndpointHandler, count: int, longest: int, seed: int) -> list[tuple[bytes, Any]]:
    """Bodies, and the vectors that each must give; None for a malformed one."""
    draw = random.Random(seed)
    made: list[tuple[bytes, Any]] = []
    for _ in range(count):
        if draw.random() < 0.1:
            made.append((draw.choice(MALFORMED), None))
            continue
        lengths = [draw.choice([3, 12, 50, longest]) for _ in range(draw.choice([1, 1, 2, 8]))]
        request = {
            "inputs": [" ".join(draw.choices(WORDS, k=min(length, longest))) for length in lengths],
            "parameters": {"exit_layer": draw.choice(handler.model.exit_layers)},
        }
        made.append((json.dumps(request).encode(), np.array(handler(request))))
    return made


def outcome(status: int, answer: bytes, expected: Any) -> str:
    if expected is None:
        return "refused" if 400 <= status < 500 else "wrong"
    if status != 200:
        return "wrong"
    vectors = np.array(json.loads(answer))
    return "answered" if vectors.shape == expected.shape and np.abs(vectors - expected).max() < 1e-5 else "wrong"


def measure(args: argparse.Namespace) -> Report:
    logging.disable_progress_bar()
    handler = EndpointHandler(args.model, device="cpu")
    made = make_requests(handler, args.requests, args.words, seed=0)
    rows = {}
    with server(args.model) as port:
        for body, _ in made[:20]:
            ask(port, "POST", "/", body)
        for clients in args.clients:

            def client(at: int, clients: int = clients) -> list[tuple[str, float]]:
                seen = []
                for body, expected in made[at::clients]:
                    start = time.perf_counter()
                    status, answer = ask(port, "POST", "/", body)
                    seen.append((outcome(status, answer, expected), time.perf_counter() - start))
                return seen

            start = time.perf_counter()
            with ThreadPoolExecutor(clients) as pool:
                seen = [one for each in pool.map(client, range(clients)) for one in each]
            seconds = time.perf_counter() - start
            waits = [wait for _, wait in seen]
            kinds = [kind for kind, _ in seen]
            rows[str(clients)] = {
                "requests_per_second": len(seen) / seconds,
                "texts_per_second": sum(len(vectors) for _, vectors in made if vectors is not None) / seconds,
                "ms_p50": 1000 * float(np.percentile(waits, 50)),
                "ms_p95": 1000 * float(np.percentile(waits, 95)),
                "answered": kinds.count("answered"),
                "refused": kinds.count("refused"),
                "wrong": kinds.count("wrong"),
                "lost": len(made) - len(seen),
            }
    return {"requests": len(made), "clients": rows}


def render(report: Report) -> str:
    rows = [
        [
            clients,
            f"{row['requests_per_second']:.0f}",
            f"{row['texts_per_second']:.0f}",
            f"{row['ms_p50']:.0f}",
            f"{row['ms_p95']:.0f}",
            *(str(row[kind]) for kind in ("answered", "refused", "wrong", "lost")),
        ]
        for clients, row in report["clients"].items()
    ]
    header = ["clients", "requests/s", "texts/s", "ms p50", "p95", "answered", "refused (4xx)", "wrong", "lost"]
    return f"{report['requests']} requests each\n" + table(header, rows)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = new_parser("Requests per second of the served model, and whether each is answered as it should be.")
    parser.add_argument("--model", default=".", help="folder or Hub id of a MoSE (default: this folder)")
    parser.add_argument(
        "--clients",
        type=positive,
        nargs="+",
        default=[1, 8, 50, 200],
        metavar="N",
        help="how many send at the same time (default: 1 8 50 200)",
    )
    parser.add_argument(
        "--requests", type=positive, default=1000, metavar="N", help="for each of those (default: %(default)s)"
    )
    parser.add_argument(
        "--words", type=positive, default=400, metavar="N", help="of the longest texts (default: %(default)s)"
    )
    return run(parser, measure, render, arguments)


if __name__ == "__main__":
    sys.exit(main())
