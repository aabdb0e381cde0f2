"""Pre-training corpora: source files with their repositories, streamed in blocks of bounded size."""

import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset

from mose.data.pretraining.sources import CorpusRow, DatasetSource, ReadStep, TreeSource
from mose.data.source.near_duplicates import NearDuplicates
from mose.data.source.report import ReadingReport
from mose.data.source.rules import DEFAULT_RULES, ReadingRules
from mose.data.tables import check_column_mapping
from mose.utils.hashing import digest

logger = logging.getLogger(__name__)

ROW_COLUMNS = ("text", "repository", "language", "path")
PARTS = ("train", "held_out")


class EmptyPartError(ValueError):
    """A part of the corpus would have no repository."""


#: A block ends at this many characters, whatever its number of files.
MAX_BLOCK_CHARACTERS = 64_000_000
#: A block with one repository is extended in search of a second one, up to this many times `shuffle_buffer`.
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
    rules: ReadingRules = DEFAULT_RULES,
    progress: bool = True,
) -> "Corpus":
    """Return a stream of source files with their repositories.

    Args:
        source_trees: folders, each a repository or a folder of packages (then each package is one), or files.
        datasets: what `mose.data.tables.load_table` takes, streamed. A row is a file (`text` or `content`,
            `repository` or `repo_name`, and optionally `language` and `path`), or a repository with `files`, a
            list of such files, as in The Stack v2.
        column_mapping: names in the datasets -> `text`, `repository`, `language`, `path` and `files`. Names that
            a dataset lacks are ignored.
        split: the split to read of datasets that have several.
        shuffle_buffer: number of files in memory, which are grouped by repository and whose examples are
            shuffled.
        seed: seed of every order.
        near_duplicates: drop near-duplicates (`mose.data.source.near_duplicates`): of all source trees, which are
            read in advance; of datasets, which can be endless, within the buffer.
        held_out: share of the repositories to hold out, in [0, 1), or their names. A share is chosen by a hash of
            the names: a repository is in the same part in every run and source.
        part: "train" or "held_out".
        languages: languages of source trees to include; None for all that can be read.
        files_per_repository: most files of each repository of the source trees, chosen by a hash of their paths,
            so that a few large repositories do not dominate; None for all.
        rules: which files of source trees to read.
        progress: show a progress bar on stderr if reading takes long.

    Raises:
        ValueError: an argument is out of its range, a source cannot be read or lacks a column, or no file is
            left.
    """
    if not source_trees and not datasets:
        raise ValueError("There is nothing to read. Pass source_trees, datasets, or both.")
    if shuffle_buffer < 2:
        raise ValueError(f"shuffle_buffer must be at least 2, got {shuffle_buffer}. Pass a number of files.")
    if part not in PARTS:
        raise ValueError(f"part must be one of {', '.join(PARTS)}, got {part!r}.")
    if files_per_repository is not None and files_per_repository < 1:
        raise ValueError(
            f"files_per_repository must be at least 1, got {files_per_repository}. Pass None for all."
        )

    check_column_mapping(column_mapping or {}, (*ROW_COLUMNS, "files"))
    if not isinstance(held_out, str | int | float):
        held_out = sorted(held_out)  # the order of a set differs between processes; a fingerprint must not

    includes = _part_filter(held_out, part)
    sources: list[TreeSource | DatasetSource] = []
    if source_trees:
        trees = TreeSource(source_trees, includes, seed, languages, files_per_repository, rules)
        if not any(map(includes, trees.repositories)):
            raise EmptyPartError(
                f"held_out={held_out} leaves none of the {len(trees.repositories)} repositories in {trees.name} "
                f"in the part {part!r}. Choose another share, or --held-out 0 to evaluate on none."
            )
        if near_duplicates:
            dropped = trees.drop_near_duplicates(seed, progress)
            logger.info("%s: %d near-duplicates left out", trees.name, dropped)
        sources.append(trees)

    sources += [DatasetSource(data, column_mapping or {}, split, includes, seed) for data in datasets]

    corpus = Corpus(sources, shuffle_buffer, seed, near_duplicates=near_duplicates, held_out=held_out, part=part)
    corpus.check()
    return corpus


def _part_filter(held_out: float | Collection[str], part: str) -> Callable[[str], bool]:
    """Return a picklable function that returns True for the names of the repositories in a part."""
    if isinstance(held_out, str) or (isinstance(held_out, int | float) and not 0 <= held_out < 1):
        raise ValueError(
            f"held_out must be in [0, 1), got {held_out!r}. Pass a share, or a list of repositories."
        )
    names = held_out if isinstance(held_out, int | float) else frozenset(held_out)
    return partial(_is_in_part, names, part == "held_out")


def _is_in_part(held_out: float | frozenset[str], expected: bool, repository: str) -> bool:
    if isinstance(held_out, frozenset):
        return (repository in held_out) == expected
    return (digest("held out", repository) < int(held_out * 2**64)) == expected


