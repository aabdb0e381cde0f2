"""Building a search index from a source tree, and searching it."""

import dataclasses
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from tqdm import tqdm

from mose.data.source.report import ReadingReport
from mose.data.source.rules import DEFAULT_RULES, ReadingRules
from mose.inference.encoders import MoSEEncoder
from mose.inference.encoding import fast_dtype
from mose.inference.fingerprints import model_fingerprint
from mose.search import store
from mose.search.ranking.catalogue import Catalogue
from mose.search.ranking.confidence import hit_scores, query_confidence
from mose.search.ranking.fusion import DEFAULT_HYBRID
from mose.search.ranking.queries import parse_query
from mose.search.ranking.ranker import Evidence, Parts, collect_evidence, rank_by_similarity, rank_units
from mose.search.store import SearchIndexError
from mose.search.tree import read_tree

#: Units that are embedded and journalled at a time. A killed build loses at most one chunk.
CHUNK = 512


@dataclasses.dataclass(frozen=True)
class Hit:
    """One search result."""

    score: float  # confidence in [0, 1] that it answers the query, which never rises from hit to hit
    similarity: float  # cosine similarity of the embeddings
    path: str  # relative to the indexed tree, with forward slashes
    kind: str  # one of `mose.data.source.units.KINDS`
    name: str
    qualified_name: str  # the names of the definitions around it and its own, joined by dots
    language: str
    start_line: int  # 1-based; the last line is part of the unit
    end_line: int
    source: str
    parts: Parts  # how its rank came about

    def as_dict(self, explain: bool = False) -> dict[str, Any]:
        """Return the fields, ready for JSON; the parts of the rank if asked to explain it."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        parts = fields.pop("parts")
        return {**fields, "parts": {**parts._asdict(), "rank_score": parts.rank_score}} if explain else fields


@dataclasses.dataclass(frozen=True)
class BuildReport:
    """Counts of a build."""

    files: int  # source files in the tree
    changed: int  # files that had to be parsed
    removed: int  # files of the previous index that are gone
    skipped: int  # files that could not be parsed
    units: int
    embedded: int  # units that had to be embedded


class Index:
    """The units of a source tree, ready to be searched. Created by `Index.build` or `Index.load`."""

    def __init__(
        self,
        generation: store.Generation,
        encoder: MoSEEncoder,
        report: BuildReport | None = None,
        reading: ReadingReport | None = None,
    ):
        self.meta = generation.meta
        self.units = generation.units  #: `datasets.Dataset` with a FAISS index on `embedding`
        self.report = report  #: counts of the build; None for a loaded index
        self.reading = reading  #: which files the build read and left out; None for a loaded index
        (self.query_exit_layer,) = encoder.exits
        self._generation, self._query_encoder = generation, encoder

    def __len__(self) -> int:
        return len(self.units)

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
        generation = store.read_generation(Path(path))
        meta = generation.meta
        index_exit = model.config.resolve_exit_layer(meta.exit_layer)
        query_exit = index_exit if exit_layer is None else model.config.resolve_exit_layer(exit_layer)

        if model_fingerprint(model, tokenizer, index_exit) != meta.fingerprint:
            source = f"{meta.model} as it was then, not {_full_name(model)}"
            message = f"{path}: other weights, another tokenizer or another version created this index ({source})"
            command = f"python -m mose.search index {meta.root} --index {path} --exit-layer {index_exit}"
            raise SearchIndexError(f"{message}. Load those, or run: {command} --model {_full_name(model)}")
        if query_exit != index_exit and not getattr(model.config, "aligned_exits", False):
            reason = "the exits of a model trained without --align-exits are not comparable"
            raise ValueError(
                f"exit_layer must be {index_exit}, the exit of this index, got {exit_layer}: {reason}. "
                f"Query at exit {index_exit}, or index {meta.root} at exit {exit_layer} in another folder."
            )
        return cls(generation, MoSEEncoder(model, tokenizer, [query_exit], meta.max_length))

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
        rules: ReadingRules = DEFAULT_RULES,
        max_length: int = store.MAX_LENGTH,
        progress: bool = True,
    ) -> "Index":
        """Create the index at `index_path`, or update it to the units that `source_tree` has now.

        Only changed files are parsed, and only new texts of units are embedded. The old index stays usable until
        the new one is complete. The next build resumes a killed one.

        Args:
            source_tree: folder to index. What git ignores is left out, and what `rules` say.
            model: a `MoSEModel`.
            tokenizer: the model's tokenizer.
            index_path: the index's own folder; created if missing.
            exit_layer: exit to embed at, one of `model.exit_layers`; None means the deepest.
            languages: subset of `mose.data.source.languages.readable_languages()`; None means all but text.
            exclude: patterns of paths to leave out, as in a `.gitignore` at the root of the tree.
            rules: which files to read of those that git does not ignore.
            max_length: maximum number of tokens of a unit that the model reads, prompt included.
            progress: show progress bars on stderr.

        Raises:
            ValueError: no such folder, exit or language, or `index_path` is something else than an index.
            SearchIndexError: no units found, another build is running, or the model returns NaN.
        """
        tree, path = Path(source_tree), Path(index_path)
        if not tree.is_dir():
            raise ValueError(f"{tree}: no such folder")
        exit_layer = model.config.resolve_exit_layer(exit_layer)

        with store.index_writer(path) as writer:
            previous = None
            with suppress(SearchIndexError):  # a missing or unusable index is built from scratch
                previous = store.read_generation(path)

            contents = read_tree(tree, previous, languages, exclude, rules, progress)
            if not contents.entries:
                message = f"{tree}: no units found in its {len(contents.files)} source files"
                raise SearchIndexError(f"{message}. {contents.report.explain_empty()}")

            meta = store.Meta(
                format=store.FORMAT,
                model=_full_name(model),
                fingerprint=model_fingerprint(model, tokenizer, exit_layer),
                exit_layer=exit_layer,
                max_length=max_length,
                units=len(contents.entries),
                dim=model.config.resolve_truncate_dim(),
                root=str(tree.resolve()),
                files=contents.files,
                skipped=contents.skipped,
            )
            # Units are embedded in bf16 if that is fast, queries always in the type of the weights.
            encoder = MoSEEncoder(model, tokenizer, [exit_layer], max_length, fast_dtype(model.device))
            embeddings, embedded = _embed(contents.entries, encoder, meta.space, previous, writer, progress)
            if previous and previous.meta == meta:
                writer.tidy()
            else:
                writer.commit(meta, contents.entries, embeddings)

            removed = len(previous.meta.files.keys() - contents.files.keys()) if previous else 0
            files, skipped = len(contents.files), len(contents.skipped)
            report = BuildReport(files, contents.parsed, removed, skipped, len(embeddings), embedded)
            encoder = MoSEEncoder(model, tokenizer, [exit_layer], max_length)
            return cls(store.read_generation(path), encoder, report, contents.report)

    @cached_property
    def catalogue(self) -> Catalogue:
        """Paths and names of the units, as ranking needs them. Row i is unit i."""
        names = ("path", "name", "qualified_name", "kind", "start_line")
        columns = self.units.select_columns(list(names))[:]
        return Catalogue(*(columns[name] for name in names))

    def evidence(self, query: str) -> Evidence:
        """Return what speaks for each unit, of which `search` makes the order and the scores.

        Raises:
            ValueError: the query is empty.
            SearchIndexError: the model returns NaN.
        """
        if not query.strip():
            raise ValueError("the query is empty. Describe what the code does.")
        vector = _encode_texts(self._query_encoder, [query], [""], is_query=True)

        # The range search returns all units, since every cosine is above -2.
        _, cosines, rows = self._generation.vectors.range_search(vector, -2.0)
        similarities = np.empty(len(self), np.float32)
        similarities[rows] = cosines

        parsed, bm25 = parse_query(query), self._generation.bm25
        words = parsed.keywords
        return collect_evidence(parsed, self.catalogue, similarities, bm25.scores(words), bm25.coverage(words))

    def search(
        self,
        query: str,
        top_k: int = 5,
        hybrid: bool | None = None,
        *,
        files: bool = False,
        min_score: float = 0.0,
    ) -> list[Hit]:
        """Return the units that fit a query best, best first.

        Args:
            query: the name of a symbol, or a description of what the code does.
            top_k: maximum number of hits.
            hybrid: rank by names, paths and BM25 besides the embeddings; None means `DEFAULT_HYBRID`. False means
                by the embeddings alone.
            files: return the best unit of each file alone.
            min_score: leave out hits with a lower score, in [0, 1].

        Raises:
            ValueError: the query is empty, `top_k` is below 1, or `min_score` is not in [0, 1].
            SearchIndexError: the model returns NaN, or the index names a file outside its tree.
        """
        if top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {top_k}.")
        if not 0 <= min_score <= 1:
            raise ValueError(f"min_score must be in [0, 1], got {min_score}. Pass 0 to see all hits.")
        evidence = self.evidence(query)

        if DEFAULT_HYBRID if hybrid is None else hybrid:
            ranking = rank_units(evidence, self.catalogue, top_k, one_per_file=files)
        else:
            ranking = rank_by_similarity(evidence, self.catalogue, top_k, one_per_file=files)
        scores = hit_scores(query_confidence(evidence), (parts.fit for parts in ranking.parts))

        hits = zip(scores, ranking.rows.tolist(), ranking.parts, strict=True)
        return [
            self._hit(row, score=score, similarity=float(evidence.similarities[row]), parts=parts)
            for score, row, parts in hits
            if score >= min_score
        ]

    def _hit(self, row: int, **judgement: Any) -> Hit:
        fields = self.units[row]
        path = PurePosixPath(fields["path"])
        if path.is_absolute() or ".." in path.parts:
            raise SearchIndexError(f"the index is damaged: unit {row} is outside its tree, in {path}")
        return Hit(**judgement, **{name: fields[name] for name in store.Entry._fields})


def _full_name(model: Any) -> str:
    """Return the model's folder as an absolute path, or its Hub id."""
    name = model.name_or_path
    return str(Path(name).resolve()) if Path(name).is_dir() else name


