"""Embeddings of a teacher, computed once for a training set and cached on disk.

A teacher is any sentence-transformers model. `similarity_kl_loss` compares its similarities between the rows of a
batch with the student's; its vectors can also initialise token embeddings.
"""

import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer
from tqdm import tqdm
from transformers.utils import cached_file

from mose.utils.journal import Journal

#: Texts in one chunk of the cache, and in one forward pass.
CHUNK_SIZE, TEACHER_BATCH_SIZE = 4096, 64
SIDES = ("query", "document")


class Teacher(NamedTuple):
    """A teacher and what it reads ahead of a text.

    Attributes:
        name_or_path: folder or Hub id of a sentence-transformers model.
        prompts: `query` and `document` -> prompt. None: those of the model's own configuration, if it has any.
    """

    name_or_path: str
    prompts: Mapping[str, str] | None = None

    def prompt(self, side: str) -> str:
        """Return the prompt ahead of a `query` or a `document`.

        A model that cannot be reached has no prompts here; `load_teacher` names it.
        """
        prompts = _own_prompts(self.name_or_path) if self.prompts is None else self.prompts
        # The names that sentence-transformers looks for in `encode_document`.
        names = ("document", "passage", "corpus") if side == "document" else (side,)
        return next((prompts[name] for name in names if prompts.get(name)), "")


def _own_prompts(name_or_path: str) -> Mapping[str, str]:
    path = cached_file(
        name_or_path,
        "config_sentence_transformers.json",
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return {} if path is None else json.loads(Path(path).read_text(encoding="utf-8")).get("prompts") or {}


def load_teacher(name_or_path: str, max_length: int | None = None) -> SentenceTransformer:
    """Load a sentence-transformers model in bf16; OSError if it is missing or cannot be reached."""
    try:
        teacher = SentenceTransformer(name_or_path, model_kwargs={"dtype": torch.bfloat16})
    except OSError as error:
        raise OSError(f"teacher {name_or_path}: {error}") from error

    if max_length is not None:
        teacher.max_seq_length = max_length
    return teacher.eval()


def text_key(text: str) -> bytes:
    """Return the key of a text in the cache."""
    return hashlib.sha256(text.encode()).digest()[:16]


def cached_embeddings(name_or_path: str, cache_dir: str | Path, max_length: int = 128) -> dict[bytes, np.ndarray]:
    """Return what `teacher_embeddings` has cached for a teacher: key of a text -> float16 (dim,)."""
    journal = _journal(name_or_path, cache_dir, max_length)
    known: dict[bytes, np.ndarray] = {}
    for content in map(journal.read, journal.keys()):
        with np.load(io.BytesIO(content)) as chunk:
            known.update(zip(map(bytes, chunk["keys"]), chunk["vectors"], strict=True))
    return known


def _journal(name_or_path: str, cache_dir: str | Path, max_length: int) -> Journal:
    return Journal(cache_dir, fingerprint=f"{name_or_path} {max_length}")


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
    keys = list(map(text_key, texts))
    known = cached_embeddings(name_or_path, cache_dir, max_length)
    missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
    if missing:
        teacher = load_teacher(name_or_path, max_length)
        journal = _journal(name_or_path, cache_dir, max_length)
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
    texts: Sequence[str],
    teachers: Sequence[str | Teacher],
    cache_dir: str | Path,
    max_length: int = 128,
    side: str = "query",
    center: bool = False,
) -> np.ndarray:
    """Return the embeddings of several teachers as one, float32 (n, sum of their dims) of unit norm.

    Each teacher's unit-norm vectors are concatenated and divided by the root of the number of teachers. The
    cosine of two such vectors is then the mean of the teachers' cosines.

    Args:
        texts: as in `teacher_embeddings`.
        teachers: at least one; a folder or Hub id stands for a `Teacher` with its own prompts.
        cache_dir: as in `teacher_embeddings`.
        max_length: as in `teacher_embeddings`, prompts included.
        side: `query` or `document`, which says the prompt.
        center: subtract the mean over `texts` from each teacher's vectors first. Teachers such as E5 give all
            texts a large part in common, so that their cosines differ little.

    Raises:
        ValueError: there is no teacher, or as in `teacher_embeddings`.
        OSError: as in `load_teacher`.
    """
    if not teachers:
        raise ValueError("There must be at least one teacher, got none.")

    parts = []
    for teacher in (Teacher(entry) if isinstance(entry, str) else entry for entry in teachers):
        prompt = teacher.prompt(side)
        prompted = [prompt + text for text in texts]
        vectors = teacher_embeddings(prompted, teacher.name_or_path, cache_dir, max_length).astype(np.float32)
        if center:
            vectors -= vectors.mean(axis=0)
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True).clip(min=1e-12)
        parts.append(vectors)
    return np.concatenate(parts, axis=1) / np.float32(len(parts) ** 0.5)


def attach_teacher(
    dataset: Dataset,
    teachers: str | Teacher | Sequence[str | Teacher],
    cache_dir: str | Path,
    max_length: int = 128,
) -> tuple[Dataset, torch.Tensor]:
    """Add to training pairs what `FineTuningTrainer` needs to learn from a teacher, or from several as one.

    Args:
        dataset: columns `query` and `document`. The teacher reads `teacher_query` and `teacher_document` instead
            if they exist, such as code with names that the student does not see.
        teachers: a teacher, or several: their mean similarity counts (`joint_embeddings`, each side centred).
        cache_dir: as in `teacher_embeddings`.
        max_length: as in `joint_embeddings`.

    Returns:
        The dataset with integer columns `teacher_query` and `teacher_document`, row numbers of the vectors; and
        the vectors, (distinct queries + distinct documents, sum of the teachers' dims) float32 of unit norm.

    Raises:
        ValueError, OSError: as in `joint_embeddings`.
    """
    several = [teachers] if isinstance(teachers, str | Teacher) else teachers
    vectors: list[np.ndarray] = []
    first = 0
    for side in SIDES:
        name = f"teacher_{side}"
        column = dataset[name if name in dataset.column_names else side][:]
        texts = sorted(set(column))
        vectors.append(joint_embeddings(texts, several, cache_dir, max_length, side, center=True))

        rows = {text: row for row, text in enumerate(texts, first)}
        first += len(texts)
        if name in dataset.column_names:
            dataset = dataset.remove_columns(name)
        dataset = dataset.add_column(name, [rows[text] for text in column])
    return dataset, torch.from_numpy(np.concatenate(vectors))
