"""The Hub's inference entry point: `EndpointHandler(path)(data)`, as Inference Endpoints call it.

    {"inputs": "a text" or ["texts", …], "parameters": {"exit_layer": 2, "prompt_name": "query", …}}

returns one vector, or one per text, as lists of floats. The server answers an exception with its message: status
400 in huggingface's toolkit, `RequestError.status` in `mose.hub.serving`. `mose` itself may not be installed.
"""

import json
import re
import threading
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer
from transformers.utils import cached_file

#: Allowed in `parameters`, or beside `inputs`, as the Hub's client sends them.
PARAMETERS = (
    *("exit_layer", "normalize", "prompt_name", "truncate_dim", "dimensions"),
    *("truncate", "truncation_direction", "encoding_format"),
)
#: Largest number of tokens in a batch, padding included: on a CPU, and on an accelerator.
TOKEN_BUDGETS = (4_096, 65_536)
#: Texts, and characters of them together, that are tokenized without threads.
FEW_TEXTS, FEW_CHARACTERS = 8, 4_000


class RequestError(ValueError):
    """A request that is malformed (HTTP status 400) or too large (413)."""

    def __init__(self, message: str, status: int = 400):
        super().__init__(message)
        self.status = status


class EmbeddingRequest(NamedTuple):
    """A request whose values are all allowed."""

    texts: list[str]
    is_single: bool  # one text, not a list of one
    exit_layer: int
    dim: int
    normalize: bool
    prompt: str
    truncate: bool  # otherwise longer texts are refused
    keep_end: bool  # cut the start of longer texts, not their end


