"""Creating an index and bringing it up to date: what has changed is read, embedded and written."""

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mose.data.source.report import ReadingReport
from mose.data.source.rules import ReadingRules
from mose.search.encoders import UnitEncoder
from mose.search.neighbours import update_neighbours
from mose.search.planning import Differences, Plan, plan_rebuild, plan_update
from mose.search.progress import BuildProgress, progress_bar
from mose.search.records import BuildReport, Entry, FileRecord, Meta, Tree
from mose.search.snapshot import Snapshot, read_snapshot, salvaged_meta
from mose.search.store import (
    DamagedIndexError,
    Location,
    MissingIndexError,
    OtherFormatError,
    SearchIndexError,
)
from mose.search.tree import TreeChanges, read_tree
from mose.search.writing import IndexWriter, NewRows, index_writer

#: Units that are embedded at a time. A long build stages them: killed, it loses at most one chunk.
CHUNK = 4096
#: Units after which progress is shown.
STEP = 512
#: Seconds that an update waits for another writer.
LOCK_WAIT = 5.0


class BuildSettings(NamedTuple):
    """The tree to index and how.

    Attributes:
        root: the folder.
        languages: languages to read; None means all but text.
        exclude: patterns of paths to leave out.
        rules: which files to read.
        max_length: maximum number of tokens of a unit that the model reads.
    """

    root: Path
    languages: Sequence[str] | None
    exclude: Iterable[str]
    rules: ReadingRules
    max_length: int


def update_index(
    location: Location, settings: BuildSettings, encoder: UnitEncoder, progress: BuildProgress
) -> tuple[Snapshot, BuildReport, ReadingReport]:
    """Create an index, or bring one tree of it up to date, which is added if it is not there.

    Raises:
        ValueError: the tree is inside of another one of the index, or there is something else than an index.
        SearchIndexError: no units found, another build is running, or the model returns NaN.
    """
    with index_writer(location) as writer:
        previous, trees, rebuilt = _previous(location, settings.root)
        tree = _tree(settings, trees)
        known = _known_records(previous, tree)
        changes = {tree.id: read_tree(tree, known, progress=progress)}
        if not changes[tree.id].entries and not known:
            reason = changes[tree.id].report.explain_empty()
            count = changes[tree.id].read
            raise SearchIndexError(f"{settings.root}: no units found in its {count} source files. {reason}")

        others = [other for other in trees if other.id != tree.id]
        if previous is None:  # trees of a damaged index
            for other in others:
                if Path(other.root).is_dir():
                    changes[other.id] = read_tree(other, {}, progress=progress)
            others = [other for other in others if other.id in changes]

        meta = Meta(
            model=encoder.name,
            fingerprint=encoder.fingerprint(encoder.exit_layer),
            lookup_fingerprint=encoder.fingerprint(0) if encoder.aligned else "",
            exit_layer=encoder.exit_layer,
            max_length=settings.max_length,
            dim=encoder.dim,
            trees=tuple(sorted([*others, tree], key=lambda one: one.id)),
        )
        committed, embedded = _commit(
            writer, previous, meta, changes, lambda: encoder, progress, damaged=bool(rebuilt)
        )
        report, reading = _report(changes, embedded, rebuilt), changes[tree.id].report
        changes.clear()  # the sources of all units, which are read again when they are needed
        snapshot = previous if previous and not committed else read_snapshot(location)
        if update_neighbours(location, snapshot.table, snapshot.addresses[: len(snapshot)], progress):
            snapshot = read_snapshot(location)
        return snapshot, dataclasses.replace(report, units=len(snapshot)), reading


def refresh_index(
    snapshot: Snapshot, open_encoder: Callable[[], UnitEncoder], progress: BuildProgress = False
) -> tuple[Snapshot, BuildReport | None]:
    """Bring all trees of an index up to date. Nothing is locked or written if nothing has changed.

    Args:
        snapshot: the newest version.
        open_encoder: returns what embeds units at the exit of the index; called if there are new ones.
        progress: show progress bars on stderr, or report to a function.

    Returns:
        The newest version, and counts of what has changed; None if nothing has.

    Raises:
        SearchIndexError: another build is running, or the model is not that of the index.
        OSError: the index cannot be written.
    """
    changes = _read_trees(snapshot)
    if not any(_differs(snapshot, tree, change) for tree, change in changes.items()):
        return snapshot, None

    with index_writer(snapshot.location, LOCK_WAIT) as writer:
        newest = snapshot.newer()
        if newest:
            snapshot, changes = newest, _read_trees(newest)
        committed, embedded = _commit(
            writer, snapshot, snapshot.meta, changes, open_encoder, progress, with_stamps=True
        )
        if committed:
            snapshot = read_snapshot(snapshot.location)
        report = dataclasses.replace(_report(changes, embedded), units=len(snapshot))
        return snapshot, report if report.changed or report.removed else None


