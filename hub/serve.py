"""`python -m mose.hub serve`: `handler.py` over HTTP, with the routes of huggingface's inference toolkit.

POST / or /predict takes JSON and gives JSON; an error is `{"error": message}` with a status of 4xx for what is
wrong with the request, 500 for what is wrong here. GET / or /health says that the model is loaded.
"""

import argparse
import json
import logging
from collections.abc import Callable
from typing import Any

from mose.hub.commands import ArgumentError

logger = logging.getLogger("mose.hub")
#: Requests that are tokenized or wait for the model at the same time; more wait before that.
THREADS = 4


def application(handler: Callable[[Any], Any], max_bytes: int = 16 * 2**20) -> Any:
    """An ASGI application around an `EndpointHandler`.

    Args:
        handler: called in threads, with the decoded body of a request.
        max_bytes: of one request; longer ones get a 413, and are not read to their end.
    """
    from anyio import CapacityLimiter, to_thread
    from starlette.applications import Starlette
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import JSONResponse, PlainTextResponse, Response
    from starlette.routing import Route

    limiter: list[CapacityLimiter] = []  # belongs to an event loop, which does not run yet

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
                    return error(f"more than {max_bytes} bytes in one request", 413)
        except ClientDisconnect:
            return error("the client went away", 400)
        if not limiter:
            limiter.append(CapacityLimiter(THREADS))
        answer, status = await to_thread.run_sync(_answer, handler, bytes(body), limiter=limiter[0])
        return Response(answer, status, media_type="application/json")

    return Starlette(
        routes=[Route(path, health, methods=["GET"]) for path in ("/", "/health")]
        + [Route(path, predict, methods=["POST"]) for path in ("/", "/predict")]
    )


def _answer(handler: Callable[[Any], Any], body: bytes) -> tuple[bytes, int]:
    """JSON and status of the response to one body."""
    try:
        # Python's json takes NaN and Infinity, which are no JSON.
        data = json.loads(body.decode("utf-8"), parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        return _error(f"the body is not JSON: {str(error)[:200]}"), 400
    try:
        return json.dumps(handler(data), allow_nan=False).encode(), 200
    except RecursionError:  # shallow enough to be read, too deep to be looked through
        return _error("the body is nested too deeply"), 400
    except ValueError as error:
        if not hasattr(error, "status"):
            logger.exception("a request failed")
            return _error("the request could not be answered"), 500
        return _error(str(error)), error.status
    except Exception:
        logger.exception("a request failed")
        return _error("the request could not be answered"), 500


def _refuse(word: str) -> None:
    raise ValueError(f"{word} is no JSON value")


def _error(message: str) -> bytes:
    return json.dumps({"error": message}).encode()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `python -m mose.hub serve`."""
    parser.add_argument("model", metavar="MODEL", help="folder or Hub id of a MoSE")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="0: any that is free (default: %(default)s)")
    parser.add_argument("--device", help="where the model runs, cpu or cuda (default: a GPU if there is one)")
    parser.add_argument(
        "--max-texts", type=int, default=1_024, metavar="N", help="texts of one request (default: %(default)s)"
    )
    parser.add_argument(
        "--max-characters",
        type=int,
        default=2_000_000,
        metavar="N",
        help="characters of one request in all (default: %(default)s)",
    )


def run(options: argparse.Namespace) -> None:
    """Runs `python -m mose.hub serve` until it is interrupted."""
    try:
        import uvicorn
    except ImportError:
        raise ArgumentError(
            "serving needs uvicorn and starlette: in a clone, pip install -c constraints.txt -e '.[serve]'"
        ) from None
    from mose.handler import EndpointHandler
    from mose.utils.locations import is_local_folder

    try:
        is_local_folder(options.model)
    except FileNotFoundError as error:
        raise ArgumentError(str(error)) from None
    handler = EndpointHandler(options.model, options.max_texts, options.max_characters, options.device)
    exits = ", ".join(map(str, handler.model.exit_layers))
    logger.info("%s, exits %s, on %s", options.model, exits, handler.model.device)
    uvicorn.run(application(handler), host=options.host, port=options.port, access_log=False)
