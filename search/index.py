"""An index of source trees: building it, searching it, and keeping it up to date."""

import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mose.data.source.report import ReadingReport
from mose.data.source.rules import DEFAULT_RULES, ReadingRules
from mose.search.display import Results, table_html
from mose.search.encoders import TorchEncoder, UnitEncoder, check_encoder, open_encoder, query_encoder
from mose.search.evidence import evidence_for, evidence_of_all
from mose.search.filters import check_limits, matching_rows
from mose.search.hits import Hit
from mose.search.places import default_location
from mose.search.progress import BuildProgress
from mose.search.ranking.catalogue import Catalogue
from mose.search.ranking.confidence import hit_scores, query_confidence
from mose.search.ranking.fusion import DEFAULT_HYBRID
from mose.search.ranking.ranker import Evidence, rank_by_similarity, rank_units
from mose.search.records import MAX_LENGTH, BuildReport, Entry, FileRecord, Meta, Tree
from mose.search.snapshot import Snapshot, Units, read_snapshot
from mose.search.store import DamagedIndexError, Location, SearchIndexError


class Index:
    """The units of one or more source trees, ready to be searched. Created by `open`, `load` or `build`.

    An index can be used by several threads. Each search sees one version of it from beginning to end.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        encoder: UnitEncoder | None = None,
        report: BuildReport | None = None,
        reading: ReadingReport | None = None,
    ):
        self.report = report  #: counts of the build or of the update on opening; None if there was none
        self.reading = reading  #: which files the build read and left out; None for an opened index
        self.stale = ""  #: why the trees may have changed since; "" if they had not when they were last checked
        self._snapshot, self._encoder = snapshot, encoder
        self._documents: UnitEncoder | None = None
        self._model: dict[str, Any] = {}  # how to load the model, if it was not given
        self._checked = float("-inf")
        self._lock = threading.RLock()  # of what is loaded or replaced

    def __len__(self) -> int:
        return len(self._snapshot)

    def __repr__(self) -> str:
        return f"Index({self.location.name!r}, {len(self):,} units, exit {self.meta.exit_layer})"

    def _repr_html_(self) -> str:
        rows = {"index": self.location.name, "trees": self.meta.roots, "units": f"{len(self):,}"}
        rows |= {"files": f"{len(self.files):,}", "model": self.meta.model, "exit": str(self.meta.exit_layer)}
        return table_html(rows | ({"not up to date": self.stale} if self.stale else {}))

    @classmethod
    def open(
        cls,
        path: str | Path | None = None,
        *,
        model: str | None = None,
        exit_layer: int | None = None,
        refresh: bool = True,
        trust_remote_code: bool = False,
    ) -> "Index":
        """Open an index, whose model it knows, and bring it up to date.

        The model is loaded when it is first needed. At exit 0 it takes no torch.

        Args:
            path: folder or URI of the index. None means the place in the user's cache of the index of the current
                folder, or of a folder around it.
            model: folder or Hub id of the model of the index, if that has moved.
            exit_layer: exit to embed queries at. None means exit 0 if the exits of the model share one embedding
                space (`config.aligned_exits`), else the exit of the index.
            refresh: read the files that have changed since the index was written. `stale` says if that fails.
            trust_remote_code: run the code stored beside the weights, in place of the installed one.

        Raises:
            SearchIndexError: there is no complete index, or it is damaged.
        """
        location = default_location(None) if path is None else Location(str(path))
        index = cls(read_snapshot(location))
        index._model = {"model": model, "exit_layer": exit_layer, "trust_remote_code": trust_remote_code}
        if refresh:
            index.report = index.refresh()
        return index

    @classmethod
    def load(cls, path: str | Path, model: Any, tokenizer: Any, exit_layer: int | None = None) -> "Index":
        """Open the index at `path` with a loaded model, which must have created it. It is not brought up to date.

        Args:
            path: folder or URI of the index.
            model: a `MoSEModel`, loaded at least up to the exit of the index.
            tokenizer: the model's tokenizer.
            exit_layer: exit to embed queries at. None means the exit of the index. Another exit needs a model
                whose exits share one embedding space (`config.aligned_exits`).

        Raises:
            ValueError: the model lacks the exit of the index, was not loaded that deep, or its exits are not
                comparable.
            SearchIndexError: there is no complete index, or other weights or another tokenizer created it.
        """
        snapshot = read_snapshot(Location(str(path)))
        meta = snapshot.meta
        index_exit = model.config.resolve_exit_layer(meta.exit_layer)
        encoder = TorchEncoder(
            model, tokenizer, index_exit if exit_layer is None else exit_layer, meta.max_length
        )
        check_encoder(encoder, meta, str(path))
        index = cls(snapshot, encoder)
        index._documents = TorchEncoder(model, tokenizer, index_exit, meta.max_length)
        return index

    @classmethod
    def build(
        cls,
        source_tree: str | Path,
        model: Any,
        tokenizer: Any = None,
        index_path: str | Path | None = None,
        exit_layer: int | None = None,
        *,
        languages: Sequence[str] | None = None,
        exclude: Iterable[str] = (),
        rules: ReadingRules = DEFAULT_RULES,
        max_length: int = MAX_LENGTH,
        progress: BuildProgress = True,
        trust_remote_code: bool = False,
    ) -> "Index":
        """Create an index, or bring `source_tree` in it up to date. Other trees of the index stay.

        Only changed files are parsed, only new texts of units are embedded, and only changed rows are written, in
        one commit. The old version stays usable until then. The next build resumes a killed one.

        Args:
            source_tree: folder to index. What git ignores is left out, and what `rules` say.
            model: a `MoSEModel`, or the folder or Hub id of one.
            tokenizer: the model's tokenizer; None if `model` is a name.
            index_path: folder of its own or URI, created if missing. None means a place in the user's cache.
            exit_layer: exit to embed at, one of `model.exit_layers`; None means the deepest.
            languages: subset of `mose.data.source.languages.readable_languages()`; None means all but text.
            exclude: patterns of paths to leave out, as in a `.gitignore` at the root of the tree.
            rules: which files to read of those that git does not ignore.
            max_length: maximum number of tokens of a unit that the model reads, prompt included.
            progress: show progress bars on stderr, or report to a function.
            trust_remote_code: run the code stored beside the weights, if `model` is a name.

        Raises:
            ValueError: no such folder, model, exit or language, or `index_path` is something else than an index.
            SearchIndexError: no units found, another build is running, or the model returns NaN.
        """
        from mose.search.building import BuildSettings, update_index

        tree = Path(source_tree)
        if not tree.is_dir():
            raise ValueError(f"{tree}: no such folder")
        location = default_location(tree) if index_path is None else Location(str(index_path))
        if isinstance(model, str | Path):
            encoder = open_encoder(str(model), exit_layer, max_length, trust_remote_code)
        else:
            encoder = TorchEncoder(model, tokenizer, exit_layer, max_length)

        settings = BuildSettings(tree, languages, exclude, rules, max_length)
        snapshot, report, reading = update_index(location, settings, encoder, progress)
        index = cls(snapshot, encoder, report, reading)
        index._documents = encoder
        return index

    @property
    def snapshot(self) -> Snapshot:
        """The version in use. It never changes; `refresh` and `reload` put a newer one in its place."""
        return self._snapshot

    @property
    def location(self) -> Location:
        """The place of the index."""
        return self._snapshot.location

    @property
    def meta(self) -> Meta:
        """The description of the index: its model, exit and trees."""
        return self._snapshot.meta

    @property
    def trees(self) -> tuple[Tree, ...]:
        """The indexed trees."""
        return self.meta.trees

    @property
    def files(self) -> dict[tuple[str, str], FileRecord]:
        """The files that were read, by the root of their tree and their path in it."""
        roots = {tree.id: tree.root for tree in self.trees}
        records = self._snapshot.records.items()
        return {(roots[tree], path): record for (tree, path), record in records if record.digest}

    @property
    def units(self) -> Units:
        """The units. Their sources are read when they are looked at."""
        return self._snapshot.units

    @property
    def vectors(self) -> np.ndarray:
        """The embeddings of the units, (units, dim) float32, rows of unit norm. Read-only."""
        return self._snapshot.vectors

    @property
    def catalogue(self) -> Catalogue:
        """Paths and names of the units, as ranking needs them. Row i is unit i."""
        return self._snapshot.catalogue

    @property
    def query_exit_layer(self) -> int:
        """The exit that queries are embedded at."""
        return self._query_encoder().exit_layer

    def units_of(self, path: str) -> list[Entry]:
        """Return the units of a file, by its path in its tree, in the order of their lines."""
        snapshot = self._snapshot
        rows = [row for row, other in enumerate(snapshot.units.column("path")) if other == path]
        return sorted(snapshot.units.take(rows), key=lambda unit: (unit.root, unit.start_line))

    def embed(self, texts: Sequence[str], languages: Sequence[str]) -> np.ndarray:
        """Return the embeddings of code at the exit of the index, (texts, dim) float32, rows of unit norm.

        Args:
            texts: at least one.
            languages: one for each text.
        """
        return self._document_encoder().documents(texts, languages)

    def embed_snippet(self, code: str, language: str = "") -> np.ndarray:
        """Return the embedding of code to compare with the units, (dim,) float32, at the exit of queries."""
        return self._query_encoder().documents([code], [language])[0]

    def reload(self) -> bool:
        """Take up the newest version if another process has written one. Return whether it has."""
        newer = self._snapshot.newer()
        if newer is None:
            return False
        if newer.meta.space != self._snapshot.meta.space and self._model:
            self._encoder = self._documents = None  # another model, which is loaded when it is needed
        self._snapshot = newer
        return True

    def refresh(self, max_age: float = 0.0, progress: BuildProgress = False) -> BuildReport | None:
        """Take up the newest version, and bring it up to date with its trees.

        Files are compared by their size and times, and then by their content. If the index cannot be written,
        it stays as it is, and `stale` says why.

        Args:
            max_age: do nothing if the trees were checked less than this many seconds ago.
            progress: show progress bars on stderr, or report to a function.

        Returns:
            Counts of what has changed; None if nothing has.

        Raises:
            SearchIndexError: the index is damaged, or its model has changed.
        """
        from mose.search.building import refresh_index

        with self._lock:
            if time.monotonic() - self._checked < max_age:
                return None
            self.reload()
            self._checked = time.monotonic()
            try:
                self._snapshot, report = refresh_index(self._snapshot, self._document_encoder, progress)
                self.stale = ""
                return report
            except DamagedIndexError:
                raise
            except (SearchIndexError, OSError, ValueError) as error:
                self.stale = str(error)
                return None

    def evidence(self, query: str) -> Evidence:
        """Return what speaks for each unit, of which `search` makes the order and the scores.

        Raises:
            ValueError: the query is empty.
            SearchIndexError: the model returns NaN.
        """
        return evidence_of_all(self._snapshot, query, self._embed_query(query))

    def search(
        self,
        query: str,
        top_k: int = 5,
        hybrid: bool | None = None,
        *,
        files: bool = False,
        min_score: float = 0.0,
        languages: Sequence[str] | None = None,
        paths: Sequence[str] | None = None,
        kinds: Sequence[str] | None = None,
        exact: bool = False,
    ) -> Results[Hit]:
        """Return the units that fit a query best, best first.

        A large index has a graph of neighbours (`mose.search.neighbours`), and ranks only the units that it finds
        there and those with most of the query's words.

        Args:
            query: the name of a symbol, or a description of what the code does.
            top_k: maximum number of hits.
            hybrid: rank by names, paths and BM25 besides the embeddings; None means `DEFAULT_HYBRID`. False means
                by the embeddings alone.
            files: return the best unit of each file alone.
            min_score: leave out hits with a lower score, in [0, 1].
            languages: units in these languages alone.
            paths: units of files that match one of these patterns alone, written as in a `.gitignore`.
            kinds: units of these kinds alone, see `mose.data.source.units.KINDS`.
            exact: rank all units of a large index, too. With one of the three filters that is always done.

        Raises:
            ValueError: the query is empty, `top_k` is below 1, `min_score` is not in [0, 1], or there is no such
                language or kind.
            SearchIndexError: the model returns NaN, or the index is damaged.
        """
        check_limits(top_k, min_score)

        snapshot = self._snapshot
        if not len(snapshot):
            return Results()
        vector = self._embed_query(query)
        rows = matching_rows(snapshot.units, languages, paths, kinds)
        evidence, catalogue, rows = evidence_for(snapshot, query, vector, rows, exact)
        if not len(catalogue):
            return Results()

        if DEFAULT_HYBRID if hybrid is None else hybrid:
            ranking = rank_units(evidence, catalogue, top_k, one_per_file=files)
        else:
            ranking = rank_by_similarity(evidence, catalogue, top_k, one_per_file=files)
        scores = hit_scores(query_confidence(evidence), (parts.fit for parts in ranking.parts))

        good = [number for number, score in enumerate(scores) if score >= min_score]
        chosen = [int(ranking.rows[number]) for number in good]
        units = snapshot.units.take(chosen if rows is None else rows[chosen].tolist())
        similarities = evidence.similarities[chosen].tolist()
        return Results(
            Hit(scores[number], similarity, parts=ranking.parts[number], **unit._asdict())
            for number, similarity, unit in zip(good, similarities, units, strict=True)
        )

    def _embed_query(self, query: str) -> np.ndarray:
        if not query.strip():
            raise ValueError("the query is empty. Describe what the code does.")
        return self._query_encoder().query(query)

    def _query_encoder(self) -> UnitEncoder:
        with self._lock:
            if self._encoder is None:
                self._encoder = query_encoder(self.meta, self.location.name, **self._model)
            return self._encoder

    def _document_encoder(self) -> UnitEncoder:
        """Return what embeds units, at the exit of the index."""
        with self._lock:
            if self._documents is None:
                exit_layer = self.meta.exit_layer
                if self._encoder is not None and self._encoder.exit_layer == exit_layer:
                    self._documents = self._encoder
                else:
                    options = {**self._model, "exit_layer": exit_layer}
                    self._documents = query_encoder(self.meta, self.location.name, **options)
            return self._documents
