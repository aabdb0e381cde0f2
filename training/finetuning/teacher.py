"""Embeddings of a teacher, computed once for a training set and kept on disk.

A teacher is any sentence-transformers model. Its similarities between the rows of a batch are what
`similarity_kl_loss` compares a student's with; its vectors can start a student's token embeddings.
"""

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer
from tqdm import tqdm

logger = logging.getLogger(__name__)

SHARD_SIZE = 4096


def load_teacher(name_or_path: str, max_length: int | None = None) -> SentenceTransformer:
    """A sentence-transformers model for inference in bf16, cutting its input to `max_length` tokens.

    Raises:
        OSError: there is none of this name, or the Hub cannot be reached.
    """
    try:
        teacher = SentenceTransformer(name_or_path, model_kwargs={"dtype": torch.bfloat16})
    except OSError as error:
        raise OSError(f"teacher {name_or_path}: {error}") from error
    if max_length is not None:
        teacher.max_seq_length = max_length
    return teacher.eval()


def teacher_embeddings(
    texts: Sequence[str],
    name_or_path: str,
    cache_dir: str | Path,
    max_length: int = 128,
    batch_size: int = 64,
    progress: bool = True,
) -> np.ndarray:
    """The teacher's unit-norm embeddings of `texts`, float16 (n, dim), each distinct text embedded once.

    What was embedded before, by this or another run, is read from the cache. Its shards are written whole and
    then renamed: a killed run goes on where it stopped.

    Args:
        texts: What to embed, as the teacher wants it (no prompt is added).
        name_or_path: The teacher, as `SentenceTransformer` takes it.
        cache_dir: Where shards are kept, in a folder for each teacher and length.
        max_length: Tokens after which the teacher's input is cut.
        batch_size: Texts in one forward pass.
        progress: Whether to show a progress bar on stderr.

    Raises:
        ValueError: `texts` is empty, or the teacher gives NaN.
    """
    if not len(texts):
        raise ValueError("no texts for the teacher to embed")
    setting = hashlib.sha256(f"{name_or_path} {max_length}".encode()).hexdigest()[:16]
    cache = Path(cache_dir) / setting
    cache.mkdir(parents=True, exist_ok=True)
    keys = [hashlib.sha256(text.encode()).digest()[:16] for text in texts]
    known: dict[bytes, np.ndarray] = {}
    for path in sorted(cache.glob("*.npz")):
        known.update(_read_shard(path))
    missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
    # Long texts first: the time left that the bar shows is then an upper bound.
    order = sorted(missing, key=lambda key: -len(missing[key]))
    if missing:
        teacher = load_teacher(name_or_path, max_length)
    with tqdm(total=len(order), desc="teacher", unit="text", disable=not progress) as bar:
        for start in range(0, len(order), SHARD_SIZE):
            shard = order[start : start + SHARD_SIZE]
            with torch.inference_mode():
                vectors = teacher.encode(
                    [missing[key] for key in shard],
                    batch_size=batch_size,
                    show_progress_bar=False,  # there is one bar, for all shards
                ).astype(np.float32)
            # Here and not by the teacher, whose bf16 would leave lengths up to half a per cent off.
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True).clip(min=1e-12)
            vectors = vectors.astype(np.float16)
            if not np.isfinite(vectors).all():
                raise ValueError(f"teacher {name_or_path} gives NaN or infinite embeddings")
            path = cache / f"{hashlib.sha256(b''.join(shard)).hexdigest()[:16]}.npz"
            unfinished = path.with_suffix(".unfinished")
            with unfinished.open("wb") as file:
                np.savez(file, keys=np.frombuffer(b"".join(shard), np.uint8).reshape(-1, 16), vectors=vectors)
            unfinished.replace(path)
            known.update(zip(shard, vectors, strict=True))
            bar.update(len(shard))
    return np.stack([known[key] for key in keys])


def _read_shard(path: Path) -> dict[bytes, np.ndarray]:
    with np.load(path) as shard:
        return dict(zip(map(bytes, shard["keys"]), shard["vectors"], strict=True))


def attach_teacher(
    dataset: Dataset,
    name_or_path: str,
    cache_dir: str | Path,
    dimension: int,
    max_length: int = 128,
) -> tuple[Dataset, torch.Tensor]:
    """Gives training pairs what `FineTuningTrainer` needs to learn from a teacher.

    Args:
        dataset: With columns `query` and `document`. Where it has texts in `teacher_query` or
            `teacher_document`, the teacher reads those instead (say, code whose names the student does not see).
        name_or_path, cache_dir, max_length: As in `teacher_embeddings`.
        dimension: Of the student's embeddings. A wider teacher is projected on the principal components of its
            vectors, which keep most of its similarities.

    Returns:
        The dataset with columns `teacher_query` and `teacher_document`, rows of the vectors; and the vectors,
        (distinct texts, dimension) float32 of unit norm.

    Raises:
        ValueError: the teacher is narrower than the student.
    """
    read = {side: dataset[_or(dataset, f"teacher_{side}", side)][:] for side in ("query", "document")}
    texts = sorted({*read["query"], *read["document"]})
    embeddings = teacher_embeddings(texts, name_or_path, cache_dir, max_length)
    if embeddings.shape[1] < dimension:
        raise ValueError(f"a teacher of {embeddings.shape[1]} dimensions for a student of {dimension}")
    vectors = torch.from_numpy(embeddings.astype(np.float32))
    if vectors.shape[1] > dimension:
        # Not centred: similarities are about the origin.
        _, axes = torch.linalg.eigh(vectors.T @ vectors)
        vectors = vectors @ axes[:, -dimension:]
    vectors = torch.nn.functional.normalize(vectors, dim=-1)
    rows = {text: row for row, text in enumerate(texts)}
    for side, column in read.items():
        if f"teacher_{side}" in dataset.column_names:
            dataset = dataset.remove_columns(f"teacher_{side}")
        dataset = dataset.add_column(f"teacher_{side}", [rows[text] for text in column])
    return dataset, vectors


def _or(dataset: Dataset, wanted: str, otherwise: str) -> str:
    return wanted if wanted in dataset.column_names else otherwise
