"""Making a search index from a source tree, and searching it."""

import dataclasses
import functools
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from mose.search.store import (
    FORMAT,
    Entry,
    Generation,
    Meta,
    SearchIndexError,
    Writer,
    read,
    space_of,
    writing,
)
from mose.tokenization.prompts import code_prompt, text_prompt

MAX_LENGTH = 512  # tokens of a function that are read
CHUNK = 512  # functions that are journalled at once: what a killed build loses at most
DEFAULT_HYBRID = True
DENSE_WEIGHT = 0.8


@dataclasses.dataclass(frozen=True)
class Hit:
    """One answer; `path` is relative to the indexed tree, lines are 1-based, `score` is what the answers are
    ordered by: the cosine similarity, or where BM25 is fused with it, the fused score in [0, 1]."""

    score: float
    path: str
    name: str
    language: str
    start_line: int
    end_line: int
    source: str


@dataclasses.dataclass(frozen=True)
class BuildReport:
    """What a build found, and what it had to do: files parsed, files gone, functions embedded."""

    files: int
    changed: int
    removed: int
    skipped: int
    functions: int
    embedded: int


def fuse(dense: np.ndarray, lexical: np.ndarray, dense_weight: float = DENSE_WEIGHT) -> np.ndarray:
    """Convex combination of a query's scaled scores (Bruch, Gai and Ingber, "An Analysis of Fusion Functions for
    Hybrid Retrieval", 2023, arXiv 2210.11934): cosine similarities from the lowest to the highest, since models
    differ in how far they spread them; BM25 from 0 to the highest.

    Args:
        dense: (…, documents) cosine similarities.
        lexical: (…, documents) BM25 scores, at least 0.
        dense_weight: share of the dense score, in [0, 1].

    Returns:
        (…, documents) fused scores in [0, 1].
    """
    lowest = dense.min(axis=-1, keepdims=True)
    spread = dense.max(axis=-1, keepdims=True) - lowest
    best = lexical.max(axis=-1, keepdims=True)
    dense = (dense - lowest) / np.where(spread > 0, spread, 1)
    lexical = lexical / np.where(best > 0, best, 1)
    return dense_weight * dense + (1 - dense_weight) * lexical


@dataclasses.dataclass(frozen=True)
class Encoder:
    """A model with its tokenizer at one exit. `max_length` counts tokens, the prompt's included."""

    model: Any
    tokenizer: Any
    exit_layer: int
    max_length: int

    @property
    def name(self) -> str:
        """The model's folder or Hub id."""
        name = self.model.name_or_path
        return str(Path(name).resolve()) if Path(name).is_dir() else name

    @functools.cached_property
    def fingerprint(self) -> str:
        from mose.inference.encoding import fingerprint

        return fingerprint(self.model, self.tokenizer, self.exit_layer)

    def query(self, text: str) -> np.ndarray:
        """(1, dim) float32, unit norm."""
        return self._encode([text], [text_prompt()], None)

    def functions(self, entries: Sequence[Entry]) -> np.ndarray:
        """(entries, dim) float32, unit norm; computed in bf16 where the hardware is quick at it."""
        prompts = [code_prompt(entry.language) for entry in entries]
        return self._encode([entry.source for entry in entries], prompts, _quick_dtype(self.model.device.type))

    def _encode(self, texts: list[str], prompts: list[str], dtype: Any) -> np.ndarray:
        from mose.inference.encoding import encode

        at = self.exit_layer
        try:
            return encode(self.model, self.tokenizer, texts, [at], prompts, self.max_length, dtype=dtype)[at]
        except FloatingPointError as error:
            raise SearchIndexError(str(error)) from error


def _quick_dtype(device: str) -> Any:
    import torch

    if device == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else None
    features: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)() if device == "cpu" else {}
    return torch.bfloat16 if any(features.get(f"{unit}bf16") for unit in ("avx512_", "amx_", "")) else None