def _encode_texts(encoder: MoSEEncoder, texts: list[str], languages: list[str], is_query: bool) -> np.ndarray:
    """Return (texts, dim) float32, rows of unit norm."""
    try:
        (embeddings,) = encoder.encode(texts, languages, is_query).values()
    except FloatingPointError as error:
        raise SearchIndexError(str(error)) from error
    return embeddings


def _embed(
    entries: list[store.Entry],
    encoder: MoSEEncoder,
    space: str,
    previous: store.Generation | None,
    writer: store.IndexWriter,
    progress: bool,
) -> tuple[np.ndarray, int]:
    """Return (entries, dim) embeddings, and the number that had to be computed. Every chunk is journalled."""
    known = writer.journalled(space)
    if previous and previous.meta.space == space:
        known.update(previous.embeddings())

    # Equal units share a key, so each text is embedded once.
    new = list({entry.key: entry for entry in entries if entry.key not in known}.values())
    with tqdm(total=len(new), desc="Embedding", unit=" units", disable=not (progress and new)) as bar:
        for start in range(0, len(new), CHUNK):
            chunk = new[start : start + CHUNK]
            texts, languages = [entry.text for entry in chunk], [entry.language for entry in chunk]
            keys, vectors = [entry.key for entry in chunk], _encode_texts(encoder, texts, languages, False)
            writer.journal(space, keys, vectors)
            known.update(zip(keys, vectors, strict=True))
            bar.update(len(chunk))

    return np.stack([known[entry.key] for entry in entries]), len(new)