def remove_tree(location: Location, root: Path) -> Snapshot:
    """Remove a tree from an index that has others.

    Raises:
        ValueError: the index does not have the tree, or no other.
        SearchIndexError: there is no index, it is damaged, or another build is running.
    """
    with index_writer(location) as writer:
        previous = read_snapshot(location)
        trees = tuple(tree for tree in previous.meta.trees if tree.root != str(root.resolve()))
        if len(trees) == len(previous.meta.trees):
            raise ValueError(f"{root} is not in {location.name}. It has: {previous.meta.roots}.")
        if not trees:
            raise ValueError(f"{root} is the only tree of {location.name}. Delete that folder.")

        remaining = {tree.id for tree in trees}
        owners = [*previous.units.column("tree"), *(tree for tree, _ in previous.records)]
        removed = np.flatnonzero([owner not in remaining for owner in owners])
        rows = NewRows([], [], np.zeros((0, previous.meta.dim), np.float32), {})
        writer.update(previous, dataclasses.replace(previous.meta, trees=trees), removed, rows)
        return read_snapshot(location)


def _previous(location: Location, root: Path) -> tuple[Snapshot | None, tuple[Tree, ...], str]:
    """Return the index that is there, its trees, and why it cannot be used if it cannot."""
    try:
        previous = read_snapshot(location)
        # Sources are not checked before they are shown, but what is damaged must be found here to be healed.
        previous.units.sources(range(len(previous)))
        return previous, previous.meta.trees, ""

    except DamagedIndexError as error:
        meta = salvaged_meta(location)
        return None, meta.trees if meta else (), str(error)
    except MissingIndexError:
        return None, (), ""
    except OtherFormatError as error:
        old_root = location.old_root()
        if old_root and old_root != str(root.resolve()):
            message = f"{location.name} is an index of {old_root} by an older version of MoSE"
            raise ValueError(f"{message}. Name another folder, or index {old_root} again first.") from None
        return None, (), str(error)


def _tree(settings: BuildSettings, trees: Sequence[Tree]) -> Tree:
    """Return the tree of the settings, with the number that it has in the index or gets now."""
    root = settings.root.resolve()
    for other in trees:
        if str(root) != other.root and (root.is_relative_to(other.root) or Path(other.root).is_relative_to(root)):
            message = f"{root} and {other.root}, which this index has, have files in common"
            raise ValueError(f"{message}. Index it in another folder, or remove the other tree (index --remove).")

    same = [tree for tree in trees if tree.root == str(root)]
    labels, label, number = {tree.label for tree in trees}, root.name, 2
    while label in labels:
        label, number = f"{root.name}-{number}", number + 1
    return Tree(
        id=same[0].id if same else max((tree.id for tree in trees), default=-1) + 1,
        root=str(root),
        label=same[0].label if same else label,
        languages=None if settings.languages is None else tuple(settings.languages),
        exclude=tuple(settings.exclude),
        rules=dataclasses.asdict(settings.rules),
    )


def _known_records(previous: Snapshot | None, tree: Tree) -> dict[str, FileRecord]:
    """Return what is known of the files of a tree that is to be read as its settings say now."""
    known = _records_of(previous, tree.id) if previous else {}
    if previous and tree not in previous.meta.trees:
        # The settings have changed: each file that was left out is looked at again.
        known = {path: record for path, record in known.items() if record.digest}
    return known


def _records_of(snapshot: Snapshot, tree: int) -> dict[str, FileRecord]:
    return {path: record for (owner, path), record in snapshot.records.items() if owner == tree}


def _read_trees(snapshot: Snapshot) -> dict[int, TreeChanges]:
    """Return the changes of the trees whose folders are there: another disk may not be mounted."""
    trees = [tree for tree in snapshot.meta.trees if Path(tree.root).is_dir()]
    return {tree.id: read_tree(tree, _records_of(snapshot, tree.id), trust_stamps=True) for tree in trees}


