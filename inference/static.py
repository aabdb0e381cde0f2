"""Exit 0 as a lookup, in numpy alone: neither torch nor transformers is imported.

Exit 0 runs no block, so all that a token brings to an embedding depends on its id: its normed and projected state
and its part in the gate's scores. They are rows of tables, computed when a token first occurs. A text is then a
lookup, a few adds, a softmax and one weighted sum. The embeddings are those of the model at exit 0.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from mose.inference.tensors import CheckpointTensors, to_float32
from mose.tokenization.backend import BackendTokenizer
from mose.tokenization.inputs import input_ids
from mose.tokenization.prompts import prompt_for
from mose.utils.prefetching import prefetch

#: A function of the rows of an array.
ArrayFunction: TypeAlias = Callable[[np.ndarray], np.ndarray]
#: Values of fields that a config.json may leave out, as in `MoSEConfig`.
CONFIG_DEFAULTS: dict[str, Any] = {
    "exit_layers": (4, 9, 18, 27, 36),
    "hidden_size": 1024,
    "exit_norm": "every",
    "norm_epsilon": 1e-5,
    "pooling": "mean",
    "gate_size": 64,
    "gate_kernel_size": 4,
    "projection_layers": 1,
    "projection_act": "leaky_relu",
    "embedding_norm": "unit",
    "use_bias": True,
    "truncate_dim": None,
    "num_hidden_layers": 36,
    "max_position_embeddings": 2048,
}
#: Types of the tables' entries -> numpy's.
TABLE_TYPES = {"fp32": np.float32, "fp16": np.float16, "int8": np.int8}
#: Texts that are tokenized together, while the texts before them are embedded.
TEXTS_AT_ONCE = 1_024
#: Tokens that are embedded together: few enough to stay in the cache.
TOKENS_AT_ONCE = 2_048


def tanh_gelu(values: np.ndarray) -> np.ndarray:
    """Return the tanh approximation of GELU."""
    inner = values * values
    inner *= 0.044715 * np.sqrt(2 / np.pi).astype(np.float32)
    inner += np.sqrt(2 / np.pi).astype(np.float32)
    inner *= values
    np.tanh(inner, out=inner)

    inner += 1
    inner *= values
    inner *= 0.5
    return inner


ACTIVATIONS: dict[str, ArrayFunction] = {
    "gelu_pytorch_tanh": tanh_gelu,
    "leaky_relu": lambda values: np.where(values > 0, values, np.float32(0.01) * values),
    "relu": lambda values: np.maximum(values, 0),
    "silu": lambda values: values / (1 + np.exp(-values)),
    "tanh": np.tanh,
}


class StaticEncoder:
    """Embeds texts at exit 0 of a MoSE, without torch.

    Args:
        source: folder or Hub id of a MoSE with an exit 0.
        tables: type of the tables: "fp32" for the model's embeddings, "fp16" for half of the memory, "int8" for a
            quarter.
        truncate_dim: width of the tables, and of embeddings unless a call asks for less. None keeps all, and the
            model's own `truncate_dim` is the default of calls.
        max_length: maximum number of tokens, special tokens included. The limits of model and tokenizer apply as
            well; None means these alone.
        revision: branch, tag or commit of a Hub id.

    Raises:
        ValueError: the model has no exit 0, its weights or files are damaged, or an argument is not allowed.
        FileNotFoundError: there is no model at `source`, or one of its files is missing.
    """

    def __init__(
        self,
        source: str | Path,
        tables: str = "fp32",
        truncate_dim: int | None = None,
        max_length: int | None = None,
        revision: str | None = None,
    ):
        if tables not in TABLE_TYPES:
            raise ValueError(f"tables must be one of {', '.join(TABLE_TYPES)}, got {tables!r}. Pass one of them.")

        locate = _locator(str(source), revision)
        self.name = str(source)
        self.config = {**CONFIG_DEFAULTS, **_read_json(locate("config.json"))}
        self._check_config()

        self.tokenizer = BackendTokenizer(locate("tokenizer.json"), _read_json(locate("tokenizer_config.json")))
        limits = (self.tokenizer.max_length, self.config["max_position_embeddings"])
        self.max_length = min(limit for limit in (*limits, max_length) if limit is not None)
        if self.max_length < self.tokenizer.special_tokens:
            least = f"at least {self.tokenizer.special_tokens} (special tokens)"
            raise ValueError(f"max_length must be {least}, got {self.max_length}. Pass more, or None.")

        width = self.config["hidden_size"]
        self._width = width if truncate_dim is None else _checked_dim(truncate_dim, width)
        own = self.config["truncate_dim"]
        self.truncate_dim = self._width if truncate_dim is not None or own is None else own
        self.tensors = CheckpointTensors(self.name, locate)
        self._tables = _TokenTables(self.config, self.tensors, tables, self._width)

    def encode_query(self, texts: Sequence[str], truncate_dim: int | None = None) -> np.ndarray:
        """Return the embeddings of natural-language queries; see `encode`."""
        return self.encode(texts, prompt_for("", query=True), truncate_dim)

    def encode_document(
        self, texts: Sequence[str], languages: str | Sequence[str] = "", truncate_dim: int | None = None
    ) -> np.ndarray:
        """Return the embeddings of code in one language, or in one for each text; see `encode`."""
        if isinstance(languages, str):
            return self.encode(texts, prompt_for(languages, query=False), truncate_dim)

        known = {language: prompt_for(language, query=False) for language in set(languages)}
        return self.encode(texts, [known[language] for language in languages], truncate_dim)

    def encode(
        self, texts: Sequence[str], prompts: str | Sequence[str] = "", truncate_dim: int | None = None
    ) -> np.ndarray:
        """Return the embeddings of texts, (texts, dim) float32, in their order.

        Args:
            texts: at least one.
            prompts: prefix of every text, or one prefix for each text.
            truncate_dim: keep this many leading dimensions; None means the encoder's.

        Raises:
            ValueError: no texts, or prompts or a `truncate_dim` that do not fit.
            FloatingPointError: an embedding is NaN or infinite, because the weights are broken.
        """
        if isinstance(texts, str):
            raise ValueError("texts must be a sequence of strings, not one string. Pass [text].")
        if not len(texts):
            raise ValueError("no texts to encode. Pass at least one.")
        if not isinstance(prompts, str) and len(prompts) != len(texts):
            raise ValueError(f"{len(prompts)} prompts for {len(texts)} texts. Pass one string, or one for each.")
        dim = self.truncate_dim if truncate_dim is None else _checked_dim(truncate_dim, self._width)

        result = np.empty((len(texts), dim), dtype=np.float32)
        for start, ids, lengths in self._windows(texts, prompts):
            self._pool_batches(ids, lengths, result[start : start + len(lengths)])
        norms = self._normalize(result)
        self._check_finite(norms, texts)
        return result

    def encode_ids(self, ids: Sequence[Sequence[int]]) -> np.ndarray:
        """Return the embeddings of token ids, special tokens included, (texts, dim) float32.

        Weights that are not finite give embeddings that are not; nothing is raised.
        """
        lengths = np.fromiter(map(len, ids), dtype=np.int64, count=len(ids))
        result = np.empty((len(ids), self.truncate_dim), dtype=np.float32)
        joined = np.fromiter(chain.from_iterable(ids), dtype=np.int64, count=lengths.sum())
        self._pool_batches(joined, lengths, result)
        self._normalize(result)
        return result

    def _pool_batches(self, ids: np.ndarray, lengths: np.ndarray, result: np.ndarray) -> None:
        for rows, tokens in token_batches(lengths, TOKENS_AT_ONCE):
            result[rows] = self._tables.pool(ids[tokens], lengths[rows], result.shape[1])

    def _normalize(self, embeddings: np.ndarray) -> np.ndarray:
        """Scale embeddings in place, and return the norms that they had."""
        # The least norm to divide by: with 1, shorter vectors keep their length.
        least = 1.0 if self.config["embedding_norm"] == "at_most_one" else 1e-12
        norms = np.sqrt(np.einsum("ij,ij->i", embeddings, embeddings))
        embeddings /= np.maximum(norms, np.float32(least))[:, None]
        return norms

    def _windows(
        self, texts: Sequence[str], prompts: str | Sequence[str]
    ) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Return the position of each window's first text, the ids of its texts in a row, and their lengths.

        The next window is tokenized while the caller embeds this one.
        """

        def tokenize(start: int) -> tuple[int, np.ndarray, np.ndarray]:
            window = slice(start, start + TEXTS_AT_ONCE)
            prefixes = prompts if isinstance(prompts, str) else prompts[window]
            ids = input_ids(self.tokenizer, texts[window], prefixes, self.max_length)
            lengths = np.fromiter(map(len, ids), dtype=np.int64, count=len(ids))
            return start, np.fromiter(chain.from_iterable(ids), dtype=np.int64, count=lengths.sum()), lengths

        starts = range(0, len(texts), TEXTS_AT_ONCE)
        windows = map(tokenize, starts)
        # A single window, such as a query, needs no thread.
        return windows if len(starts) == 1 else prefetch(windows)

    def _check_config(self) -> None:
        if 0 not in self.config["exit_layers"]:
            exits = ", ".join(map(str, self.config["exit_layers"]))
            raise ValueError(f"{self.name} must have an exit 0, got exits {exits}. Load it with torch instead.")
        activation = self.config["projection_act"]
        if self.config["projection_layers"] == 2 and activation not in ACTIVATIONS:
            allowed = ", ".join(ACTIVATIONS)
            message = f"projection_act must be one of {allowed}, got {activation!r}. Load it with torch instead."
            raise ValueError(message)

    def _check_finite(self, norms: np.ndarray, texts: Sequence[str]) -> None:
        finite = np.isfinite(norms)
        if not finite.all():
            text = texts[int(finite.argmin())][:60]
            raise FloatingPointError(
                f"{self.name}: the embedding of {text!r} is not finite. Load intact weights."
            )


