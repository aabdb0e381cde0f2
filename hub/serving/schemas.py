"""The requests and answers of each dialect, as `/openapi.json` describes them.

Types are checked here. Values that depend on the model, such as exits, are checked by `mose.handler`.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

#: A text, or a list of texts. `mose.handler` checks it: pydantic would collect an error for each of many items.
Texts = Annotated[
    Any, WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]})
]
Vector = list[float]


class StrictModel(BaseModel):
    """A request without unknown fields, and without values that are only nearly of the right type."""

    model_config = ConfigDict(extra="forbid", strict=True)


class ExitChoice(StrictModel):
    """The exit of a request: named, or chosen by time. Default: the deepest."""

    exit_layer: int | None = Field(None, description="blocks run, one of the model's exits")
    latency_budget_ms: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="take the deepest exit that answers in this time"
    )


class ToolkitParameters(ExitChoice):
    """The parameters of huggingface's inference toolkit, and of the Hub's client."""

    prompt_name: str | None = Field(None, description="instruction before the texts, such as `query` or `python`")
    truncate_dim: int | None = Field(None, description="number of leading dimensions to return")
    dimensions: int | None = Field(None, description="another name of truncate_dim")
    normalize: bool | None = Field(None, description="scale to norm 1, after cutting (default: true)")
    truncate: bool | None = Field(None, description="false refuses texts that are too long (default: true)")
    truncation_direction: str | None = Field(None, description="right or left: the end that is cut")
    encoding_format: str | None = Field(None, description="accepted; the answer is always floats")


class ToolkitRequest(ToolkitParameters):
    """A request of the toolkit. Parameters may also be beside `inputs`, as the Hub's client sends them."""

    inputs: Texts
    parameters: ToolkitParameters | None = None
    options: dict[str, Any] | None = Field(None, description="accepted, without effect")


class TeiRequest(ToolkitParameters):
    """A request of TEI's `/embed`."""

    inputs: Texts


class OpenAIRequest(ExitChoice):
    """A request of OpenAI's embeddings API, with the fields of `ExitChoice` and `prompt_name` on top."""

    model: str = Field(description="a name of `/v1/models`; `NAME@K` is exit K")
    input: Texts
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(None, description="number of leading dimensions to return")
    user: str | None = Field(None, description="accepted, without effect")
    prompt_name: str | None = Field(None, description="instruction before the texts, such as `query` or `python`")


class OpenAIEmbedding(BaseModel):
    """One embedding; base64 is of float32, little-endian."""

    object: Literal["embedding"]
    index: int
    embedding: Vector | str


class OpenAIUsage(BaseModel):
    """The number of tokens embedded."""

    prompt_tokens: int
    total_tokens: int


class OpenAIResponse(BaseModel):
    """The answer of OpenAI's embeddings API. `model` names the exit."""

    object: Literal["list"]
    data: list[OpenAIEmbedding]
    model: str
    usage: OpenAIUsage


class OpenAIModel(BaseModel):
    """A name that requests may use."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class OpenAIModels(BaseModel):
    """All names that requests may use."""

    object: Literal["list"]
    data: list[OpenAIModel]


class TeiInfo(BaseModel):
    """The server and its model, as TEI describes them, and the model's exits."""

    model_config = ConfigDict(protected_namespaces=())

    model_id: str
    model_sha: str | None
    model_dtype: str
    model_type: dict[str, Any]
    max_concurrent_requests: int
    max_input_length: int
    max_batch_tokens: int
    max_client_batch_size: int
    auto_truncate: bool
    tokenization_workers: int
    version: str
    exit_layers: list[int]
    dim: int
