"""Reading the units of a source tree, with unchanged files taken from the previous index."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import pathspec
from tqdm import tqdm

from mose.data.source.definitions import extract_units
from mose.data.source.files import candidate_files, path_below, read_source
from mose.data.source.languages import TEXT
from mose.data.source.report import ReadingReport
from mose.data.source.rules import ReadingRules
from mose.data.source.texts import extract_sections
from mose.search.store import Entry, Generation

#: Longer units are split. A model reads about so much code at once: 512 tokens, prompt included.
MAX_UNIT_CHARACTERS = 2000


class TreeContents(NamedTuple):
    """Everything indexed of a source tree."""

    entries: list[Entry]
    files: dict[str, str]  # path -> SHA-256
    skipped: list[str]  # paths of files that could not be parsed
    parsed: int  # number of files that had to be parsed
    report: ReadingReport  # what was read and left out


def read_tree(
    tree: Path,
    previous: Generation | None,
    languages: Sequence[str] | None,
    exclude: Iterable[str],
    rules: ReadingRules,
    progress: bool,
) -> TreeContents:
    """Return the units of a source tree: functions, classes, and what is outside of them.

    Args:
        tree: root folder.
        previous: index whose units are reused for unchanged files; None parses everything.
        languages: languages to read; None means all but text.
        exclude: patterns of paths to leave out, as lines of a `.gitignore` at the root.
        rules: which files to read of those that git does not ignore.
        progress: show a bar on stderr.
    """
    known: dict[str, list[Entry]] = defaultdict(list)
    for entry in previous.entries() if previous else ():
        known[entry.path].append(entry)

    excluded = pathspec.GitIgnoreSpec.from_lines(exclude)
    report = ReadingReport()
    candidates = list(candidate_files(tree, languages, rules, report))
    sources = [file for file in candidates if not excluded.match_file(file.relative_to(tree))]
    entries: list[Entry] = []
    files: dict[str, str] = {}
    read: set[str] = set()
    parsed = 0

    for file in tqdm(sources, "Reading", unit=" files", disable=not progress):
        with report.guard(file):
            source = read_source(file, rules, languages)
            path = path_below(tree, file)
            files[path] = hashlib.sha256(source.source).hexdigest()
            report.read[source.language] += 1
            if previous and previous.meta.files.get(path) == files[path] and path not in previous.meta.skipped:
                entries += known[path]
                read.add(path)
                continue

            parsed += 1
            if source.language == TEXT:
                units = extract_sections(source.text, file.name, max_characters=MAX_UNIT_CHARACTERS)
            else:
                units = extract_units(
                    source.source,
                    source.language,
                    file_name=file.name,
                    max_characters=MAX_UNIT_CHARACTERS,
                    on_errors=report.error_counter(file),
                )
            read.add(path)
            entries += [Entry(path, *(getattr(unit, name) for name in Entry._fields[1:])) for unit in units]

    skipped = [path for path in files if path not in read]
    return TreeContents(entries, files, skipped, parsed, report)
