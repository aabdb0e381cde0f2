"""Reading the units of a source tree: of files that have changed since they were last read."""

import dataclasses
import hashlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pathspec

from mose.data.source.files import candidate_files, path_below, read_source
from mose.data.source.languages import TEXT
from mose.data.source.report import ReadingReport
from mose.data.source.rules import DEFAULT_RULES, ReadingRules
from mose.search.progress import BuildProgress, progress_bar
from mose.search.records import Entry, FileRecord, Tree

#: Longer units are split. A model reads about so much code at once: 512 tokens, prompt included.
MAX_UNIT_CHARACTERS = 2000
#: A file written less than this before it was read may change again without another time, in nanoseconds.
_CLOCK_STEP = 2_000_000_000
#: Notes on files whose content is in another language than their name says.
_OTHER_FILE, _UNASKED = "not a source language", "language not asked for"


class TreeChanges(NamedTuple):
    """The differences of a source tree since it was last read."""

    records: dict[str, FileRecord]  # path -> what is known of it, of all files
    entries: dict[str, list[Entry]]  # path -> its units, of files that were parsed
    removed: list[str]  # paths that are gone
    report: ReadingReport  # what was read and left out

    @property
    def failed(self) -> list[str]:
        """Paths of files whose units could not be read because of an error."""
        return [path for path, record in self.records.items() if record.failed]

    @property
    def read(self) -> int:
        """Number of files that were not left out."""
        return sum(bool(record.digest) for record in self.records.values())


def read_tree(
    tree: Tree, known: Mapping[str, FileRecord], trust_stamps: bool = False, progress: BuildProgress = False
) -> TreeChanges:
    """Return the changes of a source tree: functions, classes, and what is outside of them.

    Args:
        tree: the folder, and how to read it.
        known: path -> record of the files that need not be parsed again if they are unchanged.
        trust_stamps: do not read files whose size and times are those of their records.
        progress: show a bar on stderr, or report to a function.
    """
    root, rules = Path(tree.root), ReadingRules(**tree.rules)
    excluded = pathspec.GitIgnoreSpec.from_lines(tree.exclude)
    report = ReadingReport()
    candidates = list(candidate_files(root, tree.languages, rules, report))
    files = [file for file in candidates if not excluded.match_file(file.relative_to(root))]
    records: dict[str, FileRecord] = {}
    entries: dict[str, list[Entry]] = {}

    for file in progress_bar(progress, files, "Reading", unit=" files", delay=1 if trust_stamps else 0):
        path, stamp = path_below(root, file), file_stamp(file)
        record = known.get(path)
        if record is None or not trust_stamps or not stamp or stamp != record.stamp or record.failed:
            record, units = _read_file(tree, file, path, stamp, rules, record)
            if units is not None:
                entries[path] = units
        records[path] = record
        _count(report, file, record)

    return TreeChanges(records, entries, [path for path in known if path not in records], report)


def file_stamp(file: Path) -> str:
    """Return the size and times of a file; "" if there is none, or if it has just been written."""
    try:
        status = file.stat()
    except OSError:
        return ""
    # Nobody can set the time of the last change of status, so that it tells of changes that hide themselves.
    if max(status.st_mtime_ns, status.st_ctime_ns) > time.time_ns() - _CLOCK_STEP:
        return ""
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"


def _read_file(
    tree: Tree, file: Path, path: str, stamp: str, rules: ReadingRules, known: FileRecord | None
) -> tuple[FileRecord, list[Entry] | None]:
    """Return the record of a file, and its units; None if they are those of the known record."""
    report = ReadingReport()  # of this file
    digest = language = ""
    units: list[Entry] | None = []
    with report.guard(file):
        source = read_source(file, rules, tree.languages)
        digest, language = hashlib.sha256(source.source).hexdigest(), source.language
        if known and (known.digest, known.language) == (digest, language) and not known.failed:
            return known._replace(stamp=stamp), None

        # These load parsers, which an unchanged tree does not need.
        from mose.data.source.definitions import extract_units
        from mose.data.source.texts import extract_sections

        if language == TEXT:
            read = extract_sections(source.text, file.name, max_characters=MAX_UNIT_CHARACTERS)
        else:
            read = extract_units(
                source.source,
                language,
                file_name=file.name,
                max_characters=MAX_UNIT_CHARACTERS,
                on_errors=report.error_counter(file),
            )
        names = Entry._fields[1:-1]
        units = [
            Entry(path=path, root=tree.root, **{name: getattr(unit, name) for name in names}) for unit in read
        ]

    notes = {reason: next(iter(names.values())) for reason, names in report.left_out.items()}
    for name, counts in ((_OTHER_FILE, report.other_files), (_UNASKED, report.unasked)):
        notes.update((name, kind) for kind in counts)
    return FileRecord(digest, stamp, language, notes), units


def _count(report: ReadingReport, file: Path, record: FileRecord) -> None:
    """Count a file as its record says, read now or before."""
    if record.digest:
        report.read[record.language] += 1
    for reason, detail in record.notes.items():
        if reason == _OTHER_FILE:
            report.other_files[detail] += 1
        elif reason == _UNASKED:
            report.unasked[detail] += 1
        else:
            report.count(reason, file, detail)


def read_whole_tree(
    root: Path,
    languages: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    rules: ReadingRules = DEFAULT_RULES,
) -> tuple[list[Entry], ReadingReport]:
    """Return all units of a folder, and what was read and left out."""
    wanted = None if languages is None else tuple(languages)
    tree = Tree(0, str(root.resolve()), "", wanted, tuple(exclude), dataclasses.asdict(rules))
    changes = read_tree(tree, {})
    return [unit for units in changes.entries.values() for unit in units], changes.report
