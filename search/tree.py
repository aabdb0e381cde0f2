"""Reading the functions of a source tree, with unchanged files taken from the previous index."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import pathspec
from tqdm import tqdm

from mose.data.source.definitions import ParseError, extract_functions
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

    Raises:
        ValueError: a language is unknown.
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
        if language is None or (languages and language not in languages):  # a C header may turn out to be C++
            continue

        files[path] = hashlib.sha256(data).hexdigest()
        if previous and previous.meta.files.get(path) == files[path]:
            entries += known[path]
            skipped += [path] if path in previous.meta.skipped else []
            continue

        parsed += 1
        try:
            entries += _functions(path, data, language)
        except ParseError:
            skipped.append(path)

    return TreeContents(entries, files, skipped, parsed)


def _functions(path: str, data: bytes, language: str) -> list[Entry]:
    functions = extract_functions(data, language)
    return [Entry(path, *(getattr(function, name) for name in Entry._fields[1:])) for function in functions]


def _portable_path(path: Path) -> str:
    """Return a path with forward slashes and valid Unicode; undecodable bytes become escapes."""
    return path.as_posix().encode(errors="surrogateescape").decode(errors="backslashreplace")