class Index:
    """The functions of a source tree, ready to be searched. Made by `Index.build` or `Index.load`."""

    def __init__(
        self,
        generation: Generation,
        encoder: Encoder,
        report: BuildReport | None = None,
        query_exit_layer: int | None = None,
    ):
        self.meta = generation.meta
        self.functions = generation.functions  #: `datasets.Dataset`, a FAISS index attached to `embedding`
        self.report = report  #: what `build` had to do; None where the index was loaded
        self.query_exit_layer = encoder.exit_layer if query_exit_layer is None else query_exit_layer
        self._generation = generation
        self._encoder = dataclasses.replace(encoder, exit_layer=self.query_exit_layer)  # of queries

    def __len__(self) -> int:
        return len(self.functions)

    @classmethod
    def load(cls, path: str | Path, model: Any, tokenizer: Any, exit_layer: int | None = None) -> "Index":
        """Opens the index at `path`, which must have been made by this very model.

        Args:
            path: the index's folder.
            model, tokenizer: as for `build`; the model built as deep as the index was made at, or deeper.
            exit_layer: the exit to embed queries at. None means the index's; another one needs a model whose
                exits share one space (`config.aligned_exits`).

        Raises:
            ValueError: the model has no such exit as the index was made at, was not loaded so deep, or its exits
                cannot be compared with each other.
            SearchIndexError: there is no whole index, or other weights or another tokenizer made it.
        """
        generation = read(Path(path))
        meta = generation.meta
        encoder = Encoder(model, tokenizer, model.config.resolve_exit_layer(meta.exit_layer), meta.max_length)
        if encoder.fingerprint != meta.fingerprint:
            raise SearchIndexError(
                f"{path}: the index was made with other weights or another tokenizer ({meta.model}, as it was "
                f"then) than those loaded ({encoder.name}); load those, or index {meta.root} again"
            )
        if exit_layer is None or model.config.resolve_exit_layer(exit_layer) == meta.exit_layer:
            return cls(generation, encoder)
        if not getattr(model.config, "aligned_exits", False):
            raise ValueError(
                f"exit_layer={exit_layer}: this index was made at exit {meta.exit_layer}, and two exits of this "
                "model cannot be compared, as it was not trained with --align-exits; ask at exit "
                f"{meta.exit_layer}, or index {meta.root} at exit {exit_layer} too, at another path"
            )
        return cls(generation, encoder, query_exit_layer=exit_layer)

    @classmethod
    def build(
        cls,
        source_tree: str | Path,
        model: Any,
        tokenizer: Any,
        index_path: str | Path,
        exit_layer: int | None = None,
        *,
        languages: Sequence[str] | None = None,
        exclude: Iterable[str] = (),
        max_length: int = MAX_LENGTH,
        progress: bool = True,
    ) -> "Index":
        """Makes the index at `index_path` hold exactly the functions that `source_tree` has now.

        Only files whose content has changed are parsed, and only functions whose text is new are embedded. The
        old index stays usable until the new one is whole; the next build continues a killed one.

        Args:
            source_tree: the folder to index; ignored, binary, generated and over-large files are left out.
            model: a `MoSEModel`; `tokenizer` is its tokenizer.
            index_path: the index's own folder; made if it is missing.
            exit_layer: the exit to embed at, one of `model.exit_layers`; None means the deepest.
            languages: some of `mose.data.source.languages.supported_languages()`; None means all.
            exclude: patterns of paths to leave out, as in a `.gitignore` at the top of the tree.
            max_length: tokens of a function that the model reads, prompt included.
            progress: whether to show progress bars on stderr.

        Raises:
            ValueError: no such folder, exit or language, or something else than an index is at `index_path`.
            SearchIndexError: no functions found, another build is running, or the model yields NaN.
        """
        tree, path = Path(source_tree), Path(index_path)
        if not tree.is_dir():
            raise ValueError(f"{tree}: no such folder")
        encoder = Encoder(model, tokenizer, model.config.resolve_exit_layer(exit_layer), max_length)
        with writing(path) as writer:
            try:
                old = read(path)
            except SearchIndexError:  # none yet, or none that is of use: start afresh
                old = None
            content = _read_tree(tree, old, languages, exclude, progress)
            if not content.entries:
                raise SearchIndexError(f"{tree}: no functions found in its {len(content.files)} source files")
            embeddings, embedded = _embed(content.entries, encoder, old, writer, progress)
            meta = Meta(
                format=FORMAT,
                model=encoder.name,
                fingerprint=encoder.fingerprint,
                exit_layer=encoder.exit_layer,
                max_length=max_length,
                functions=len(embeddings),
                dim=embeddings.shape[1],
                root=str(tree.resolve()),
                files=content.files,
                skipped=content.skipped,
            )
            if old and old.meta == meta:
                writer.tidy()
            else:
                writer.commit(meta, content.entries, embeddings)
            removed = len(old.meta.files.keys() - content.files.keys()) if old else 0
            counts = (
                len(content.files),
                content.changed,
                removed,
                len(content.skipped),
                len(embeddings),
                embedded,
            )
            return cls(read(path), encoder, BuildReport(*counts))

    def search(self, query: str, top_k: int = 5, hybrid: bool | None = None) -> list[Hit]:
        """The functions that fit a description best, best first.

        Args:
            query: what the function does, in words.
            top_k: how many to return at most.
            hybrid: fuse BM25 over identifiers with the embeddings' ranking; None means `DEFAULT_HYBRID`.

        Raises:
            ValueError: an empty query, or `top_k` below 1.
            SearchIndexError: the model yields NaN, or the index names a file outside its tree.
        """
        if not query.strip():
            raise ValueError("the query is empty: say in words what the function does")
        if top_k < 1:
            raise ValueError(f"top_k={top_k}: must be at least 1")
        vectors, vector = self._generation.vectors, self._encoder.query(query)
        if DEFAULT_HYBRID if hybrid is None else hybrid:
            _, similarities, rows = vectors.range_search(vector, -2.0)  # every cosine is above -2
            dense = np.empty(len(self), np.float32)
            dense[rows] = similarities
            scores = fuse(dense, self._generation.bm25.scores(query))
            rows = np.argsort(-scores, kind="stable")[:top_k]
            scores = scores[rows]
        else:
            (scores,), (rows,) = vectors.search(vector, min(top_k, len(self)))
        return [self._hit(score, row) for score, row in zip(scores.tolist(), rows.tolist(), strict=True)]

    def _hit(self, score: float, row: int) -> Hit:
        fields = self.functions[row]
        path = PurePosixPath(fields["path"])
        if path.is_absolute() or ".." in path.parts:
            raise SearchIndexError(f"the index is damaged: it places function {row} outside its tree, in {path}")
        return Hit(score, **{name: fields[name] for name in Entry._fields})


