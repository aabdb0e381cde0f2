"""The layers around the routes: metrics, the key, and the size of bodies."""

import asyncio
import hmac
import time
from collections.abc import Sequence
from typing import Any

from mose.hub.serving.app import EXIT_HEADER
from mose.hub.serving.errors import error_response
from mose.hub.serving.metrics import ServerMetrics

#: Bodies up to this size do not count towards those that wait in memory. The number of connections bounds them.
SMALL_BODY = 65_536
#: Routes that need no key: probes have none.
OPEN_ROUTES = (("GET", "/"), ("HEAD", "/"), ("GET", "/health"), ("HEAD", "/health"))
RETRY_SECONDS = "1"


class RequestMetrics:
    """Counts requests by route and status, and measures the seconds of those that have embeddings."""

    def __init__(self, app: Any, metrics: ServerMetrics, routes: Sequence[str]):
        self.app, self.metrics, self.routes = app, metrics, frozenset(routes)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        start, status, exit_layer = time.perf_counter(), 499, ""

        async def send_counted(message: Any) -> None:
            nonlocal status, exit_layer
            if message["type"] == "http.response.start":
                status = message["status"]
                exit_layer = dict(message["headers"]).get(EXIT_HEADER.encode(), b"").decode()
            await send(message)

        try:
            await self.app(scope, receive, send_counted)
        except asyncio.CancelledError:
            # The time to end is over. Requests that are left should be sent again, to another server.
            if status == 499:
                message, headers = "the server is ending", {"retry-after": RETRY_SECONDS, "connection": "close"}
                await error_response(scope["path"], 503, message, headers)(scope, receive, send_counted)
        finally:
            # Any path may be sent: only the server's own become labels.
            route = scope["path"] if scope["path"] in self.routes else "other"
            self.metrics.observe_request(route, status, exit_layer, time.perf_counter() - start)


class KeyCheck:
    """Refuses requests without one of the server's keys; see `OPEN_ROUTES`."""

    def __init__(self, app: Any, keys: Sequence[str]):
        self.app = app
        self._keys = [key.encode() for key in keys]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request."""
        is_open = scope["type"] != "http" or (scope["method"], scope["path"]) in OPEN_ROUTES
        if is_open or not self._keys or self._is_known(dict(scope["headers"]).get(b"authorization", b"")):
            await self.app(scope, receive, send)
            return

        message = "this server needs a key: send Authorization: Bearer KEY"
        headers = {"www-authenticate": "Bearer", "connection": "close"}
        await error_response(scope["path"], 401, message, headers)(scope, receive, send)

    def _is_known(self, header: bytes) -> bool:
        scheme, _, key = header.partition(b" ")
        # Compare with every key, in a time that does not depend on what is equal.
        equal = [hmac.compare_digest(key.strip(), known) for known in self._keys]
        return scheme.lower() == b"bearer" and any(equal)


class BodyLimit:
    """Reads the body of a request before its route runs, within bounds for each and for all together.

    Args:
        app: gets whole bodies.
        max_bytes: largest body; the rest of a larger one is not read.
        max_total: most bytes of all bodies in memory, small ones aside.
    """

    def __init__(self, app: Any, max_bytes: int, max_total: int):
        self.app, self.max_bytes, self.max_total = app, max_bytes, max_total
        self.total = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request."""
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD"):
            await self.app(scope, receive, send)
            return

        counted = 0
        try:
            body = bytearray()
            more = True
            error = self._check_length(scope)
            while more and error is None:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return
                body += message.get("body", b"")
                more = message.get("more_body", False)
                added = max(0, len(body) - SMALL_BODY) - counted
                counted, self.total = counted + added, self.total + added
                error = self._check_size(len(body), counted)

            if error is not None:
                status, text = error
                # The rest is not read, so the connection is of no more use.
                headers = {"connection": "close"} | ({"retry-after": RETRY_SECONDS} if status == 503 else {})
                await error_response(scope["path"], status, text, headers)(scope, receive, send)
                return
            await self.app(scope, _replay(bytes(body), receive), send)
        finally:
            self.total -= counted

    def _check_length(self, scope: Any) -> tuple[int, str] | None:
        """Return the error of a body that says beforehand that it is too large."""
        length = dict(scope["headers"]).get(b"content-length", b"")
        return self._check_size(int(length), 0) if length.isdigit() else None

    def _check_size(self, size: int, counted: int) -> tuple[int, str] | None:
        if size > self.max_bytes:
            return 413, f"a request must have at most {self.max_bytes} bytes"
        if counted and self.total > self.max_total:
            return 503, f"the server is busy with other large requests. Try again in {RETRY_SECONDS} s."
        return None


def _replay(body: bytes, receive: Any) -> Any:
    """Return a `receive` that gives a whole body, and then waits for the end of the connection."""
    pending = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> Any:
        return pending.pop() if pending else await receive()

    return receive_again
