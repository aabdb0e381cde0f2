"""Connections whose clients must not take more time, header bytes or places than they may.

uvicorn waits for headers and bodies for ever. Here one task looks at every connection twice a second, and ends
those that are late. When all places are taken, a new client gets the place of the one that lets the server wait
longest.
"""

import asyncio
import logging
import os
import threading
import time
from contextlib import suppress
from typing import Any, NamedTuple

import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from mose.hub.serving.errors import error_body

logger = logging.getLogger("mose.hub")
SWEEP_SECONDS = 0.5
#: Connections that the system holds until the server takes them.
BACKLOG = 512
#: Connections that asyncio takes at a time. Those that are refused stay open for a few turns of its loop.
ACCEPTED_AT_ONCE = 64
#: Other files that the process has open, those of connections that are being refused among them.
OTHER_FILES = 128 + 4 * ACCEPTED_AT_ONCE
#: An unfinished body that is younger never loses its place to a new client.
SAFE_BODY_SECONDS = 1.0
#: Of a shutdown's time, what stays for the threads after the connections.
THREAD_SHARE = 0.2


class ConnectionLimits(NamedTuple):
    """The most that clients may take."""

    connections: int = 1_024
    header_seconds: float = 10.0
    body_seconds: float = 30.0
    response_seconds: float = 60.0  # from a response to its last byte at the client
    header_bytes: int = 65_536


class ConnectionGuard:
    """The open connections of a server, and their limits."""

    def __init__(self, limits: ConnectionLimits):
        self.limits = limits
        self.connections: set[GuardedConnection] = set()

    def admit(self, connection: "GuardedConnection") -> bool:
        """Add a connection if there is a place, or one whose client lets the server wait."""
        if len(self.connections) >= self.limits.connections:
            slowest = max(self.connections, key=GuardedConnection.waiting_seconds)
            if slowest.waiting_seconds() <= 0:
                return False
            slowest.transport.abort()
            self.connections.discard(slowest)

        self.connections.add(connection)
        return True

    async def sweep(self) -> None:
        """End connections that are late, until cancelled."""
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            for connection in list(self.connections):
                connection.check_time(self.limits)

    def end_unfinished(self) -> None:
        """End connections that have not sent a whole request."""
        for connection in list(self.connections):
            if connection.waiting_seconds() > 0 or connection.reading == "body":
                connection.refuse(503, "the server is ending")

    def abort(self) -> None:
        """Cut every connection."""
        for connection in list(self.connections):
            connection.transport.abort()


