"""The Hub's inference entry point: `EndpointHandler(path)(data)`, as Inference Endpoints call it.

    {"inputs": "a text" or ["texts", …], "parameters": {"exit_layer": 2, "prompt_name": "query", …}}

returns one vector, or one per text, as lists of floats. The server answers an exception with its message: status
400 in huggingface's toolkit, `RequestError.status` in `mose.hub.serve`. `mose` itself may not be installed.
"""

import json
import re
import threading
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel, AutoTokenizer
from transformers.utils import cached_file

#: Allowed in `parameters`, or beside `inputs`, as the Hub's client sends them.
PARAMETERS = ("exit_layer", "normalize", "prompt_name", "truncate_dim")
#: Largest number of tokens in a batch, padding included: on a CPU, and on an accelerator.
TOKEN_BUDGETS = (4_096, 65_536)


class RequestError(ValueError):
    """A request that is malformed (HTTP status 400) or too large (413)."""

    def __init__(self, message: str, status: int = 400):
        super().__init__(message)
        self.status = status


class EndpointHandler:
    """Embeds texts at any exit. Safe to call from many threads; one batch runs at a time.

    Args:
        path: folder or Hub id of the model; "" means the folder of this file.
        max_texts: largest number of texts in a request.
        max_characters: largest number of characters in a request. Long texts are truncated by tokens as well.
        device: None means a GPU if there is one.
    """

    def __init__(
        self,
        path: str | Path = "",
        max_texts: int = 1_024,
        max_characters: int = 2_000_000,
        device: str | None = None,
    ):
        path = str(path or Path(__file__).parent)
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        dtype: Any = torch.float32 if device == "cpu" else "auto"  # CPUs compute float32 at full speed
        self.model = AutoModel.from_pretrained(path, trust_remote_code=True, dtype=dtype).to(device).eval()

        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=True)
        self.pad_token_id = tokenizer.pad_token_id or 0
        # Set once and then only read: setting truncation at each call is not safe between threads.
        self.tokenizer = tokenizer.backend_tokenizer
        self.tokenizer.no_padding()
        self.longest = min(tokenizer.model_max_length, self.model.config.max_position_embeddings)
        self.tokenizer.enable_truncation(self.longest)
        # `<sep>` in a text is text. Only that of a prompt is the token.
        self.tokenizer.encode_special_tokens = True

        probe = self.tokenizer.encode("a")
        first, behind = probe.special_tokens_mask.index(0), probe.special_tokens_mask[::-1].index(0)
        self._frame = probe.ids[:first], probe.ids[len(probe) - behind :]
        self._separator = tokenizer.sep_token, tokenizer.sep_token_id
        self.prompts = _load_prompts(path)
        self.max_texts, self.max_characters = max_texts, max_characters
        self.token_budget = TOKEN_BUDGETS[device != "cpu"]
        self._one_batch = threading.Lock()

    def __call__(self, data: Any) -> list[float] | list[list[float]]:
        """Answer one request.

        Args:
            data: an object with `inputs`, a text or a list of texts. Optional, under `parameters` or beside it:
                `exit_layer` (default: the deepest); `prompt_name`, a name in `config_sentence_transformers.json`
                whose prompt is put before the texts; `truncate_dim`, the number of leading dimensions to return;
                `normalize`, whether to scale the vectors to unit norm after that (default: true).

        Returns:
            (dim,) for a text, (texts, dim) for a list.

        Raises:
            RequestError: the request is malformed or too large.
            FloatingPointError: the model's weights are broken.
        """
        if not isinstance(data, dict) or "inputs" not in data:
            raise RequestError('a request must be a JSON object with "inputs", a text or a list of texts')

        parameters = _read_parameters(data)
        texts = self._read_texts(data["inputs"])
        exit_layer = self._read_exit_layer(parameters.get("exit_layer"))
        dim = self._read_truncate_dim(parameters.get("truncate_dim"))
        normalize = parameters.get("normalize")
        if normalize is not None and type(normalize) is not bool:
            raise RequestError(f"normalize must be true or false, got {_shorten(normalize)}")
        prompt = self._read_prompt(parameters.get("prompt_name"))

        vectors = self._embed(self._tokenize(texts, prompt), exit_layer)[:, :dim]
        if normalize is not False:
            vectors = torch.nn.functional.normalize(vectors, dim=-1)
        if not torch.isfinite(vectors).all():
            raise FloatingPointError("an embedding is not finite: the model's weights are broken")
        return (vectors[0] if isinstance(data["inputs"], str) else vectors).tolist()

    def _read_texts(self, inputs: Any) -> list[str]:
        texts = [inputs] if isinstance(inputs, str) else inputs
        if not isinstance(texts, list) or not texts:
            raise RequestError("inputs must be a text, or a list of at least one text")
        if len(texts) > self.max_texts:
            raise RequestError(f"inputs must be at most {self.max_texts} texts, got {len(texts)}", 413)

        for i, text in enumerate(texts):
            if not isinstance(text, str):
                raise RequestError(f"inputs[{i}] must be a text, got {_shorten(text)}")
        # Before the texts are searched: this bounds the work.
        characters, limit = sum(map(len, texts)), self.max_characters
        if characters > limit:
            raise RequestError(f"inputs must have at most {limit} characters in all, got {characters}", 413)

        for i, text in enumerate(texts):
            if re.search("[\ud800-\udfff]", text):  # JSON can hold them, the tokenizer cannot read them
                raise RequestError(f"inputs[{i}] must not contain half of a surrogate pair")
        return texts

    def _read_exit_layer(self, exit_layer: Any) -> int:
        exits = self.model.exit_layers
        if exit_layer is None:
            return exits[-1]
        # `type`, because True and 1.0 are in (1,), too.
        if type(exit_layer) is not int or exit_layer not in exits:
            allowed = ", ".join(map(str, exits))
            raise RequestError(f"exit_layer must be one of {allowed}, got {_shorten(exit_layer)}")
        return exit_layer

    def _read_truncate_dim(self, truncate_dim: Any) -> int:
        size = self.model.config.embedding_size
        if truncate_dim is None:
            return size
        if type(truncate_dim) is not int or not 1 <= truncate_dim <= size:
            raise RequestError(f"truncate_dim must be an integer in [1, {size}], got {_shorten(truncate_dim)}")
        return truncate_dim

    def _read_prompt(self, name: Any) -> str:
        if name is None:
            return ""
        if not isinstance(name, str) or name not in self.prompts:
            allowed = ", ".join(self.prompts) or "none"
            raise RequestError(f"prompt_name must be one of {allowed}, got {_shorten(name)}")
        return self.prompts[name]

    def _tokenize(self, texts: list[str], prompt: str) -> list[list[int]]:
        """Return the ids of texts behind a prompt, as `mose.tokenization.inputs.input_ids` does."""
        token, token_id = self._separator
        instruction, separator, rest = prompt.rpartition(token) if token else ("", "", prompt)
        opening, closing = self._frame
        if separator:
            (prompt_ids,) = self._text_ids([instruction])
            opening = [*opening, *prompt_ids, token_id]

        texts = [rest + text for text in texts]
        contents = self._text_ids(texts)
        for i, text in enumerate(texts):
            # The tokenizer knows our prompts at the start of a text. Behind another prompt they are text as well.
            if separator and token_id in contents[i]:
                contents[i] = self._text_ids(["\n" + text])[0][1:]
        space = self.longest - len(closing)
        return [(opening + content)[:space] + closing for content in contents]

    def _text_ids(self, texts: list[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)]

    def _embed(self, ids: list[list[int]], exit_layer: int) -> torch.Tensor:
        """Return the embeddings of token ids, (texts, embedding size), float32 on the CPU."""
        remaining = sorted(range(len(ids)), key=lambda i: -len(ids[i]))
        embeddings = torch.empty(len(ids), self.model.config.embedding_size)

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
                embeddings[batch] = self.model(*inputs, exit_layer=exit_layer).pooler_output.float().cpu()
        return embeddings


def _read_parameters(data: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters of a request, from both places where they may be."""
    nested = {} if data.get("parameters") is None else data["parameters"]
    if not isinstance(nested, dict):
        raise RequestError(f"parameters must be an object with any of {', '.join(PARAMETERS)}")

    beside = {name: value for name, value in data.items() if name not in ("inputs", "parameters", "options")}
    for name in nested.keys() & beside.keys():
        if nested[name] != beside[name]:
            raise RequestError(f"{_shorten(name)} is in the request twice, with different values")
    for name in nested | beside:
        if name not in PARAMETERS:
            raise RequestError(f"parameters must be among {', '.join(PARAMETERS)}, got {_shorten(name)}")
    return nested | beside


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
