"""`mose hub serve`: `handler.py` over HTTP, with the routes of huggingface's inference toolkit.

POST / or /predict takes and returns JSON. An error is `{"error": message}`, with status 4xx if the request is at
fault and 500 if the server is. GET / or /health answers once the model is loaded.
"""

import argparse
import json
import logging
from collections.abc import Callable
from typing import Any

from mose.utils.command_line import ArgumentError
from mose.utils.locations import is_local_folder

logger = logging.getLogger("mose.hub")
#: Requests that are tokenized, or wait for the model, at the same time. The others wait before that.
THREADS = 4


def application(handler: Callable[[Any], Any], max_bytes: int = 16 * 2**20) -> Any:
    """Return an ASGI application around an `EndpointHandler`.

    Args:
        handler: called in threads, with the decoded body of a request.
        max_bytes: largest request; the rest of a larger one is not read, and the answer is 413.
    """
    # Of the extra [serve].
    from anyio import CapacityLimiter, to_thread
    from starlette.applications import Starlette
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import JSONResponse, PlainTextResponse, Response
    from starlette.routing import Route

    limiter: list[CapacityLimiter] = []  # belongs to the event loop, which does not run yet

    def error(message: str, status: int) -> Response:
        return JSONResponse({"error": message}, status)

    async def health(request: Request) -> Response:
        return PlainTextResponse("Ok")

    async def predict(request: Request) -> Response:
        body = bytearray()
        try:
            async for chunk in request.stream():
                body += chunk
                if len(body) > max_bytes:
                    return error(f"a request must have at most {max_bytes} bytes", 413)
        except ClientDisconnect:
            return error("the client disconnected", 400)

        if not limiter:
            limiter.append(CapacityLimiter(THREADS))
        answer, status = await to_thread.run_sync(respond, handler, bytes(body), limiter=limiter[0])
        return Response(answer, status, media_type="application/json")

    return Starlette(
        routes=[Route(path, health, methods=["GET"]) for path in ("/", "/health")]
        + [Route(path, predict, methods=["POST"]) for path in ("/", "/predict")]
    )


def respond(handler: Callable[[Any], Any], body: bytes) -> tuple[bytes, int]:
    """Return the JSON and the status of the response to a request's body."""
    try:
        # Python's json also reads NaN and Infinity, which JSON does not have.
        data = json.loads(body.decode("utf-8"), parse_constant=_reject_constant)
    except (ValueError, RecursionError) as error:
        return _error_body(f"the body is not JSON: {str(error)[:200]}"), 400

    try:
        return json.dumps(handler(data), allow_nan=False).encode(), 200
    except RecursionError:  # shallow enough to be decoded, too deep to be shown in a message
        return _error_body("the body is nested too deeply"), 400
    except Exception as error:
        # `RequestError` carries the status; `handler.py` may be a copy, so its class is not compared.
        if isinstance(error, ValueError) and hasattr(error, "status"):
            return _error_body(str(error)), error.status
        logger.exception("a request failed")
        return _error_body("the request could not be answered"), 500


def _reject_constant(word: str) -> None:
    raise ValueError(f"{word} is not a JSON value")


def _error_body(message: str) -> bytes:
    return json.dumps({"error": message}).encode()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `mose hub serve`."""
    parser.add_argument("model", metavar="MODEL", help="folder or Hub id of a MoSE")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="0 for any free port (default: %(default)s)")
    parser.add_argument("--device", help="device of the model, cpu or cuda (default: a GPU if there is one)")
    for name, default in (("texts", 1_024), ("characters", 2_000_000)):
        text = f"largest number of {name} in a request (default: %(default)s)"
        parser.add_argument(f"--max-{name}", type=int, default=default, metavar="N", help=text)


def run(options: argparse.Namespace) -> None:
    """Run `mose hub serve` until it is interrupted."""
    # Of the extra [serve], and slow to import.
    import uvicorn

    from mose.handler import EndpointHandler

    try:
        is_local_folder(options.model)
    except FileNotFoundError as error:
        raise ArgumentError(str(error)) from None

    handler = EndpointHandler(options.model, options.max_texts, options.max_characters, options.device)
    exits = ", ".join(map(str, handler.model.exit_layers))
    logger.info("%s, exits %s, on %s", options.model, exits, handler.model.device)
    uvicorn.run(application(handler), host=options.host, port=options.port, access_log=False)