class _Table:
    """Rows of numbers, stored as one of `TABLE_TYPES`. int8 has a scale for each row."""

    def __init__(self, rows: int, width: int, stored: str):
        # Pages of rows that are never written take no memory.
        self._values = np.zeros((rows, width), dtype=TABLE_TYPES[stored])
        self._scales = np.zeros(rows, dtype=np.float32) if stored == "int8" else None

    def write(self, rows: np.ndarray, values: np.ndarray) -> None:
        """Store rows."""
        limit = np.finfo(np.float16 if self._values.dtype == np.float16 else np.float32).max
        if not (np.abs(values) <= limit).all():
            message = f"a token's row of the tables is not finite or beyond {limit:g}"
            raise FloatingPointError(f"{message}. Load intact weights, or use fp32 tables.")

        if self._scales is not None:
            scales = np.abs(values).max(axis=1) / np.float32(127)
            self._scales[rows] = scales
            values = np.rint(values / np.where(scales > 0, scales, 1)[:, None])
        self._values[rows] = values

    def take(self, rows: np.ndarray, dim: int) -> np.ndarray:
        """Return the first `dim` columns of rows, in float32."""
        # Whole rows are copied faster than parts of them.
        whole = dim == self._values.shape[1]
        values = self._values.take(rows, axis=0) if whole else self._values[rows, :dim]
        if values.dtype == np.float16:
            values = _widen_halves(values)
        elif values.dtype != np.float32:
            values = values.astype(np.float32)
        if self._scales is not None:
            values *= self._scales[rows][:, None]
        return values