class EndpointHandler:
    """Embeds texts at any exit. Safe to call from many threads; one batch runs at a time.

    A call is `read_request`, `tokenize`, `embed` and `finish`. A server may run the steps itself, to put texts of
    several requests into one batch.

    Args:
        path: folder or Hub id of the model; "" means the folder of this file.
        max_texts: largest number of texts in a request.
        max_characters: largest number of characters in a request. Long texts are truncated by tokens as well.
        device: None means a GPU if there is one.
        loaded: the model on its device, in evaluation mode, and its tokenizer. None loads those at `path`, with
            the code beside them.
    """

    def __init__(
        self,
        path: str | Path = "",
        max_texts: int = 1_024,
        max_characters: int = 2_000_000,
        device: str | None = None,
        loaded: tuple[Any, Any] | None = None,
    ):
        path = str(path or Path(__file__).parent)
        self.model, tokenizer = loaded or _load_model(path, device)
        self.pad_token_id = tokenizer.pad_token_id or 0
        # Set once and then only read: settings that change at each call are not safe between threads. Texts are
        # cut after they are tokenized, since the tokenizer's own truncation keeps what it cuts in memory.
        self.tokenizer = tokenizer.backend_tokenizer
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        # Read once: a configuration's attributes are slow to look up.
        self.exit_layers: tuple[int, ...] = tuple(self.model.exit_layers)
        self.dim: int = self.model.config.embedding_size
        self.longest = min(tokenizer.model_max_length, self.model.config.max_position_embeddings)
        # `<sep>` in a text is text. Only that of a prompt is the token.
        self.tokenizer.encode_special_tokens = True

        probe = self.tokenizer.encode("a")
        first, behind = probe.special_tokens_mask.index(0), probe.special_tokens_mask[::-1].index(0)
        self._frame = probe.ids[:first], probe.ids[len(probe) - behind :]
        self._separator = tokenizer.sep_token, tokenizer.sep_token_id
        self.prompts = _load_prompts(path)
        self.max_texts, self.max_characters = max_texts, max_characters
        self.token_budget = TOKEN_BUDGETS[self.model.device.type != "cpu"]
        self._one_batch = threading.Lock()

    def __call__(self, data: Any) -> list[float] | list[list[float]]:
        """Answer one request.

        Args:
            data: an object with `inputs`, a text or a list of texts. Optional, under `parameters` or beside it:
                `exit_layer` (default: the deepest); `prompt_name`, a name in `config_sentence_transformers.json`
                whose prompt is put before the texts; `truncate_dim` or `dimensions`, the number of leading
                dimensions to return; `normalize`, whether to scale the vectors to unit norm after that (default:
                true); `truncate`, false to refuse texts that are too long; `truncation_direction`, the end that
                they are cut at (default: right). `encoding_format` is accepted, but the answer is always floats:
                the Hub's client reads nothing else.

        Returns:
            (dim,) for a text, (texts, dim) for a list.

        Raises:
            RequestError: the request is malformed or too large.
            FloatingPointError: the model's weights are broken.
        """
        request = self.read_request(data)
        vectors = self.finish(self.embed(self.tokenize(request), request.exit_layer), request)
        return (vectors[0] if request.is_single else vectors).tolist()

    def read_request(self, data: Any, field: str = "inputs") -> EmbeddingRequest:
        """Return a request's values after checking all of them; `field` has the texts.

        Raises:
            RequestError: the request is malformed or too large.
        """
        if not isinstance(data, dict) or field not in data:
            raise RequestError(f'a request must be a JSON object with "{field}", a text or a list of texts')

        parameters = _read_parameters(data, field)
        dim = self._read_dim(parameters)
        _read_choice(parameters, "encoding_format", ("float", "base64"))
        return EmbeddingRequest(
            self._read_texts(data[field], field),
            isinstance(data[field], str),
            self._read_exit_layer(parameters.get("exit_layer")),
            dim,
            _read_flag(parameters, "normalize"),
            self._read_prompt(parameters.get("prompt_name")),
            _read_flag(parameters, "truncate"),
            _read_choice(parameters, "truncation_direction", ("right", "left")) == "left",
        )

    def _read_texts(self, inputs: Any, field: str) -> list[str]:
        texts = [inputs] if isinstance(inputs, str) else inputs
        if not isinstance(texts, list) or not texts:
            raise RequestError(f"{field} must be a text, or a list of at least one text")
        if len(texts) > self.max_texts:
            raise RequestError(f"{field} must be at most {self.max_texts} texts, got {len(texts)}", 413)

        for i, text in enumerate(texts):
            if not isinstance(text, str):
                raise RequestError(f"{field}[{i}] must be a text, got {_shorten(text)}")
        # Before the texts are searched: this bounds the work.
        characters, limit = sum(map(len, texts)), self.max_characters
        if characters > limit:
            raise RequestError(f"{field} must have at most {limit} characters in all, got {characters}", 413)

        for i, text in enumerate(texts):
            if re.search("[\ud800-\udfff]", text):  # JSON can hold them, the tokenizer cannot read them
                raise RequestError(f"{field}[{i}] must not contain half of a surrogate pair")
        return texts

    def _read_exit_layer(self, exit_layer: Any) -> int:
        exits = self.exit_layers
        if exit_layer is None:
            return exits[-1]
        # `type`, because True and 1.0 are in (1,), too.
        if type(exit_layer) is not int or exit_layer not in exits:
            allowed = ", ".join(map(str, exits))
            raise RequestError(f"exit_layer must be one of {allowed}, got {_shorten(exit_layer)}")
        return exit_layer

    def _read_dim(self, parameters: dict[str, Any]) -> int:
        size = self.dim
        dims: set[int] = set()
        for name in ("truncate_dim", "dimensions"):
            dim = parameters.get(name)
            if dim is not None and (type(dim) is not int or not 1 <= dim <= size):
                raise RequestError(f"{name} must be an integer in [1, {size}], got {_shorten(dim)}")
            if dim is not None:
                dims.add(dim)

        if len(dims) > 1:
            raise RequestError("truncate_dim and dimensions mean the same, but differ; pass one of them")
        return dims.pop() if dims else size

    def _read_prompt(self, name: Any) -> str:
        if name is None:
            return ""
        if not isinstance(name, str) or name not in self.prompts:
            allowed = ", ".join(self.prompts) or "none"
            raise RequestError(f"prompt_name must be one of {allowed}, got {_shorten(name)}")
        return self.prompts[name]

    def tokenize(self, request: EmbeddingRequest) -> list[list[int]]:
        """Return the token ids of a request's texts, as `mose.tokenization.inputs.input_ids` does.

        Raises:
            RequestError: a text is too long, and the request does not allow to cut it.
        """
        token, token_id = self._separator
        prompt = request.prompt
        instruction, separator, rest = prompt.rpartition(token) if token else ("", "", prompt)
        opening, closing = self._frame
        if separator:
            (prompt_ids,) = self._text_ids([instruction])
            opening = [*opening, *prompt_ids, token_id]

        texts = [rest + text for text in request.texts]
        contents = self._text_ids(texts)
        for i, text in enumerate(texts):
            # The tokenizer knows our prompts at the start of a text. Behind another prompt they are text as well.
            if separator and token_id in contents[i]:
                contents[i] = self._text_ids(["\n" + text])[0][1:]

        space = self.longest - len(closing) - len(opening)
        for i, content in enumerate(contents):
            if len(content) > space and not request.truncate:
                tokens = len(opening) + len(content) + len(closing)
                raise RequestError(f"text {i} must have at most {self.longest} tokens, got {tokens}", 413)

        if request.keep_end and space > 0:
            contents = [content[-space:] for content in contents]
        return [(opening + content)[: self.longest - len(closing)] + closing for content in contents]

    def _text_ids(self, texts: list[str]) -> list[list[int]]:
        # For a few texts, handing them to the tokenizer's threads takes longer than to encode them here.
        if len(texts) <= FEW_TEXTS and sum(map(len, texts)) <= FEW_CHARACTERS:
            return [self.tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
        return [encoding.ids for encoding in self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)]

    def embed(self, ids: list[list[int]], exit_layer: int) -> np.ndarray:
        """Return the embeddings of token ids, (texts, embedding size) float32."""
        remaining = sorted(range(len(ids)), key=lambda i: -len(ids[i]))
        embeddings = np.empty((len(ids), self.dim), dtype=np.float32)

        # Longest first: a batch's first text sets its width.
        while remaining:
            width = len(ids[remaining[0]])
            size = max(1, self.token_budget // width)
            batch, remaining = remaining[:size], remaining[size:]

            input_ids = torch.full((len(batch), width), self.pad_token_id)
            mask = torch.zeros_like(input_ids)
            for row, i in enumerate(batch):
                input_ids[row, : len(ids[i])] = torch.tensor(ids[i])
                mask[row, : len(ids[i])] = 1

            with self._one_batch, torch.inference_mode():
                inputs = (input_ids.to(self.model.device), mask.to(self.model.device))
                embeddings[batch] = self.model(*inputs, exit_layer=exit_layer).pooler_output.float().cpu().numpy()
        return embeddings

    def finish(self, embeddings: np.ndarray, request: EmbeddingRequest) -> np.ndarray:
        """Return embeddings with as many dimensions, and the norm, that a request asks for.

        Raises:
            FloatingPointError: the model's weights are broken.
        """
        vectors = embeddings[:, : request.dim]
        if request.normalize:
            vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        if not np.isfinite(vectors).all():
            raise FloatingPointError("an embedding is not finite: the model's weights are broken")
        return vectors


def _load_model(path: str, device: str | None) -> tuple[Any, Any]:
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtype: Any = torch.float32 if device == "cpu" else "auto"  # CPUs compute float32 at full speed
    model = AutoModel.from_pretrained(path, trust_remote_code=True, dtype=dtype).to(device).eval()
    return model, AutoTokenizer.from_pretrained(path, trust_remote_code=True)


def _read_parameters(data: dict[str, Any], field: str) -> dict[str, Any]:
    """Return the parameters of a request, from both places where they may be."""
    nested = {} if data.get("parameters") is None else data["parameters"]
    if not isinstance(nested, dict):
        raise RequestError(f"parameters must be an object with any of {', '.join(PARAMETERS)}")

    beside = {name: value for name, value in data.items() if name not in (field, "parameters", "options")}
    for name in nested.keys() & beside.keys():
        if nested[name] != beside[name]:
            raise RequestError(f"{_shorten(name)} is in the request twice, with different values")
    for name in nested | beside:
        if name not in PARAMETERS:
            raise RequestError(f"parameters must be among {', '.join(PARAMETERS)}, got {_shorten(name)}")
    return nested | beside


def _read_flag(parameters: dict[str, Any], name: str) -> bool:
    """Return a parameter that is true unless a request says otherwise."""
    flag = parameters.get(name)
    if flag is not None and type(flag) is not bool:
        raise RequestError(f"{name} must be true or false, got {_shorten(flag)}")
    return flag is not False


def _read_choice(parameters: dict[str, Any], name: str, allowed: tuple[str, ...]) -> str:
    """Return a parameter that must be one of these words, in any case. The first is the default."""
    word = parameters.get(name)
    if word is None:
        return allowed[0]
    # TEI spells directions "Right" and "Left", the Hub's client "right" and "left".
    if not isinstance(word, str) or word.lower() not in allowed:
        raise RequestError(f"{name} must be {' or '.join(allowed)}, got {_shorten(word)}")
    return word.lower()


def _load_prompts(path: str) -> dict[str, str]:
    try:
        settings = cached_file(path, "config_sentence_transformers.json")
    except OSError:  # the repository has none
        return {}
    return json.loads(Path(str(settings)).read_text(encoding="utf-8")).get("prompts", {})


def _shorten(value: Any) -> str:
    """Return a value as JSON, cut for an error message."""
    text = json.dumps(value, ensure_ascii=True, default=str)
    return text if len(text) <= 60 else f"{text[:60]}…"