class Corpus:
    """Source files as rows of strings: `text`, `repository`, `language` ("" if unknown) and `path`.

    Iterating yields the rows of the first pass; `blocks` yields those of any pass. Made by `load_corpus`.

    Attributes:
        sources: the sources, read in turn: the one that has given the fewest characters is next.
        shuffle_buffer: number of files in a block.
        counts: number of `files` read, and of files skipped for each reason, in all passes so far.
    """

    def __init__(
        self, sources: Sequence[TreeSource | DatasetSource], shuffle_buffer: int, seed: int, **settings: Any
    ):
        self.sources, self.shuffle_buffer, self.seed = list(sources), shuffle_buffer, seed
        self.settings = settings
        self.counts: Counter[str] = Counter()

    def __iter__(self) -> Iterator[CorpusRow]:
        for rows, _ in self.blocks():
            yield from rows

    def reading(self) -> ReadingReport:
        """Return what this process has read of the source trees so far, and what was left out."""
        report = ReadingReport()
        for source in self.sources:
            if isinstance(source, TreeSource):
                report.update(source.report)
        return report

    def fingerprint(self) -> int:
        """Return 64 bits that differ if another stream of rows would be read."""
        settings = [f"{name}={value}" for name, value in sorted(self.settings.items())]
        return digest(self.shuffle_buffer, self.seed, *settings, *(s.fingerprint() for s in self.sources))

    def blocks(
        self, epoch: int = 0, lane: int = 0, lanes: int = 1, state: Mapping[str, Any] | None = None
    ) -> Iterator[tuple[list[CorpusRow], dict[str, Any]]]:
        """Yield one pass, or a lane of it, in blocks of about `shuffle_buffer` files.

        The lanes of a pass are read independently of each other, and together hold every file once.

        Args:
            epoch: number of the pass. Each has its own order.
            lane: the lane to read.
            lanes: number of lanes.
            state: the state after a block of the same epoch and lane, to resume there; None for the start.

        Yields:
            The files of a block, grouped by repository, and the state after it, ready for JSON.
        """
        positions = list(state["sources"]) if state else [None] * len(self.sources)
        characters = list(state["given"]) if state else [0] * len(self.sources)
        readers = {
            index: source.read(epoch, lane, lanes, positions[index], self.counts)
            for index, source in enumerate(self.sources)
            if positions[index] is not False
        }

        while readers:
            rows = self._read_block(readers, characters, positions)
            self.counts["files"] += len(rows)
            if rows:
                yield self._group(rows), {"given": list(characters), "sources": list(positions)}

        # Later passes skip the same files, which is no news.
        skipped = {reason: n for reason, n in sorted(self.counts.items()) if reason != "files"}
        if skipped:
            level = logging.WARNING if epoch == 0 else logging.INFO
            logger.log(level, "%d files read so far; skipped: %s", self.counts["files"], skipped)

    def _read_block(
        self, readers: dict[int, Iterator[ReadStep]], characters: list[int], positions: list[Any]
    ) -> list[CorpusRow]:
        """Read one block, and update the characters read from each source and its position (False at its end)."""
        rows: list[CorpusRow] = []
        repositories: set[str] = set()
        new_positions: dict[int, Callable[[], Any] | None] = {}
        size = 0

        while readers and size < MAX_BLOCK_CHARACTERS:
            full = len(rows) >= self.shuffle_buffer
            # In-Context Classification needs intruders from a second repository.
            if full and (len(repositories) > 1 or len(rows) >= MAX_BUFFERS * self.shuffle_buffer):
                break

            # The source with the fewest characters is next, so that sources mix evenly.
            index = min(readers, key=lambda index: (characters[index], index))
            new_rows, new_positions[index] = next(readers[index], ([], None))
            if new_positions[index] is None:
                del readers[index]
                continue

            new_size = sum(len(row["text"]) for row in new_rows)
            characters[index] += new_size
            size += new_size
            rows += new_rows
            repositories.update(row["repository"] for row in new_rows)

        for index, position in new_positions.items():
            positions[index] = position() if position else False

        return rows

    def check(self, repositories: int = 1) -> None:
        """Check that the first block has files from enough repositories.

        Raises:
            ValueError: there are fewer than `repositories` in the corpus, or in the first block.
        """
        # The files of this block are read again later, and must not be counted twice.
        counts, self.counts = self.counts, Counter()
        try:
            rows, _ = next(self.blocks(), ([], None))
            skipped = [f"{n} {reason}" for reason, n in self.counts.items() if reason != "files"]
        finally:
            self.counts = counts

        names = {row["repository"] for row in rows}
        part = f"the part {self.settings.get('part', 'train')!r} of {', '.join(s.name for s in self.sources)}"
        if not names:
            raise ValueError(f"no file is left in {part}{'; skipped: ' if skipped else ''}{', '.join(skipped)}")

        if len(names) < repositories:
            raise ValueError(
                f"The first {len(rows)} files of {part} must be from {repositories} repositories or more; all "
                f"are from {next(iter(names))!r}. Pass other sources, another held_out, or a shuffle_buffer "
                f"above {self.shuffle_buffer}."
            )

    def _group(self, rows: list[CorpusRow]) -> list[CorpusRow]:
        """Return the rows without near-duplicates of streamed datasets, grouped by repository."""
        if self.settings.get("near_duplicates") and any(isinstance(s, DatasetSource) for s in self.sources):
            unique = NearDuplicates(seed=self.seed)
            total = len(rows)
            rows = [row for row in rows if unique.add(row["text"])]
            self.counts["near-duplicate"] += total - len(rows)

        order: dict[str, int] = {}
        for row in rows:
            order.setdefault(row["repository"], len(order))
        return sorted(rows, key=lambda row: order[row["repository"]])  # stable: files keep their order
