"""Pre-training corpora: files with the repository that they come from, streamed in blocks of bounded size."""

import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset

from mose.data.pretraining.sources import DatasetSource, Row, Source, TreeSource
from mose.data.source.near_duplicates import NearDuplicates
from mose.utils.hashing import digest

__all__ = ["Corpus", "Row", "load_corpus"]

logger = logging.getLogger(__name__)

ROW_COLUMNS = ("text", "repository", "language", "path")
PARTS = ("train", "held_out")
#: A block also ends at so many characters, and is not extended past so many buffers in search of a second
#: repository.
MAX_BLOCK_CHARACTERS = 64_000_000
MAX_BUFFERS = 4


def load_corpus(
    source_trees: Sequence[str | Path] = (),
    datasets: Sequence[str | Path | Dataset] = (),
    column_mapping: Mapping[str, str] | None = None,
    *,
    split: str = "train",
    shuffle_buffer: int = 1024,
    seed: int = 0,
    near_duplicates: bool = False,
    held_out: float | Collection[str] = 0.05,
    part: str = "train",
    languages: Collection[str] | None = None,
    files_per_repository: int | None = None,
    progress: bool = True,
) -> "Corpus":
    """A stream of source files with their repositories.

    Args:
        source_trees: Folders, each a repository or a folder of packages (then each package is one), or files.
        datasets: Hub ids, local `.jsonl`, `.json` or `.parquet` files, folders that `datasets` can read or has
            saved, or datasets; all are streamed. A row is a file (`text` or `content`, `repository` or
            `repo_name`, and where known `language` and `path`), or a repository with `files`, a list of such
            files, as in The Stack v2.
        column_mapping: From the names that datasets use to `text`, `repository`, `language`, `path` and `files`;
            a name that a dataset lacks is passed over there.
        split: The split to read of datasets that have several.
        shuffle_buffer: How many files are held at a time: among them files are brought together by repository,
            and examples are shuffled.
        seed: Of every order.
        near_duplicates: Leave out near-duplicates (`mose.data.source.near_duplicates`): of source trees wherever
            they lie, which takes one reading beforehand; of datasets, which have no end, within the buffer.
        held_out: The share of repositories held out, by a hash of their names: the same repository is on the same
            side in every run and source. Or their names.
        part: "train", or "held_out" for those held out.
        languages: Of source trees, the languages wanted, all that can be read by default.
        files_per_repository: Of source trees, at most so many files of each repository, drawn by a hash of their
            paths, so that a few giants do not make up the corpus; all by default.
        progress: Whether to show a progress bar on stderr where reading takes long.

    Raises:
        ValueError: An argument is none of those allowed, there is nothing to read, a source can't be found or
            read, a dataset has no column for text or repository, or no file is left.
    """
    if not source_trees and not datasets:
        raise ValueError("nothing to read: give source trees, datasets, or both")
    if shuffle_buffer < 2:
        raise ValueError(f"shuffle_buffer={shuffle_buffer}: at least 2 files")
    if part not in PARTS:
        raise ValueError(f"part={part!r}: there are {' and '.join(PARTS)}")
    if files_per_repository is not None and files_per_repository < 1:
        raise ValueError(f"files_per_repository={files_per_repository}: at least 1, or None for all")
    mapping = dict(column_mapping or {})
    if unknown := set(mapping.values()) - {*ROW_COLUMNS, "files"}:
        raise ValueError(
            f"column_mapping gives {sorted(unknown)}: the names known are {', '.join(ROW_COLUMNS)} and files"
        )
    if isinstance(held_out, str):
        raise ValueError(f"held_out={held_out!r}: a share from 0 to below 1, or a list of names of repositories")
    if not isinstance(held_out, int | float):
        held_out = sorted(held_out)  # a set has another order in every process, and a fingerprint must not
    wanted = _side(held_out, part)
    sources: list[Source] = []
    if source_trees:
        trees = TreeSource(source_trees, wanted, seed, languages, files_per_repository)
        if not any(map(wanted, trees.repositories)):
            raise ValueError(
                f"held_out={held_out}: none of the {len(trees.repositories)} repositories in {trees.name} is "
                f"in the part {part!r}; choose another share"
            )
        if near_duplicates:
            dropped = trees.drop_near_duplicates(seed, progress)
            logger.info("%s: %d near-duplicates left out", trees.name, dropped)
        sources.append(trees)
    sources += [DatasetSource(data, mapping, split, wanted, seed) for data in datasets]
    corpus = Corpus(sources, shuffle_buffer, seed, near_duplicates=near_duplicates, held_out=held_out, part=part)
    corpus.check()
    return corpus


def _side(held_out: float | Collection[str], part: str) -> Callable[[str], bool]:
    """Whether a repository, by name, is in a part."""
    if isinstance(held_out, int | float):
        if not 0 <= held_out < 1:
            raise ValueError(f"held_out={held_out}: a share from 0 to below 1, or names of repositories")
        return partial(_is_below, int(held_out * 2**64), part == "held_out")
    return partial(_is_among, frozenset(held_out), part == "held_out")