class _Content(NamedTuple):
    """What a source tree holds."""

    entries: list[Entry]
    files: dict[str, str]
    skipped: list[str]
    changed: int  # how many files had to be parsed


def _read_tree(
    tree: Path, old: Generation | None, languages: Sequence[str] | None, exclude: Iterable[str], progress: bool
) -> _Content:
    """The functions of a source tree; those of files that are as they were in `old` are taken from there."""
    import pathspec
    from tqdm import tqdm

    from mose.data.source.definitions import ParseError, extract_functions
    from mose.data.source.files import iter_source_files
    from mose.data.source.languages import language_of

    known: dict[str, list[Entry]] = {}
    for entry in old.entries() if old else ():
        known.setdefault(entry.path, []).append(entry)
    unwanted = pathspec.GitIgnoreSpec.from_lines(exclude)
    files = (
        file for file in iter_source_files(tree, languages) if not unwanted.match_file(file.relative_to(tree))
    )
    content = _Content([], {}, [], 0)
    changed = 0
    for file in tqdm(files, "Reading", unit=" files", disable=not progress):
        path = file.relative_to(tree).as_posix()
        path = path.encode(errors="surrogateescape").decode(errors="backslashreplace")  # a name in no encoding
        data = file.read_bytes()
        language = language_of(file, data)
        if language is None or (languages and language not in languages):  # a C header may turn out to be C++
            continue
        content.files[path] = hashlib.sha256(data).hexdigest()
        if old and old.meta.files.get(path) == content.files[path]:
            content.entries.extend(known.get(path, ()))
            content.skipped.extend([path] if path in old.meta.skipped else [])
            continue
        changed += 1
        try:
            functions = extract_functions(data, language)
        except ParseError:
            content.skipped.append(path)
        else:
            content.entries.extend(
                Entry(path, *(getattr(f, name) for name in Entry._fields[1:])) for f in functions
            )
    return content._replace(changed=changed)


def _embed(
    entries: list[Entry], encoder: Encoder, old: Generation | None, writer: Writer, progress: bool
) -> tuple[np.ndarray, int]:
    """(entries, dim) embeddings, and how many had to be computed; each chunk is journalled once it is there."""
    from tqdm import tqdm

    space = space_of(encoder.fingerprint, encoder.exit_layer, encoder.max_length)
    known = writer.journalled(space)
    if old and old.meta.space == space:
        known.update(old.embeddings())
    todo = list({entry.key: entry for entry in entries if entry.key not in known}.values())
    with tqdm(total=len(todo), desc="Embedding", unit=" functions", disable=not (progress and todo)) as bar:
        for start in range(0, len(todo), CHUNK):
            chunk = todo[start : start + CHUNK]
            keys, vectors = [entry.key for entry in chunk], encoder.functions(chunk)
            writer.journal(space, keys, vectors)
            known.update(zip(keys, vectors, strict=True))
            bar.update(len(chunk))
    return np.stack([known[entry.key] for entry in entries]), len(todo)
