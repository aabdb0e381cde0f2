"""Reading the functions of a source tree, with unchanged files taken from the previous index."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import pathspec
from tqdm import tqdm

from mose.data.source.definitions import extract_functions
from mose.data.source.files import iter_source_files
from mose.data.source.languages import language_of
from mose.search.store import Entry, Generation


class TreeContents(NamedTuple):
    """Everything indexed of a source tree."""

    entries: list[Entry]
    files: dict[str, str]  # path -> SHA-256
    skipped: list[str]  # paths of files that could not be parsed
    parsed: int  # number of files that had to be parsed


def read_tree(
    tree: Path,
    previous: Generation | None,
    languages: Sequence[str] | None,
    exclude: Iterable[str],
    progress: bool,
) -> TreeContents:
    """Return the functions of a source tree.

    Args:
        tree: root folder.
        previous: index whose functions are reused for unchanged files; None parses everything.
        languages: languages to read; None means all.
        exclude: patterns of paths to leave out, as lines of a `.gitignore` at the root.
        progress: show a bar on stderr.
    """
    known: dict[str, list[Entry]] = defaultdict(list)
    for entry in previous.entries() if previous else ():
        known[entry.path].append(entry)

    excluded = pathspec.GitIgnoreSpec.from_lines(exclude)
    sources = iter_source_files(tree, languages)
    sources = (file for file in sources if not excluded.match_file(file.relative_to(tree)))
    entries: list[Entry] = []
    files: dict[str, str] = {}
    skipped: list[str] = []
    parsed = 0

    for file in tqdm(sources, "Reading", unit=" files", disable=not progress):
        path, data = _portable_path(file.relative_to(tree)), file.read_bytes()
        language = language_of(file, data)
        # The content may change the language that the suffix has: a C header may turn out to be C++.
        if language is None or (languages and language not in languages):
            continue

        files[path] = hashlib.sha256(data).hexdigest()
        if previous and previous.meta.files.get(path) == files[path]:
            entries += known[path]
            skipped += [path] if path in previous.meta.skipped else []
            continue

        parsed += 1
        try:
            functions = extract_functions(data, language)
        except UnicodeDecodeError:
            skipped.append(path)
        else:
            entries += [Entry(path, *(getattr(f, name) for name in Entry._fields[1:])) for f in functions]

    return TreeContents(entries, files, skipped, parsed)


def _portable_path(path: Path) -> str:
    """Return a path with forward slashes and valid Unicode; undecodable bytes become escapes."""
    return path.as_posix().encode(errors="surrogateescape").decode(errors="backslashreplace")
