"""The JSON of an error, in the shape that the clients of a route know."""

import json
from collections.abc import Mapping

from starlette.responses import Response

#: Status -> `error_type` of TEI, and `type` of OpenAI.
KINDS = {
    401: ("Unauthorized", "authentication_error"),
    404: ("NotFound", "not_found_error"),
    413: ("Validation", "invalid_request_error"),
    429: ("Overloaded", "rate_limit_error"),
    500: ("Backend", "server_error"),
    503: ("Overloaded", "server_error"),
}
_MALFORMED = ("Validation", "invalid_request_error")


def error_body(path: str, status: int, message: str, code: str | None = None) -> bytes:
    """Return the JSON of an error on a route: OpenAI's object on /v1, TEI's on its routes, else the toolkit's."""
    tei_kind, openai_kind = KINDS.get(status, _MALFORMED)
    if path == "/v1" or path.startswith("/v1/"):
        details = {"message": message, "type": openai_kind, "param": None, "code": code}
        return json.dumps({"error": details}).encode()
    if path in ("/embed", "/info"):
        return json.dumps({"error": message, "error_type": tei_kind}).encode()
    return json.dumps({"error": message}).encode()


def error_response(
    path: str, status: int, message: str, headers: Mapping[str, str] | None = None, code: str | None = None
) -> Response:
    """Return the response for an error on a route."""
    body = error_body(path, status, message, code)
    return Response(body, status, dict(headers or {}), media_type="application/json")
