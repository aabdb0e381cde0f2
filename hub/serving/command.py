"""`mose hub serve`: an embedding server with the routes of huggingface's toolkit, OpenAI and TEI."""

import argparse
import ipaddress
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mose.utils.command_line import ArgumentError, positive_int
from mose.utils.locations import is_local_folder

logger = logging.getLogger("mose.hub")
#: oneDNN and torch above it keep a compiled kernel for every shape of a batch: up to half a megabyte each,
#: 1,024 by default. Batches of many clients have ever new shapes, so few kernels are of use again.
KERNEL_CACHES = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "32", "LRU_CACHE_CAPACITY": "32"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `mose hub serve`."""
    parser.add_argument("model", metavar="MODEL", help="folder or Hub id of a MoSE")
    parser.add_argument("--name", help="name on OpenAI's routes (default: that of the folder or repository)")
    parser.add_argument("--device", help="device of the model, cpu or cuda (default: a GPU if there is one)")
    text = "compute type (default: fp32 on a CPU, the type of the weights on a GPU)"
    parser.add_argument("--dtype", choices=("fp32", "bf16"), help=text)
    text = "run the code beside the model's weights instead of the installed mose"
    parser.add_argument("--trust-remote-code", action="store_true", help=text)

    network = parser.add_argument_group("network")
    network.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    text = "0 for any free port, which is printed (default: %(default)s)"
    network.add_argument("--port", type=_port_or_any, default=8000, help=text)
    text = "file with one key a line; requests must have one of them as `Authorization: Bearer KEY`"
    network.add_argument("--api-key-file", metavar="FILE", help=text)
    network.add_argument("--access-log", action="store_true", help="log every request")

    limits = parser.add_argument_group("limits")
    for flag, default, text in (
        ("--max-texts", 1_024, "texts in a request"),
        ("--max-characters", 2_000_000, "characters in a request"),
        ("--max-body-bytes", 16 * 2**20, "bytes of a request"),
        ("--max-body-memory", 128 * 2**20, "bytes of all requests of over 64 KiB together"),
        ("--max-queue-tokens", 262_144, "tokens that wait for the model"),
        ("--max-connections", 1_024, "open connections"),
    ):
        text = f"largest number of {text} (default: %(default)s)"
        limits.add_argument(flag, type=positive_int, default=default, metavar="N", help=text)
    for flag, seconds, text in (
        ("--header-timeout", 10.0, "for a client to send its headers"),
        ("--body-timeout", 30.0, "for a client to send its body"),
        ("--response-timeout", 60.0, "for a client to read its answer"),
        ("--shutdown-timeout", 10.0, "from SIGTERM to the end, whatever clients do"),
    ):
        text = f"seconds {text} (default: %(default)g)"
        limits.add_argument(flag, type=_positive_seconds, default=seconds, metavar="S", help=text)


def run(options: argparse.Namespace) -> None:
    """Run `mose hub serve` until it is interrupted."""
    # Refuse bad arguments before the slow imports.
    keys = _read_keys(options.api_key_file)
    try:
        is_local_folder(options.model)
    except FileNotFoundError as error:
        raise ArgumentError(str(error)) from None

    # Read when torch is imported. Other values of the user's stay.
    for name, capacity in KERNEL_CACHES.items():
        os.environ.setdefault(name, capacity)

    # Of the extra [serve], and slow to import.
    from transformers.utils import logging as transformers_logging

    from mose.hub.serving.engine import Engine

    transformers_logging.disable_progress_bar()

    sizes = (options.max_texts, options.max_characters)
    try:
        engine = Engine(options.model, options.device, options.trust_remote_code, *sizes, options.dtype)
    except (ValueError, OSError) as error:
        raise ArgumentError(f"{options.model}: {error}") from None

    engine.name = options.name or engine.name
    server, service = build_server(engine, options, keys)
    exits = ", ".join(f"{layer} ({1000 * cost.seconds(64):.1f} ms)" for layer, cost in service.costs.items())
    logger.info("%s on %s; exits, with the time of 64 tokens: %s", engine.name, engine.device, exits)
    if not keys and not _is_loopback(options.host):
        logger.warning("anyone who reaches %s may use this server; --api-key-file asks for a key", options.host)

    # The thread of the model would otherwise keep the one of the connections waiting for 5 ms at a time.
    sys.setswitchinterval(0.0005)
    try:
        server.run()
    finally:
        service.close(timeout=1.0)


def build_server(engine: Any, options: argparse.Namespace, keys: Sequence[str] = ()) -> tuple[Any, Any]:
    """Return a server that does not run yet, and the service behind it.

    Args:
        engine: the model.
        options: the arguments of `mose hub serve`.
        keys: what requests must have one of; if empty, they need none.

    Raises:
        ArgumentError: the system does not allow enough open files.
    """
    # Of the extra [serve].
    import uvicorn

    from mose.hub.serving.app import build_app
    from mose.hub.serving.connections import (
        ConnectionGuard,
        ConnectionLimits,
        GuardedServer,
        fit_open_files,
    )
    from mose.hub.serving.metrics import ServerMetrics
    from mose.hub.serving.middleware import BodyLimit, KeyCheck, RequestMetrics
    from mose.hub.serving.service import EmbeddingService

    try:
        connections = fit_open_files(options.max_connections)
    except ValueError as error:
        raise ArgumentError(str(error)) from None
    if connections < options.max_connections:
        logger.warning("at most %d connections: the system's limit of open files allows no more", connections)

    timeouts = (options.header_timeout, options.body_timeout, options.response_timeout)
    guard = ConnectionGuard(ConnectionLimits(connections, *timeouts))
    service = EmbeddingService(engine, options.max_queue_tokens, engine.measure_costs())
    metrics = ServerMetrics(service.batchers, lambda: len(guard.connections))
    for batcher in service.batchers.values():
        batcher.observe = metrics.observe_round

    app = build_app(service, metrics, engine.name, connections)
    routes = [route.path for route in app.routes if "{" not in route.path]  # type: ignore[attr-defined]
    limited = BodyLimit(app, options.max_body_bytes, options.max_body_memory)
    outermost = RequestMetrics(KeyCheck(limited, keys), metrics, routes)

    config = uvicorn.Config(
        outermost,
        host=options.host,
        port=options.port,
        loop="asyncio",
        ws="none",
        log_level="info" if options.access_log else "error",
        access_log=options.access_log,
    )
    return GuardedServer(config, guard, options.shutdown_timeout), service


def _read_keys(file: str | None) -> list[str]:
    if file is None:
        return []
    try:
        keys = [line.strip() for line in Path(file).read_text(encoding="ascii").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ArgumentError(f"--api-key-file {file}: {error}") from None

    if not (keys := [key for key in keys if key]):
        raise ArgumentError(f"--api-key-file {file} holds no key. Write one key a line.")
    if Path(file).stat().st_mode & 0o077:
        logger.warning("%s can be read by others. Run chmod 600 on it.", file)
    return keys


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _port_or_any(word: str) -> int:
    """Return a port, or 0; an argparse type."""
    if not word.isdecimal() or int(word) > 65_535:
        raise argparse.ArgumentTypeError(f"must be a whole number in [0, 65535], got {word!r}")
    return int(word)


def _positive_seconds(word: str) -> float:
    """Return a number of seconds above 0; an argparse type."""
    try:
        value = float(word)
    except ValueError:
        value = 0.0
    # This refuses NaN, too.
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number of seconds above 0, got {word!r}")
    return value