def _differs(snapshot: Snapshot, tree: int, changes: TreeChanges) -> bool:
    known = _records_of(snapshot, tree)
    return bool(changes.entries or changes.removed) or changes.records != known


def _commit(
    writer: IndexWriter,
    previous: Snapshot | None,
    meta: Meta,
    changes: Mapping[int, TreeChanges],
    open_encoder: Callable[[], UnitEncoder],
    progress: BuildProgress,
    with_stamps: bool = False,
    damaged: bool = False,
) -> tuple[bool, int]:
    """Write what has changed. Return whether anything had, and the number of units that were embedded."""
    if previous is None or previous.meta.space != meta.space:
        plan = plan_rebuild(previous, Differences(changes))
        rows, embedded = _new_rows(writer, None, meta, plan, open_encoder, progress)
        writer.replace(meta, rows, previous, damaged)
        return True, embedded

    plan = plan_update(previous, Differences(changes), with_stamps)
    if not (len(plan.removed) or plan.units or plan.records) and previous.meta.with_digest(
        0, 0
    ) == meta.with_digest(0, 0):
        return False, 0
    rows, embedded = _new_rows(writer, previous, meta, plan, open_encoder, progress)
    writer.update(previous, meta, plan.removed, rows)
    return True, embedded


def _new_rows(
    writer: IndexWriter,
    previous: Snapshot | None,
    meta: Meta,
    plan: Plan,
    open_encoder: Callable[[], UnitEncoder],
    progress: BuildProgress,
) -> tuple[NewRows, int]:
    """Return the rows of a plan, and the number of units that were embedded for them."""
    units = [unit for _, unit in plan.units]
    keys = [unit.key for unit in units]

    # Units of one key have one embedding: of this version, of a killed build, or computed now.
    rows: dict[bytes, list[int]] = defaultdict(list)
    for row, key in enumerate(keys):
        rows[key].append(row)
    vectors = np.empty((len(units), meta.dim), np.float32)
    for key, vector in _known_vectors(writer, previous, meta.space, rows):
        vectors[rows.pop(key)] = vector

    new = [(places, units[places[0]]) for places in rows.values()]
    if new:
        _embed(writer, meta.space, new, open_encoder(), vectors, progress)
    return NewRows([tree for tree, _ in plan.units], units, vectors, plan.records), len(new)


def _known_vectors(
    writer: IndexWriter, previous: Snapshot | None, space: str, keys: Collection[bytes]
) -> list[tuple[bytes, np.ndarray]]:
    """Return the embeddings that need not be computed, with their keys."""
    known = {key: vector for key, vector in writer.staged(space).items() if key in keys} if keys else {}
    if previous:
        rows = previous.rows_by_key
        known |= {key: previous.vectors[rows[key]] for key in keys if key in rows}
    return list(known.items())


def _embed(
    writer: IndexWriter,
    space: str,
    units: Sequence[tuple[list[int], Entry]],
    encoder: UnitEncoder,
    vectors: np.ndarray,
    progress: BuildProgress,
) -> None:
    """Write the embeddings of units into their rows of `vectors`. Those of a long build are staged."""
    with progress_bar(progress, total=len(units), desc="Embedding", unit=" units") as bar:
        for start in range(0, len(units), CHUNK):
            chunk, parts = units[start : start + CHUNK], []
            for begin in range(0, len(chunk), STEP):
                step = [unit for _, unit in chunk[begin : begin + STEP]]
                parts.append(encoder.documents([unit.text for unit in step], [unit.language for unit in step]))
                bar.update(len(step))

            computed = np.concatenate(parts)
            for (rows, _), vector in zip(chunk, computed, strict=True):
                vectors[rows] = vector
            if len(units) > CHUNK:
                writer.stage(space, [unit.key for _, unit in chunk], computed)


def _report(changes: Mapping[int, TreeChanges], embedded: int, rebuilt: str = "") -> BuildReport:
    return BuildReport(
        files=sum(change.read for change in changes.values()),
        changed=sum(len(change.entries) for change in changes.values()),
        removed=sum(len(change.removed) for change in changes.values()),
        skipped=sum(len(change.failed) for change in changes.values()),
        units=0,
        embedded=embedded,
        rebuilt=rebuilt,
    )
