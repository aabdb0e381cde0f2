"""Planning of a commit: which rows of an index go, and which come."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import NamedTuple, TypeAlias

import numpy as np

from mose.search.records import Entry, FileRecord
from mose.search.snapshot import Snapshot
from mose.search.tree import TreeChanges

#: A file: the id of its tree and its path in it.
Place: TypeAlias = tuple[int, str]


class Plan(NamedTuple):
    """The rows that a commit removes and adds."""

    removed: np.ndarray  # rows that go, as positions in `Snapshot.addresses`
    units: list[tuple[int, Entry]]  # units that come, with the id of their tree
    records: dict[Place, FileRecord]  # records that come


class Differences:
    """The changes of several trees as one.

    Args:
        changes: of each tree, by its id.

    Attributes:
        units: the units of each file that was parsed.
        records: what is known of each file that is there.
        gone: files that are not there any more.
    """

    def __init__(self, changes: Mapping[int, TreeChanges]):
        self.units: dict[Place, list[Entry]] = {}
        self.records: dict[Place, FileRecord] = {}
        for tree, change in changes.items():
            self.units |= {(tree, path): units for path, units in change.entries.items()}
            self.records |= {(tree, path): record for path, record in change.records.items()}
        self.gone = {(tree, path) for tree, change in changes.items() for path in change.removed}

    def stay(self, place: Place) -> bool:
        """Return whether the units of a file are those of the version before."""
        return place not in self.units and place not in self.gone


def plan_update(previous: Snapshot, new: Differences, with_stamps: bool) -> Plan:
    """Return the difference between a version and its trees. Units that have not changed stay as they are.

    Args:
        previous: the version.
        new: the changes since.
        with_stamps: whether files of which nothing but the times has changed count by themselves.
    """
    removed, units = _changed_units(previous, new)
    records = {place: record for place, record in new.records.items() if previous.records.get(place) != record}
    if not (with_stamps or removed or units or new.gone or _have_news(previous, records)):
        records = {}

    files = enumerate(previous.records, len(previous))
    removed += [row for row, place in files if place in records or place in new.gone]
    return Plan(np.array(removed, np.intp), units, records)


def plan_rebuild(previous: Snapshot | None, new: Differences) -> Plan:
    """Return all units and files, those of a version that have not changed among them."""
    units, records = dict(new.units), dict(new.records)
    if previous:
        units |= _unchanged_units(previous, new)
        for place, record in previous.records.items():
            if place not in new.gone:
                records.setdefault(place, record)
    ordered = [(place[0], unit) for place in sorted(units) for unit in units[place]]
    return Plan(np.zeros(0, np.intp), ordered, records)


def _changed_units(previous: Snapshot, new: Differences) -> tuple[list[int], list[tuple[int, Entry]]]:
    """Return the rows of units that go, and the units that come."""
    coming = Counter(_identity(tree, unit) for (tree, _), units in new.units.items() for unit in units)
    names = ("tree", "path", "key", "kind", "name", "start_line", "end_line")
    rows = zip(*(previous.units.column(name) for name in names), strict=True)

    removed = []
    for row, (tree, path, *identity) in enumerate(rows):
        if new.stay((tree, path)):
            continue
        if coming[(tree, *identity)]:
            coming[(tree, *identity)] -= 1
        else:
            removed.append(row)

    units = []
    for (tree, _), entries in new.units.items():
        for unit in entries:
            if coming[_identity(tree, unit)]:
                coming[_identity(tree, unit)] -= 1
                units.append((tree, unit))
    return removed, units


def _unchanged_units(previous: Snapshot, new: Differences) -> dict[Place, list[Entry]]:
    rows: dict[Place, list[int]] = defaultdict(list)
    for row, place in enumerate(zip(previous.units.column("tree"), previous.units.column("path"), strict=True)):
        if new.stay(place):
            rows[place].append(row)
    kept = iter(previous.units.take([row for group in rows.values() for row in group]))
    return {place: [next(kept) for _ in group] for place, group in rows.items()}


def _identity(tree: int, unit: Entry) -> tuple[int | str | bytes, ...]:
    """Return all that a row has of a unit: equal ones need not be written again."""
    return (tree, unit.key, unit.kind, unit.name, unit.start_line, unit.end_line)


def _have_news(previous: Snapshot, records: Mapping[Place, FileRecord]) -> bool:
    """Return whether a file differs in more than its times."""
    known = previous.records
    return any(
        place not in known or known[place]._replace(stamp="") != record._replace(stamp="")
        for place, record in records.items()
    )
