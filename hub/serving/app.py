"""The routes: huggingface's toolkit, OpenAI's embeddings and TEI, over one `EmbeddingService`."""

import base64
import importlib
import logging
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.routing import APIRoute
from fastapi_offline import FastAPIOffline
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException

from mose.handler import RequestError
from mose.hub.serving.batching import QueueFullError
from mose.hub.serving.errors import error_response
from mose.hub.serving.metrics import ServerMetrics
from mose.hub.serving.schemas import (
    OpenAIModel,
    OpenAIModels,
    OpenAIRequest,
    OpenAIResponse,
    TeiInfo,
    TeiRequest,
    ToolkitRequest,
    Vector,
)
from mose.hub.serving.service import TOKENIZER_THREADS, ClientGoneError, Embeddings, EmbeddingService

logger = logging.getLogger("mose.hub")
JSON = "application/json"
#: Of the package, which imports nothing itself.
VERSION: str = importlib.import_module("mose").__version__
#: Header that says which exit made an answer.
EXIT_HEADER = "x-mose-exit-layer"


def build_app(service: EmbeddingService, metrics: ServerMetrics, name: str, max_connections: int) -> FastAPI:
    """Return the application with all routes.

    Args:
        service: answers the requests.
        metrics: for `/metrics`.
        name: the model's name on OpenAI's routes.
        max_connections: for `/info`.
    """
    exits = ", ".join(map(str, service.engine.exit_layers))
    # With the files of /docs, which a browser would otherwise fetch from elsewhere.
    app = FastAPIOffline(
        redoc_url=None,
        title="MoSE embeddings",
        redirect_slashes=False,
        version=VERSION,
        description=f"Embeddings of code and text by {name}, at exits {exits}.",
        # Metrics are ours. Asking at each request whether there is a collector takes time.
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )

    _add_toolkit(app, service)
    _add_openai(app, service, name)
    _add_tei(app, service, metrics, max_connections)
    _add_error_handlers(app)
    return app


class EmbeddingRoute(APIRoute):
    """A route whose endpoint takes a body and the request. pydantic parses and checks the body in one step.

    That saves a third of the time of a short request: FastAPI's own way is made for all kinds of parameters.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the function that answers a request."""
        assert self.body_field is not None
        endpoint, schema = self.endpoint, self.body_field.field_info.annotation
        assert isinstance(schema, type) and issubclass(schema, BaseModel)

        async def answer(request: Request) -> Response:
            try:
                body = schema.model_validate_json(await request.body())
            except ValidationError as error:
                raise RequestError(_validation_message(error)) from None
            return await endpoint(body, request)

        return answer


def _add_embedding_route(app: FastAPI, path: str, endpoint: Callable[..., Any], answer: Any, tag: str) -> None:
    """Add a route for texts.

    Args:
        app: the application.
        path: of the route.
        endpoint: coroutine of a checked body and the request.
        answer: type of the answer, for the documentation.
        tag: name of the dialect.
    """
    app.router.add_api_route(
        path,
        endpoint,
        methods=["POST"],
        tags=[tag],
        summary="Embed a text or texts",
        responses={200: {"model": answer}},
        route_class_override=EmbeddingRoute,
    )


def _json_response(value: Any, exit_layer: int | None = None) -> Response:
    # numpy's float32 in the shortest digits that give the same number again.
    headers = {} if exit_layer is None else {EXIT_HEADER: str(exit_layer)}
    return Response(orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY), headers=headers, media_type=JSON)


# --- huggingface's toolkit --------------------------------------------------------------------------------


