"""Building a search index from a source tree, and searching it."""

import dataclasses
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from tqdm import tqdm

from mose.search.encoder import FunctionEncoder
from mose.search.ranking import DEFAULT_HYBRID, best_rows, fuse
from mose.search.store import (
    FORMAT,
    MAX_LENGTH,
    Entry,
    Generation,
    IndexWriter,
    Meta,
    SearchIndexError,
    embedding_space,
    index_writer,
    read_generation,
)
from mose.search.tree import TreeContents, read_tree

#: Functions that are embedded and journalled at a time. A killed build loses at most one chunk.
CHUNK = 512


@dataclasses.dataclass(frozen=True)
class Hit:
    """One search result."""

    score: float  # cosine similarity, or with hybrid search the fused score in [0, 1]
    path: str  # relative to the indexed tree, with forward slashes
    name: str
    language: str
    start_line: int  # 1-based; the last line is part of the function
    end_line: int
    source: str


@dataclasses.dataclass(frozen=True)
class BuildReport:
    """Counts of a build."""

    files: int  # source files in the tree
    changed: int  # files that had to be parsed
    removed: int  # files of the previous index that are gone
    skipped: int  # files that could not be parsed
    functions: int
    embedded: int  # functions that had to be embedded


class Index:
    """The functions of a source tree, ready to be searched. Created by `Index.build` or `Index.load`."""

    def __init__(
        self,
        generation: Generation,
        encoder: FunctionEncoder,
        report: BuildReport | None = None,
        query_exit_layer: int | None = None,
    ):
        self.meta = generation.meta
        self.functions = generation.functions  #: `datasets.Dataset` with a FAISS index on `embedding`
        self.report = report  #: counts of the build; None for a loaded index
        self.query_exit_layer = encoder.exit_layer if query_exit_layer is None else query_exit_layer
        self._generation = generation
        self._query_encoder = dataclasses.replace(encoder, exit_layer=self.query_exit_layer)

    def __len__(self) -> int:
        return len(self.functions)

    @classmethod
    def load(cls, path: str | Path, model: Any, tokenizer: Any, exit_layer: int | None = None) -> "Index":
        """Open the index at `path`, which the same model must have created.

        Args:
            path: the index's folder.
            model: a `MoSEModel`, loaded at least up to the exit of the index.
            tokenizer: the model's tokenizer.
            exit_layer: exit to embed queries at. None means the exit of the index. Another exit needs a model
                whose exits share one embedding space (`config.aligned_exits`).

        Raises:
            ValueError: the model lacks the exit of the index, was not loaded that deep, or its exits are not
                comparable.
            SearchIndexError: there is no complete index, or other weights or another tokenizer created it.
        """
        generation = read_generation(Path(path))
        meta = generation.meta
        index_exit = model.config.resolve_exit_layer(meta.exit_layer)
        encoder = FunctionEncoder(model, tokenizer, index_exit, meta.max_length)

        if encoder.fingerprint != meta.fingerprint:
            raise SearchIndexError(
                f"{path}: the index was created with other weights or another tokenizer ({meta.model}, as it was "
                f"then) than those loaded ({encoder.name}). Load those, or index {meta.root} again."
            )
        if exit_layer is None or model.config.resolve_exit_layer(exit_layer) == meta.exit_layer:
            return cls(generation, encoder)
        if not getattr(model.config, "aligned_exits", False):
            raise ValueError(
                f"exit_layer must be {index_exit}, at which this index was made, got {exit_layer}: the exits of "
                "this model are not comparable, as it was not trained with --align-exits. Query at exit "
                f"{index_exit}, or index {meta.root} at exit {exit_layer} in another folder."
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
        """Create the index at `index_path`, or update it to the functions that `source_tree` has now.

        Only changed files are parsed, and only new function texts are embedded. The old index stays usable until
        the new one is complete. The next build resumes a killed one.

        Args:
            source_tree: folder to index. Ignored, binary, generated and very large files are left out.
            model: a `MoSEModel`.
            tokenizer: the model's tokenizer.
            index_path: the index's own folder; created if missing.
            exit_layer: exit to embed at, one of `model.exit_layers`; None means the deepest.
            languages: subset of `mose.data.source.languages.supported_languages()`; None means all.
            exclude: patterns of paths to leave out, as in a `.gitignore` at the root of the tree.
            max_length: maximum number of tokens of a function that the model reads, prompt included.
            progress: show progress bars on stderr.

        Raises:
            ValueError: no such folder, exit or language, or `index_path` is something else than an index.
            SearchIndexError: no functions found, another build is running, or the model returns NaN.
        """
        tree, path = Path(source_tree), Path(index_path)
        if not tree.is_dir():
            raise ValueError(f"{tree}: no such folder")
        encoder = FunctionEncoder(model, tokenizer, model.config.resolve_exit_layer(exit_layer), max_length)

        with index_writer(path) as writer:
            previous = None
            with suppress(SearchIndexError):  # a missing or unusable index is built from scratch
                previous = read_generation(path)
            contents = read_tree(tree, previous, languages, exclude, progress)
            if not contents.entries:
                raise SearchIndexError(f"{tree}: no functions found in its {len(contents.files)} source files")

            embeddings, embedded = _embed(contents.entries, encoder, previous, writer, progress)
            meta = _describe(tree, contents, encoder, embeddings)
            if previous and previous.meta == meta:
                writer.tidy()
            else:
                writer.commit(meta, contents.entries, embeddings)

            removed = len(previous.meta.files.keys() - contents.files.keys()) if previous else 0
            counts = (
                len(contents.files),
                contents.parsed,
                removed,
                len(contents.skipped),
                len(embeddings),
                embedded,
            )
            return cls(read_generation(path), encoder, BuildReport(*counts))

    def search(self, query: str, top_k: int = 5, hybrid: bool | None = None) -> list[Hit]:
        """Return the functions that fit a description best, best first.

        Args:
            query: description of what the function does.
            top_k: maximum number of hits.
            hybrid: fuse BM25 over identifiers with the cosine similarities; None means `DEFAULT_HYBRID`.

        Raises:
            ValueError: the query is empty, or `top_k` is below 1.
            SearchIndexError: the model returns NaN, or the index names a file outside its tree.
        """
        if not query.strip():
            raise ValueError("the query is empty. Describe what the function does.")
        if top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {top_k}.")
        vectors, vector = self._generation.vectors, self._query_encoder.encode_query(query)

        if DEFAULT_HYBRID if hybrid is None else hybrid:
            # The range search returns all functions, since every cosine is above -2.
            _, similarities, rows = vectors.range_search(vector, -2.0)
            dense = np.empty(len(self), np.float32)
            dense[rows] = similarities

            scores = fuse(dense, self._generation.bm25.scores(query))
            rows = best_rows(scores, top_k)
            scores = scores[rows]
        else:
            (scores,), (rows,) = vectors.search(vector, min(top_k, len(self)))

        return [self._hit(score, row) for score, row in zip(scores.tolist(), rows.tolist(), strict=True)]

    def _hit(self, score: float, row: int) -> Hit:
        fields = self.functions[row]
        path = PurePosixPath(fields["path"])
        if path.is_absolute() or ".." in path.parts:
            raise SearchIndexError(f"the index is damaged: function {row} is outside its tree, in {path}")
        return Hit(score, **{name: fields[name] for name in Entry._fields})


def _describe(tree: Path, contents: TreeContents, encoder: FunctionEncoder, embeddings: np.ndarray) -> Meta:
    return Meta(
        format=FORMAT,
        model=encoder.name,
        fingerprint=encoder.fingerprint,
        exit_layer=encoder.exit_layer,
        max_length=encoder.max_length,
        functions=len(embeddings),
        dim=embeddings.shape[1],
        root=str(tree.resolve()),
        files=contents.files,
        skipped=contents.skipped,
    )


def _embed(
    entries: list[Entry],
    encoder: FunctionEncoder,
    previous: Generation | None,
    writer: IndexWriter,
    progress: bool,
) -> tuple[np.ndarray, int]:
    """Return (entries, dim) embeddings, and the number that had to be computed. Every chunk is journalled."""
    space = embedding_space(encoder.fingerprint, encoder.exit_layer, encoder.max_length)
    known = writer.journalled(space)
    if previous and previous.meta.space == space:
        known.update(previous.embeddings())

    # Equal functions share a key, so each text is embedded once.
    new = list({entry.key: entry for entry in entries if entry.key not in known}.values())
    with tqdm(total=len(new), desc="Embedding", unit=" functions", disable=not (progress and new)) as bar:
        for start in range(0, len(new), CHUNK):
            chunk = new[start : start + CHUNK]
            keys, vectors = [entry.key for entry in chunk], encoder.encode_functions(chunk)
            writer.journal(space, keys, vectors)
            known.update(zip(keys, vectors, strict=True))
            bar.update(len(chunk))

    return np.stack([known[entry.key] for entry in entries]), len(new)
