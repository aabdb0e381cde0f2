"""Measure the server under load: throughput and latency by exit, wrong answers, and memory.

Clients send one request after another, texts of mixed number and length at mixed exits, some of them malformed.
Beside them, connections that never finish their headers stay open. Every answer is compared with the vectors of a
direct call. A single client before and after them measures one request at a time. Server and clients share the
machine. The server's own processor time per request does not depend on what else runs there.
"""

import argparse
import asyncio
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from mose.benchmarks import command
from mose.benchmarks.command import Benchmark, Report
from mose.benchmarks.http_load import (
    OUTCOMES,
    LoadRequest,
    random_requests,
    run_clients,
    run_slow_client,
    sample_memory,
)
from mose.handler import EndpointHandler
from mose.hub.serving.engine import Engine

START_SECONDS = 120
#: Seconds of each phase, however short the load is.
SHORTEST_PHASE = 0.3
#: Largest difference of a right answer. In bf16 the batch matters more, and a GPU computes in bf16.
EXACT, ROUNDED = 1e-5, 0.03
#: Texts in a batch, to compare with a text alone.
TEXTS_TOGETHER = 32
#: Points at which the memory is shown.
MEMORY_POINTS = 10
LATENCY_COLUMNS = {"requests": ("requests", ",d"), "ms p50": ("ms_p50", ".1f"), "p95": ("ms_p95", ".1f")}
COMPUTE_COLUMNS = {"ms alone": ("alone", ".3f"), "in a batch": ("together", ".3f"), "ratio": ("ratio", ".1f")}
LOAD_COLUMNS = {
    "requests/s": ("requests_per_second", ".0f"),
    "texts/s": ("texts_per_second", ".0f"),
    "CPU ms/request": ("server_ms_per_request", ".2f"),
    "of clients": ("client_ms_per_request", ".2f"),
    **{name: (name, ",d") for name in OUTCOMES},
}


class ServerLoad(Benchmark):
    """Throughput, latency and correctness of the server under many clients, and with one."""

    description = "Throughput, latency and memory of the served model, and whether each answer is right."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        command.add_model(parser)
        parser.add_argument("--device", default="cpu", help="of the server's model (default: %(default)s)")
        text = "compute type of the server (default: its own choice)"
        parser.add_argument("--dtype", choices=("fp32", "bf16"), help=text)
        command.add_count(parser, "--clients", 200, "simultaneous clients")
        command.add_count(parser, "--seconds", 60, "seconds of the load")
        command.add_count(parser, "--slow", 50, "connections beside them that never finish their headers")
        command.add_count(parser, "--requests", 1_000, "different requests")
        command.add_count(parser, "--words", 12, "words of the longest texts")

    def measure(self, options: argparse.Namespace) -> Report:
        command.require_linux()
        handler = EndpointHandler(options.model, device=options.device)
        exits = options.exit_layers or handler.exit_layers
        tolerance = EXACT if options.device == "cpu" and options.dtype != "bf16" else ROUNDED
        requests = random_requests(handler, options.requests, options.words, exits, tolerance)
        compute = time_compute(options, exits)

        flags = ["--device", options.device, "--header-timeout", "5", "--name", "load"]
        flags += ["--dtype", options.dtype] if options.dtype else []
        with running_server(options.model, flags) as (port, process):
            return {"compute": compute, **asyncio.run(measure_load(port, process, requests, options))}

    def render(self, report: Report) -> str:
        head = (
            "{clients} clients for {seconds} s, one request in ten malformed, {slow} slow connections beside them"
        )
        ratio = "{ratio:.1f} times the requests of one client".format_map(report)
        memory = ", ".join(f"{value / 1e6:.0f}" for value in report["memory"]["series"])
        growth = "{growth_per_minute:+.1f} MB a minute in its second half".format_map(report["memory"])

        parts = [
            head.format_map(report["settings"]),
            command.figures_table("", report["load"], LOAD_COLUMNS),
            *(
                f"\n{name}\n{command.figures_table('', rows, LATENCY_COLUMNS)}"
                for name, rows in report["ms"].items()
            ),
            f"\nthe model without a server, a text alone and {TEXTS_TOGETHER} texts together, for each text",
            command.figures_table("", report["compute"], COMPUTE_COLUMNS),
            f"\n{ratio}; {report['slow_closed']} slow connections were closed",
            f"memory under load: {memory} MB, {growth}",
        ]
        return "\n".join(parts)


async def measure_load(
    port: int, process: int, requests: list[LoadRequest], options: argparse.Namespace
) -> Report:
    """Run one client, all clients, and one client again, on a server that is warm."""
    good = [request for request in requests if request.vectors is not None]
    await run_clients(port, process, requests, options.clients, max(SHORTEST_PHASE, options.seconds / 4))

    seconds_alone = max(SHORTEST_PHASE, options.seconds / 6)
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
    return {
        "load": {
            "one client": alone[0].figures(),
            f"{options.clients} clients": together.figures(),
            "one client, again": alone[1].figures(),
        },
        "ms": {"one client": alone[0].latencies(), f"{options.clients} clients": together.latencies()},
        "ratio": together.figures()["requests_per_second"] / np.mean(rates),
        "slow_closed": len(closed),
        "memory": summarize_memory(memory),
    }


def summarize_memory(samples: Sequence[int]) -> Report:
    """Return bytes at some points of a time, and how they grew in its second half, in MB a minute.

    Args:
        samples: bytes, once a second.
    """
    points = np.linspace(0, len(samples) - 1, min(MEMORY_POINTS, len(samples))).astype(int)
    half = np.array(samples[len(samples) // 2 :], dtype=np.float64) / 1e6
    slope = np.polyfit(np.arange(len(half)), half, 1)[0] if len(half) > 1 else 0.0
    return {"series": [samples[point] for point in points], "growth_per_minute": float(60 * slope)}


def time_compute(options: argparse.Namespace, exits: Sequence[int]) -> Report:
    """Return exit -> the milliseconds of a text alone and in a batch, without HTTP: what batching can bring."""
    engine = Engine(options.model, options.device, dtype=options.dtype)
    tokens = max(1, options.words // 2) + 2
    ids = [[engine.handler.pad_token_id + 1 + row % 50] * tokens for row in range(TEXTS_TOGETHER)]

    def embed(exit_layer: int, rows: int) -> None:
        call = engine.embed_static if exit_layer == 0 and engine.static else engine.embed
        call(ids[:rows], exit_layer)

    tasks = {
        (exit_layer, rows): lambda number, exit_layer=exit_layer, rows=rows: embed(exit_layer, rows)
        for exit_layer in exits
        for rows in (1, TEXTS_TOGETHER)
    }
    timings = command.interleave(tasks, rounds=9, warm_up=2, device=options.device, description="compute")
    result = {}
    for exit_layer in exits:
        alone, together = (1000 * timings[exit_layer, rows].median / rows for rows in (1, TEXTS_TOGETHER))
        result[f"exit {exit_layer}"] = {"alone": alone, "together": together, "ratio": alone / together}
    return result


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


if __name__ == "__main__":
    sys.exit(ServerLoad().main())
