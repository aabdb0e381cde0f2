"""Embeddings of a teacher, computed once for a training set and cached on disk.

A teacher is any sentence-transformers model. `similarity_kl_loss` compares its similarities between the rows of a
batch with the student's; its vectors can also initialise token embeddings.
"""

import hashlib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer
from tqdm import tqdm

from mose.utils.journal import Journal

#: Texts in one chunk of the cache, and in one forward pass.
CHUNK_SIZE, TEACHER_BATCH_SIZE = 4096, 64


def load_teacher(name_or_path: str, max_length: int | None = None) -> SentenceTransformer:
    """Load a sentence-transformers model in bf16; OSError if it is missing or cannot be reached."""
    try:
        teacher = SentenceTransformer(name_or_path, model_kwargs={"dtype": torch.bfloat16})
    except OSError as error:
        raise OSError(f"teacher {name_or_path}: {error}") from error

    if max_length is not None:
        teacher.max_seq_length = max_length
    return teacher.eval()


def teacher_embeddings(
    texts: Sequence[str], name_or_path: str, cache_dir: str | Path, max_length: int = 128
) -> np.ndarray:
    """Return the teacher's unit-norm embeddings of `texts`, float16 (n, dim), each text embedded once.

    Texts that this or another run has embedded are read from the cache, so that a killed run resumes.

    Args:
        texts: input of the teacher; no prompt is added.
        name_or_path: folder or Hub id.
        cache_dir: folder of a `Journal`, with chunks of their own for each teacher and length.
        max_length: maximum tokens of the teacher's input.

    Raises:
        ValueError: `texts` is empty, or the teacher returns NaN.
        OSError: as in `load_teacher`.
    """
    if not len(texts):
        raise ValueError("There are no texts for the teacher to embed.")
    keys = [hashlib.sha256(text.encode()).digest()[:16] for text in texts]

    journal = Journal(cache_dir, fingerprint=f"{name_or_path} {max_length}")
    known: dict[bytes, np.ndarray] = {}
    for content in map(journal.read, journal.keys()):
        with np.load(io.BytesIO(content)) as chunk:
            known.update(zip(map(bytes, chunk["keys"]), chunk["vectors"], strict=True))

    missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
    if missing:
        teacher = load_teacher(name_or_path, max_length)
        for new_keys, vectors in _embed_in_chunks(teacher, missing):
            if not np.isfinite(vectors).all():
                raise ValueError(f"teacher {name_or_path} returns NaN or infinite embeddings. Use another.")
            joined = b"".join(new_keys)
            with journal.write(hashlib.sha256(joined).hexdigest()[:16]) as stream:
                np.savez(stream, keys=np.frombuffer(joined, np.uint8).reshape(-1, 16), vectors=vectors)
            known.update(zip(new_keys, vectors, strict=True))

    return np.stack([known[key] for key in keys])


def _embed_in_chunks(
    teacher: SentenceTransformer, missing: dict[bytes, str]
) -> Iterator[tuple[list[bytes], np.ndarray]]:
    # Long texts first, so that the remaining time on the bar is an upper bound.
    order = sorted(missing, key=lambda key: -len(missing[key]))

    with tqdm(total=len(order), desc="teacher", unit="text") as bar:
        for start in range(0, len(order), CHUNK_SIZE):
            keys = order[start : start + CHUNK_SIZE]
            texts = [missing[key] for key in keys]
            with torch.inference_mode():
                vectors = teacher.encode(texts, batch_size=TEACHER_BATCH_SIZE, show_progress_bar=False)

            # Normalised here: the teacher's bf16 would leave norms off by up to 0.5 %.
            vectors = vectors.astype(np.float32)
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True).clip(min=1e-12)
            yield keys, vectors.astype(np.float16)
            bar.update(len(keys))


def joint_embeddings(
    texts: Sequence[str], teachers: Sequence[str], cache_dir: str | Path, max_length: int = 128
) -> np.ndarray:
    """Return the embeddings of several teachers as one, float32 (n, sum of their dims) of unit norm.

    Each teacher's unit-norm vectors are concatenated and divided by the root of the number of teachers. The
    cosine of two such vectors is then the mean of the teachers' cosines.

    Args:
        texts: as in `teacher_embeddings`.
        teachers: folders or Hub ids, at least one.
        cache_dir: as in `teacher_embeddings`.
        max_length: as in `teacher_embeddings`.

    Raises:
        ValueError: there is no teacher, or as in `teacher_embeddings`.
        OSError: as in `load_teacher`.
    """
    if not teachers:
        raise ValueError("There must be at least one teacher, got none.")
    parts = [teacher_embeddings(texts, teacher, cache_dir, max_length).astype(np.float32) for teacher in teachers]
    return np.concatenate(parts, axis=1) / np.float32(len(parts) ** 0.5)


def attach_teacher(
    dataset: Dataset, teachers: str | Sequence[str], cache_dir: str | Path, dimension: int, max_length: int = 128
) -> tuple[Dataset, torch.Tensor]:
    """Add to training pairs what `FineTuningTrainer` needs to learn from a teacher, or from several as one.

    Args:
        dataset: columns `query` and `document`. The teacher reads `teacher_query` and `teacher_document` instead
            if they exist, such as code with names that the student does not see.
        teachers: folder or Hub id of a teacher, or of several: their mean similarity counts (`joint_embeddings`).
        cache_dir: as in `teacher_embeddings`.
        dimension: size of the student's embeddings. Wider vectors are projected onto their principal components,
            which keeps most of their similarities.
        max_length: as in `teacher_embeddings`.

    Returns:
        The dataset with integer columns `teacher_query` and `teacher_document`, row numbers of the vectors; and
        the vectors, (distinct texts, dimension) float32 of unit norm. Projected vectors have their largest
        components first, so that their first dimensions alone rank texts, too.

    Raises:
        ValueError: the teachers' vectors are narrower than the student's.
    """
    columns = {
        side: dataset[f"teacher_{side}" if f"teacher_{side}" in dataset.column_names else side][:]
        for side in ("query", "document")
    }
    texts = sorted({*columns["query"], *columns["document"]})
    names = [teachers] if isinstance(teachers, str) else teachers
    vectors = torch.from_numpy(joint_embeddings(texts, names, cache_dir, max_length))

    if (size := vectors.shape[1]) < dimension:
        raise ValueError(f"The teacher must have at least the student's {dimension} dimensions, got {size}.")
    if size > dimension:
        # Not centred: cosine similarities are about the origin. Eigenvalues come in ascending order.
        _, axes = torch.linalg.eigh(vectors.T @ vectors)
        vectors = vectors @ axes[:, -dimension:].flip(1)
    vectors = torch.nn.functional.normalize(vectors, dim=-1)

    rows = {text: row for row, text in enumerate(texts)}
    for side, column in columns.items():
        name = f"teacher_{side}"
        if name in dataset.column_names:
            dataset = dataset.remove_columns(name)
        dataset = dataset.add_column(name, [rows[text] for text in column])
    return dataset, vectors