def _add_toolkit(app: FastAPI, service: EmbeddingService) -> None:
    async def health() -> Response:
        return Response("Ok", media_type="text/plain")

    async def predict(body: ToolkitRequest, request: Request) -> Response:
        answer = await _answer(service, body.model_dump(exclude_unset=True), request)
        return _json_response(answer.vectors[0] if answer.is_single else answer.vectors, answer.exit_layer)

    for path in ("/", "/predict"):
        _add_embedding_route(app, path, predict, Vector | list[Vector], "toolkit")
    for path in ("/", "/health"):
        options: dict[str, Any] = {"tags": ["health"], "summary": "Answer once the model is loaded"}
        app.api_route(path, methods=["GET"], **options)(health)
        app.api_route(path, methods=["HEAD"], include_in_schema=False)(health)


async def _answer(service: EmbeddingService, data: dict[str, Any], request: Request) -> Embeddings:
    """Embed a request whose exit may be chosen by `latency_budget_ms`, beside the texts or in `parameters`."""
    nested = data.get("parameters") or {}
    budgets = [part.pop("latency_budget_ms", None) for part in (data, nested)]
    given = [budget for budget in budgets if budget is not None]
    named = [part["exit_layer"] for part in (data, nested) if part.get("exit_layer") is not None]
    _check_one_choice(given, named)
    return await service.embed(data, request.receive, latency_budget_ms=given[0] if given else None)


def _check_one_choice(budgets: Sequence[float], exits: Sequence[int]) -> None:
    if len(set(budgets)) > 1:
        raise RequestError("latency_budget_ms is in the request twice, with different values")
    if budgets and exits:
        raise RequestError("exit_layer and latency_budget_ms both choose the exit; pass one of them")


# --- OpenAI -----------------------------------------------------------------------------------------------


def _add_openai(app: FastAPI, service: EmbeddingService, name: str) -> None:
    # What a client asks for by name: the default exit, or one exit.
    exits: Mapping[str, int | None] = {
        name: None,
        **{f"{name}@{exit_layer}": exit_layer for exit_layer in service.engine.exit_layers},
    }
    created = int(time.time())
    models = [OpenAIModel(id=key, object="model", created=created, owned_by="mose") for key in exits]

    @app.get("/v1/models", tags=["OpenAI"], summary="List the model's exits", response_model=OpenAIModels)
    async def list_models() -> Any:
        return {"object": "list", "data": models}

    @app.get("/v1/models/{model:path}", tags=["OpenAI"], summary="Describe one exit", response_model=OpenAIModel)
    async def describe_model(model: str, request: Request) -> Any:
        if model not in exits:
            return _unknown_model(request, model, exits)
        return models[list(exits).index(model)]

    async def embeddings(body: OpenAIRequest, request: Request) -> Response:
        if body.model not in exits:
            return _unknown_model(request, body.model, exits)

        exit_layer = body.exit_layer
        if (by_name := exits[body.model]) is not None:
            if exit_layer not in (None, by_name):
                raise RequestError(
                    f"model names exit {by_name}, but exit_layer is {exit_layer}; pass one of them"
                )
            exit_layer = by_name
        _check_no_token_ids(body.input)
        budget = body.latency_budget_ms
        _check_one_choice([] if budget is None else [budget], [] if exit_layer is None else [exit_layer])

        data = {"input": body.input, "exit_layer": exit_layer, "prompt_name": body.prompt_name}
        data["dimensions"] = body.dimensions
        answer = await service.embed(data, request.receive, "input", budget)
        return _openai_response(answer, name, body.encoding_format == "base64")

    _add_embedding_route(app, "/v1/embeddings", embeddings, OpenAIResponse, "OpenAI")


def _check_no_token_ids(texts: Any) -> None:
    if isinstance(texts, list) and texts and isinstance(texts[0], int | list):
        message = (
            "input must be a text or a list of texts, got token ids, which mean something else to each tokenizer"
        )
        raise RequestError(f"{message}. Send the texts themselves.")


def _openai_response(answer: Embeddings, name: str, is_base64: bool) -> Response:
    vectors: list[Any] = list(answer.vectors)
    if is_base64:
        vectors = [base64.b64encode(vector.astype("<f4").tobytes()).decode() for vector in vectors]
    return _json_response(
        {
            "object": "list",
            "data": [
                {"object": "embedding", "index": index, "embedding": vector}
                for index, vector in enumerate(vectors)
            ],
            "model": f"{name}@{answer.exit_layer}",
            "usage": {"prompt_tokens": answer.tokens, "total_tokens": answer.tokens},
        },
        answer.exit_layer,
    )


