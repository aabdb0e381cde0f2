"""The Hub's inference entry point: `EndpointHandler(path)(data)`, as Inference Endpoints call it.

    {"inputs": "a text" or ["texts", …], "parameters": {"exit_layer": 2, "prompt_name": "query", …}}

gives one vector, or one per text, as lists of floats. Whoever serves it turns an exception into an error response
with its message: huggingface's toolkit makes each a 400; `mose.hub.serve` follows `RequestError.status`.
This file is served where `mose` is not installed: it imports torch, transformers and nothing of ours.
"""

import json
import threading
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel, AutoTokenizer
from transformers.utils import cached_file

#: What a request may ask for, in `parameters` or beside `inputs`, where the Hub's client puts it.
PARAMETERS = ("exit_layer", "normalize", "prompt_name", "truncate_dim")
#: Tokens of one batch, padding included: on a CPU, and on an accelerator.
TOKEN_BUDGETS = (4_096, 65_536)


class RequestError(ValueError):
    """A request that cannot be answered as it is; says why, and what is allowed.

    Args:
        message: for whoever sent it.
        status: of the HTTP response, 400 or, for one that is too large, 413.
    """

    def __init__(self, message: str, status: int = 400):
        super().__init__(message)
        self.status = status


class EndpointHandler:
    """Embeds texts at any exit. May be called from many threads: one batch runs at a time.

    Args:
        path: folder or Hub id of the model.
        max_texts: in one request.
        max_characters: in all texts of one request together. A text of more tokens than the model reads is cut
            off, as everywhere.
        device: None: a GPU where there is one.
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
        # On a CPU in float32, which every one computes at full speed; on a GPU in the type that is stored.
        dtype: Any = torch.float32 if device == "cpu" else "auto"
        self.model = AutoModel.from_pretrained(path, trust_remote_code=True, dtype=dtype).to(device).eval()
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=True)
        self.pad_token_id = tokenizer.pad_token_id or 0
        # Set up once and only read from then on: setting truncation at each call is not safe among threads.
        self.tokenizer = tokenizer.backend_tokenizer
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(
            min(tokenizer.model_max_length, self.model.config.max_position_embeddings)
        )
        self.prompts = _prompts(path)
        self.max_texts, self.max_characters = max_texts, max_characters
        self.token_budget = TOKEN_BUDGETS[device != "cpu"]
        self._one_batch = threading.Lock()

    def __call__(self, data: Any) -> list[float] | list[list[float]]:
        """Answers one request.

        Args:
            data: an object with `inputs`, a text or a list of texts; and, all optional, under `parameters` or
                beside it: `exit_layer`, one of the model's (default: the deepest); `prompt_name`, what stands
                before the texts, a name in `config_sentence_transformers.json` (default: nothing);
                `truncate_dim`, how many of the first dimensions to give (default: all); `normalize`, whether the
                vectors are scaled to norm 1 after that (default: true).

        Returns:
            (dim,) for a text, (texts, dim) for a list.

        Raises:
            RequestError: the request is malformed or too large.
            FloatingPointError: the model's weights are broken.
        """
        texts, parameters = self._read(data)
        exit_layer = self._exit_layer(parameters.get("exit_layer"))
        size = self.model.config.embedding_size
        width = parameters.get("truncate_dim")
        if width is None:
            width = size
        elif type(width) is not int or not 1 <= width <= size:
            raise RequestError(f"truncate_dim={_shown(width)}: give a whole number from 1 to {size}")
        normalize = parameters.get("normalize")
        if normalize is not None and type(normalize) is not bool:
            raise RequestError(f"normalize={_shown(normalize)}: give true or false")
        prompt = self._prompt(parameters.get("prompt_name"))
        vectors = self._embed([prompt + text for text in texts], exit_layer)[:, :width]
        if normalize is not False:
            vectors = torch.nn.functional.normalize(vectors, dim=-1)
        if not torch.isfinite(vectors).all():
            raise FloatingPointError("the model's weights are broken: an embedding is not finite")
        rows = vectors.tolist()
        return rows[0] if isinstance(data["inputs"], str) else rows

    def _read(self, data: Any) -> tuple[list[str], dict[str, Any]]:
        if not isinstance(data, dict) or "inputs" not in data:
            raise RequestError('give a JSON object with "inputs": a text, or a list of texts')
        given = data.get("parameters")
        if given is not None and not isinstance(given, dict):
            raise RequestError(f"parameters: give an object with any of {', '.join(PARAMETERS)}")
        parameters = dict(given or {})
        for name, value in data.items():
            if name not in ("inputs", "parameters", "options"):
                if name in parameters and parameters[name] != value:
                    raise RequestError(f"{_shown(name)}: stands in the request twice, with different values")
                parameters[name] = value
        for name in parameters:
            if name not in PARAMETERS:
                raise RequestError(f"parameter {_shown(name)}: allowed are {', '.join(PARAMETERS)}")
        inputs = data["inputs"]
        texts = [inputs] if isinstance(inputs, str) else inputs
        if not isinstance(texts, list) or not texts:
            raise RequestError("inputs: give a text, or a list of at least one text")
        if len(texts) > self.max_texts:
            raise RequestError(f"inputs: {len(texts)} texts; allowed are {self.max_texts} in one request", 413)
        for at, text in enumerate(texts):
            if not isinstance(text, str):
                raise RequestError(f"inputs[{at}]: give a text, not {_shown(text)}")
        characters = sum(map(len, texts))
        if characters > self.max_characters:
            raise RequestError(
                f"inputs: {characters} characters; allowed are {self.max_characters} in one request", 413
            )
        for at, text in enumerate(texts):
            if any("\ud800" <= character <= "\udfff" for character in text):
                raise RequestError(f"inputs[{at}]: holds half of a surrogate pair, which is no text")
        return texts, parameters

    def _exit_layer(self, exit_layer: Any) -> int:
        exits = self.model.exit_layers
        if exit_layer is None:
            return exits[-1]
        if type(exit_layer) is not int or exit_layer not in exits:
            known = ", ".join(map(str, exits))
            raise RequestError(f"exit_layer={_shown(exit_layer)}: this model exits at {known}")
        return exit_layer

    def _prompt(self, name: Any) -> str:
        if name is None:
            return ""
        if not isinstance(name, str) or name not in self.prompts:
            raise RequestError(f"prompt_name={_shown(name)}: there are {', '.join(self.prompts) or 'none'}")
        return self.prompts[name]

    def _embed(self, texts: list[str], exit_layer: int) -> torch.Tensor:
        """(texts, embedding size), float32 on the CPU; longest first, in batches of bounded size."""
        ids = [encoding.ids for encoding in self.tokenizer.encode_batch(texts)]
        order = sorted(range(len(ids)), key=lambda at: -len(ids[at]))
        result = torch.empty(len(ids), self.model.config.embedding_size)
        while order:
            longest = len(ids[order[0]])
            size = max(1, self.token_budget // longest)
            chosen, order = order[:size], order[size:]
            rows = torch.full((len(chosen), longest), self.pad_token_id)
            mask = torch.zeros_like(rows)
            for row, at in enumerate(chosen):
                rows[row, : len(ids[at])] = torch.tensor(ids[at])
                mask[row, : len(ids[at])] = 1
            with self._one_batch, torch.inference_mode():
                device = self.model.device
                out = self.model(rows.to(device), mask.to(device), exit_layer=exit_layer)
                result[chosen] = out.pooler_output.float().cpu()
        return result


def _prompts(path: str) -> dict[str, str]:
    try:
        settings = cached_file(path, "config_sentence_transformers.json")
    except OSError:  # the repository has none
        return {}
    return json.loads(Path(str(settings)).read_text(encoding="utf-8")).get("prompts", {})


def _shown(value: Any) -> str:
    """A value in an error message, as JSON, and not all of it."""
    words = json.dumps(value, ensure_ascii=True, default=str)
    return words if len(words) <= 60 else f"{words[:60]}…"