class _TokenTables:
    """The tables of a model's exit 0, filled with a token's rows when it first occurs."""

    def __init__(self, config: dict[str, Any], tensors: CheckpointTensors, stored: str, width: int):
        self._pooling, self._epsilon = config["pooling"], np.float32(config["norm_epsilon"])
        self._embeddings = tensors.read("embed_tokens.weight")
        tokens = len(self._embeddings)

        def read(name: str) -> np.ndarray:
            return to_float32(tensors.read(f"exits.0.{name}"))

        def linear(name: str, outputs: int | None = None, bias: bool = config["use_bias"]) -> ArrayFunction:
            added = read(f"{name}.bias")[:outputs] if bias else np.zeros(1, dtype=np.float32)
            return partial(_affine, np.ascontiguousarray(read(f"{name}.weight")[:outputs].T), added)

        normed = config["exit_norm"] == "every" or config["num_hidden_layers"] == 0
        self._norm = (read("norm.weight"), read("norm.bias")) if normed else None
        if config["projection_layers"] == 2:
            self._projection: tuple[ArrayFunction, ...] = (
                linear("projection.0"),
                ACTIVATIONS[config["projection_act"]],
                linear("projection.2", width),
            )
        else:
            self._projection = (linear("projection", width),)

        self._states, self._taps = _Table(tokens, width, stored), []
        # Row `tokens` is what comes before a text: it adds nothing to the gate.
        self._is_written = np.zeros(tokens + 1, dtype=bool)
        if self._pooling == "gated":
            self._tap = linear("gate.taps", bias=True)
            size = config["gate_size"]
            self._taps = [_Table(tokens + 1, size, stored) for _ in range(config["gate_kernel_size"])]
            places = np.log1p(np.arange(1, config["max_position_embeddings"] + 1, dtype=np.float32))
            self._places = places[:, None] * read("gate.place.weight")[:, 0] + read("gate.place.bias")
            self._score = read("gate.score.weight")[0]

    def pool(self, ids: np.ndarray, lengths: np.ndarray, dim: int) -> np.ndarray:
        """Return embeddings that are not yet normalised, of texts whose ids lie one after the other."""
        self._write(ids)
        starts = np.cumsum(lengths) - lengths
        if self._pooling == "cls":
            return self._states.take(ids[starts + lengths - 1], dim)

        # Weights of a text sum to 1, so states can be projected before they are pooled.
        weights = self._weights(ids, starts, lengths)
        # Code repeats its tokens: each state is read once, and its weights in a text are summed before.
        known, places = np.unique(ids, return_inverse=True)
        places += np.repeat(np.arange(len(lengths)) * len(known), lengths)
        mixed = np.bincount(places, weights, len(lengths) * len(known)).astype(np.float32)
        return mixed.reshape(len(lengths), len(known)) @ self._states.take(known, dim)

    def _weights(self, ids: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Return the weight of each token in its text."""
        if self._pooling == "mean":
            return np.repeat(np.float32(1) / lengths.astype(np.float32), lengths)

        positions = np.arange(len(ids)) - np.repeat(starts, lengths)
        features = self._places.take(positions, axis=0)
        for shift, tap in enumerate(self._taps):
            shifted = np.full_like(ids, len(self._is_written) - 1)
            shifted[shift:] = ids[: len(ids) - shift]
            # A text's first tokens must not see the text before it.
            shifted[positions < shift] = len(self._is_written) - 1
            features += tap.take(shifted, features.shape[1])

        scores = tanh_gelu(features) @ self._score
        scores -= np.repeat(np.maximum.reduceat(scores, starts), lengths)
        np.exp(scores, out=scores)
        scores /= np.repeat(np.add.reduceat(scores, starts), lengths)
        return scores

    def _write(self, ids: np.ndarray) -> None:
        """Compute the rows of tokens that have none yet."""
        if ids.max() >= len(self._embeddings):
            message = f"must be below the vocabulary of {len(self._embeddings)}, got {ids.max()}"
            raise ValueError(f"token ids {message}. Use the tokenizer that belongs to the model.")

        written = self._is_written[ids]
        if written.all():
            return
        rows = np.unique(ids[~written])
        # As many as there are of a large vocabulary would take memory for each step.
        for start in range(0, len(rows), TOKENS_AT_ONCE):
            self._compute(rows[start : start + TOKENS_AT_ONCE])

    def _compute(self, rows: np.ndarray) -> None:
        states = to_float32(self._embeddings[rows])
        if self._norm is not None:
            states -= states.mean(axis=1, keepdims=True)
            states /= np.sqrt(np.square(states).mean(axis=1, keepdims=True) + self._epsilon)
            states = states * self._norm[0] + self._norm[1]

        if self._taps:
            for table, tap in zip(self._taps, np.split(self._tap(states), len(self._taps), axis=1), strict=True):
                table.write(rows, tap)
        for step in self._projection:
            states = step(states)
        self._states.write(rows, states)
        # Last, so that another thread never reads a row that is not complete.
        self._is_written[rows] = True


def _widen_halves(values: np.ndarray) -> np.ndarray:
    """Return finite fp16 values as float32, several times as fast as numpy's conversion."""
    # Sign-extend, move exponent and fraction to their places, and correct the exponent's bias.
    bits = values.view(np.int16).astype(np.int32)
    bits <<= 13
    bits &= np.int32(-0x70002000)
    widened = bits.view(np.float32)
    widened *= np.float32(2.0**112)
    return widened


def _affine(matrix: np.ndarray, bias: np.ndarray, values: np.ndarray) -> np.ndarray:
    return values @ matrix + bias


def token_batches(lengths: np.ndarray, token_budget: int) -> Iterator[tuple[slice, slice]]:
    """Yield the texts of each batch and their tokens, in order: at most `token_budget` tokens, or one text."""
    ends = np.cumsum(lengths)
    first = done = 0
    while first < len(lengths):
        # A longer text is a batch of its own.
        last = max(first + 1, int(np.searchsorted(ends, done + token_budget, side="right")))
        end = int(ends[last - 1])
        yield slice(first, last), slice(done, end)
        first, done = last, end


def _checked_dim(dim: int, width: int) -> int:
    if type(dim) is not int or not 1 <= dim <= width:
        message = f"truncate_dim must be an integer in [1, {width}], got {dim!r}"
        raise ValueError(f"{message}. Pass None to keep all dimensions.")
    return dim


def _locator(source: str, revision: str | None) -> Callable[[str], Path]:
    """Return a function from a file's name to its path, which downloads the file of a Hub id."""
    folder = Path(source)
    if folder.is_dir():

        def in_folder(name: str) -> Path:
            if not (folder / name).is_file():
                raise FileNotFoundError(f"{source} has no {name}. Pass the folder of a MoSE.")
            return folder / name

        return in_folder

    # A folder needs no client of the Hub, which takes longer to import than a query takes.
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    from mose.utils.locations import is_local_folder

    is_local_folder(source)

    def on_hub(name: str) -> Path:
        try:
            return Path(hf_hub_download(source, name, revision=revision))
        except LocalEntryNotFoundError as error:
            message = f"{source}: {name} is not in the cache and the Hub cannot be reached"
            raise FileNotFoundError(f"{message}. Connect, or pass a folder.") from error
        except EntryNotFoundError as error:
            raise FileNotFoundError(f"{source} has no {name}. Pass the Hub id of a MoSE.") from error

    return on_hub


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is not JSON: {error}. Download it again.") from error