def _unknown_model(request: Request, model: str, exits: Mapping[str, Any]) -> Response:
    message = f"model must be one of {', '.join(exits)}, got {ascii(model[:100])}"
    return error_response(request.url.path, 404, message, code="model_not_found")


# --- TEI --------------------------------------------------------------------------------------------------


def _add_tei(app: FastAPI, service: EmbeddingService, metrics: ServerMetrics, max_connections: int) -> None:
    engine, handler = service.engine, service.engine.handler
    config = handler.model.config
    info = TeiInfo(
        model_id=engine.source,
        model_sha=getattr(config, "_commit_hash", None),
        model_dtype=str(engine.dtype).removeprefix("torch."),
        model_type={"embedding": {"pooling": config.pooling}},
        max_concurrent_requests=max_connections,
        max_input_length=handler.longest,
        max_batch_tokens=engine.token_budget,
        max_client_batch_size=handler.max_texts,
        auto_truncate=True,
        tokenization_workers=TOKENIZER_THREADS,
        version=VERSION,
        exit_layers=list(engine.exit_layers),
        dim=handler.dim,
    )

    async def embed(body: TeiRequest, request: Request) -> Response:
        answer = await _answer(service, body.model_dump(exclude_unset=True), request)
        return _json_response(answer.vectors, answer.exit_layer)

    _add_embedding_route(app, "/embed", embed, list[Vector], "TEI")

    @app.get("/info", tags=["TEI"], summary="Describe the server", response_model=TeiInfo)
    async def describe_server() -> Any:
        return info

    @app.get("/metrics", tags=["TEI"], summary="Metrics for Prometheus")
    async def show_metrics() -> Response:
        return Response(metrics.render(), media_type="text/plain; version=0.0.4")


# --- Errors -----------------------------------------------------------------------------------------------


def _add_error_handlers(app: FastAPI) -> None:
    def handle(kind: type[Exception]) -> Callable[[Any], Any]:
        return app.exception_handler(kind)

    @handle(RequestError)
    async def refuse(request: Request, error: RequestError) -> Response:
        return error_response(request.url.path, error.status, str(error))

    @handle(QueueFullError)
    async def put_off(request: Request, error: QueueFullError) -> Response:
        return error_response(request.url.path, 503, str(error), {"retry-after": str(error.retry_after)})

    @handle(ClientGoneError)
    async def drop(request: Request, error: ClientGoneError) -> Response:
        return Response(status_code=499)  # nobody reads it; metrics count it

    @handle(HTTPException)
    async def name_status(request: Request, error: HTTPException) -> Response:
        messages = {
            404: f"there is no {ascii(request.url.path[:100])} here; /docs lists the routes",
            405: f"{request.method[:20]} is not allowed here; /docs lists the routes",
        }
        message = messages.get(error.status_code, str(error.detail))
        return error_response(request.url.path, error.status_code, message, error.headers)

    @handle(Exception)
    async def fail(request: Request, error: Exception) -> Response:
        # The server logs the error. Its text may tell a stranger about this machine.
        return error_response(request.url.path, 500, "the request could not be answered")


def _validation_message(error: ValidationError) -> str:
    """Return the first of a body's errors, with its place."""
    first = error.errors(include_url=False)[0]
    if first["type"] == "json_invalid":
        return f"the body is not JSON: {first['ctx']['error']}"

    place = ".".join(map(str, first["loc"]))
    if not place:
        return "the body must be a JSON object"
    value = first["input"]
    shown = f", got {ascii(value)[:60]}" if isinstance(value, str | int | float | bool) else ""
    return f"{ascii(place)[1:-1][:100]}: {first['msg'][:200]}{shown}"