class GuardedConnection(HttpToolsProtocol):
    """A connection that knows since when it waits for its client."""

    def __init__(self, guard: ConnectionGuard, **options: Any):
        super().__init__(**options)
        self.guard = guard
        self.reading = ""  # "headers" or "body" of a request that is not complete
        self.since = time.monotonic()
        self.header_size = 0
        self.sending_since: float | None = None

    @property
    def is_answering(self) -> bool:
        """True while a response is not complete."""
        return self.cycle is not None and not self.cycle.response_complete

    def waiting_seconds(self) -> float:
        """Return how long the client lets the server wait, or 0 if the server works on its request."""
        waited = time.monotonic() - self.since
        if not self.is_answering:
            return waited
        return waited if self.reading == "body" and waited > SAFE_BODY_SECONDS else 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Count the connection, or refuse it if there is no place."""
        super().connection_made(transport)
        if not self.guard.admit(self):
            self.refuse(503, "too many connections")

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self.guard.connections.discard(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what the client sent, unless its headers are too long."""
        if self.transport.is_closing():
            return
        if self.reading != "body":
            self.header_size += len(data)
        super().data_received(data)

        # A body in the same piece is not counted: then the headers are complete.
        if self.reading == "headers" and self.header_size > self.guard.limits.header_bytes:
            self.refuse(431, f"headers must have at most {self.guard.limits.header_bytes} bytes")

    def on_message_begin(self) -> None:
        """Start the clock of a request's headers."""
        # A new connection's clock runs since it was made.
        if self.cycle is not None:
            self.since = time.monotonic()
        self.reading = "headers"
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Start the clock of a request's body."""
        self.reading, self.since, self.header_size = "body", time.monotonic(), 0
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Stop the clock."""
        self.reading, self.since = "", time.monotonic()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Start the clock of an idle connection."""
        if not self.reading:
            self.since = time.monotonic()
        super().on_response_complete()

    def check_time(self, limits: ConnectionLimits) -> None:
        """End the connection if its client is late."""
        now = time.monotonic()
        if not self.transport.get_write_buffer_size():
            self.sending_since = None
        elif self.sending_since is None:
            self.sending_since = now
        elif now - self.sending_since > limits.response_seconds:
            self.transport.abort()

        waited = now - self.since
        if self.pipeline:  # the server does not read on before it has answered
            self.since = now
        elif self.reading == "body" and waited > limits.body_seconds:
            self.refuse(408, f"the body did not arrive within {limits.body_seconds:g} s")
        elif self.reading != "body" and not self.is_answering and waited > limits.header_seconds:
            self.refuse(408, f"the headers did not arrive within {limits.header_seconds:g} s")

    def refuse(self, status: int, message: str) -> None:
        """Answer with an error, unless a response has begun, and close the connection."""
        if self.transport.is_closing():
            # An earlier close waits for the client to read. It does not have to.
            self.transport.abort()
            return
        if self.cycle is None or not self.cycle.response_started or self.cycle.response_complete:
            path = self.scope.get("path", "") if self.scope else ""
            body = error_body(path, status, message)
            head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(
                body
            )
            self.transport.write(STATUS_LINE[status] + head + body)
        self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is not HTTP."""
        self.refuse(400, "the request is not HTTP")


class GuardedServer(uvicorn.Server):
    """A uvicorn server that ends late connections, and that ends itself in time.

    Args:
        config: its `http` is replaced.
        guard: the connections.
        shutdown_seconds: from SIGTERM or Ctrl-C to the end of the process, whatever clients do.
    """

    def __init__(self, config: uvicorn.Config, guard: ConnectionGuard, shutdown_seconds: float):
        config.http = lambda **options: GuardedConnection(guard, **options)  # type: ignore[assignment]
        connection_seconds = shutdown_seconds * (1 - THREAD_SHARE)
        config.timeout_graceful_shutdown = connection_seconds  # type: ignore[assignment]
        config.backlog = ACCEPTED_AT_ONCE
        super().__init__(config)
        self.guard, self.shutdown_seconds = guard, shutdown_seconds

    async def startup(self, sockets: Any = None) -> None:
        """Listen, and say where."""
        await super().startup(sockets)
        if self.started:
            # For asyncio both numbers are one. A copy of the handle is enough to change what the system holds.
            for server in self.servers:
                for listener in server.sockets:
                    with listener.dup() as handle:
                        handle.listen(BACKLOG)
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            host = f"[{host}]" if ":" in host else host
            logger.info("listening on http://%s:%d, documentation at /docs", host, port)

    async def main_loop(self) -> None:
        """Serve until the end, and look after the connections."""
        sweeper = asyncio.create_task(self.guard.sweep())
        try:
            await super().main_loop()
        finally:
            sweeper.cancel()
            with suppress(asyncio.CancelledError):
                await sweeper

    async def shutdown(self, sockets: Any = None) -> None:
        """Answer the requests that are complete, for as long as there is time."""
        self.guard.end_unfinished()
        await super().shutdown(sockets)
        self.guard.abort()

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Begin to end, and end by force if the time is over: a thread may hang in the model."""
        if not self.should_exit:
            timer = threading.Timer(self.shutdown_seconds, os._exit, (128 + sig,))
            timer.daemon = True
            timer.start()
        super().handle_exit(sig, frame)


def fit_open_files(connections: int) -> int:
    """Return how many connections the limit of open files allows, after raising it as far as needed.

    Raises:
        ValueError: the limit does not even allow one connection.
    """
    try:
        import resource  # not on Windows, which has no such limit
    except ImportError:
        return connections

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = connections + OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    allowed = connections if soft == resource.RLIM_INFINITY else min(connections, soft - OTHER_FILES)
    if allowed < 1:
        least = OTHER_FILES + 1
        raise ValueError(f"the limit of open files must be at least {least}, got {soft}. Raise it (ulimit -n).")
    return allowed