def _is_below(limit: int, wanted: bool, repository: str) -> bool:
    return (digest("held out", repository) < limit) == wanted


def _is_among(names: frozenset[str], wanted: bool, repository: str) -> bool:
    return (repository in names) == wanted


class Corpus:
    """Source files as rows of strings: `text`, `repository`, `language` ("" where unknown) and `path`.

    Iterating gives one pass, the first; `blocks` gives any. Made by `load_corpus`.

    Attributes:
        sources: What is read. While several have not ended, the one that has given least goes on.
        shuffle_buffer: Files in a block.
        counts: How many `files` were given, and how many were skipped for which reason, in all passes so far.
    """

    def __init__(self, sources: Sequence[Source], shuffle_buffer: int, seed: int, **settings: Any):
        self.sources, self.shuffle_buffer, self.seed, self.settings = (
            list(sources),
            shuffle_buffer,
            seed,
            settings,
        )
        self.counts: Counter[str] = Counter()

    def __iter__(self) -> Iterator[Row]:
        for rows, _ in self.blocks():
            yield from rows

    def fingerprint(self) -> int:
        """64 bits that differ where another stream of rows would be read."""
        settings = [f"{name}={value}" for name, value in sorted(self.settings.items())]
        return digest(self.shuffle_buffer, self.seed, *settings, *(s.fingerprint() for s in self.sources))

    def blocks(
        self, epoch: int = 0, lane: int = 0, lanes: int = 1, state: Mapping[str, Any] | None = None
    ) -> Iterator[tuple[list[Row], dict[str, Any]]]:
        """One pass, or a lane of it, in blocks of about `shuffle_buffer` files.

        The lanes of a pass can be read independently of each other, and together hold every file once.

        Args:
            epoch: Number of the pass, from 0; each has an order of its own.
            lane, lanes: Which of how many lanes.
            state: Where to go on: what came with the block before, for the same epoch and lane.

        Yields:
            The files of a block, brought together by repository, and the state after it, which JSON can hold.
        """
        states = state["sources"] if state else [None] * len(self.sources)
        given = list(state["given"]) if state else [0] * len(self.sources)
        readers = {
            at: source.reader(epoch, lane, lanes, states[at], self.counts)
            for at, source in enumerate(self.sources)
            if states[at] is not False
        }
        while readers:
            rows: list[Row] = []
            repositories: set[str] = set()
            characters = 0
            while readers and characters < MAX_BLOCK_CHARACTERS:
                if len(rows) >= self.shuffle_buffer and (
                    len(repositories) > 1 or len(rows) >= MAX_BUFFERS * self.shuffle_buffer
                ):
                    break
                at = min(readers, key=lambda at: (given[at], at))
                found = readers[at].read()
                if found is None:
                    del readers[at]
                    continue
                size = sum(len(row["text"]) for row in found)
                given[at] += size
                characters += size
                rows += found
                repositories.update(row["repository"] for row in found)
            self.counts["files"] += len(rows)
            after = {
                "given": list(given),
                "sources": [readers[at].state() if at in readers else False for at in range(len(self.sources))],
            }
            if rows:
                yield self._together(rows), after
        skipped = {reason: n for reason, n in sorted(self.counts.items()) if reason != "files"}
        if skipped:
            level = logging.WARNING if epoch == 0 else logging.INFO
            logger.log(level, "%d files read so far; skipped: %s", self.counts["files"], skipped)

    def check(self, repositories: int = 1) -> None:
        """Reads until so many repositories were found that hold text.

        Raises:
            ValueError: There are fewer in the corpus, or among the first files that a block can hold.
        """
        counts, self.counts = self.counts, Counter()
        found: set[str] = set()
        try:
            rows, _ = next(self.blocks(), ([], None))
            found = {row["repository"] for row in rows}
            counted = dict(self.counts)
        finally:
            self.counts = counts
        names = ", ".join(source.name for source in self.sources)
        part = self.settings.get("part", "train")
        if not found:
            counted.pop("files", None)
            skipped = (
                "; skipped: " + ", ".join(f"{n} {reason}" for reason, n in counted.items()) if counted else ""
            )
            raise ValueError(f"no file is left in the part {part!r} of {names}{skipped}")
        if len(found) < repositories:
            raise ValueError(
                f"the {len(rows)} files first read of the part {part!r} of {names} are all of the repository "
                f"{next(iter(found))!r}: telling repositories apart needs {repositories} or more (other sources, "
                f"another held_out, or a shuffle_buffer larger than {self.shuffle_buffer})"
            )

    def _together(self, rows: list[Row]) -> list[Row]:
        if self.settings.get("near_duplicates") and any(isinstance(s, DatasetSource) for s in self.sources):
            seen = NearDuplicates(seed=self.seed)
            kept = [row for row in rows if seen.add(row["text"])]
            self.counts["near-duplicate"] += len(rows) - len(kept)
            rows = kept
        order: dict[str, int] = {}
        for row in rows:
            order.setdefault(row["repository"], len(order))
        return sorted(rows, key=lambda row: order[row["repository"]])  # stable: files keep their order
