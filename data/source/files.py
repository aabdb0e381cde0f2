"""Find and read the source files of a folder: what git would show of it, decoded."""

import codecs
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from mose.data.source.decoding import UndecodableError, decode_source
from mose.data.source.ignoring import (
    UnusualTreeError,
    has_unusual_excludes,
    is_unusual,
    repository_top,
    tracked_paths,
    visible_paths,
)
from mose.data.source.languages import (
    NOTEBOOK_EXTENSION,
    TEXT,
    language_of,
    readable_languages,
    supported_languages,
)
from mose.data.source.notebooks import notebook_source
from mose.data.source.report import (
    OtherLanguageError,
    ReadingReport,
    SkippedFileError,
    extension_of,
    portable_name,
)
from mose.data.source.rules import (
    DEFAULT_RULES,
    NEVER_READ,
    VENDORED_FOLDERS,
    VIRTUAL_ENVIRONMENT_FILE,
    ReadingRules,
    is_generated,
    is_minified,
)

#: A folder that holds one of these is a repository.
_REPOSITORY_FILES = (
    ".git", ".hg", ".svn", "pyproject.toml", "setup.py", "setup.cfg", "PKG-INFO", "package.json", "pom.xml",
    "build.gradle", "build.gradle.kts", "go.mod", "Cargo.toml", "composer.json", "Gemfile", "CMakeLists.txt",
    "configure.ac", "meson.build",
)  # fmt: skip


@dataclass(frozen=True)
class SourceFile:
    r"""A source file as it was read.

    Attributes:
        path: where it is.
        language: its language, by its name and content, one of `readable_languages()`.
        source: its text, or the code of a notebook, in UTF-8, without a byte order mark, with `\n` at the ends of
            lines.
        encoding: Python's name of the encoding that the file is in.
    """

    path: Path
    language: str
    source: bytes
    encoding: str

    @property
    def text(self) -> str:
        """The text."""
        return self.source.decode()


def iter_sources(
    root: str | Path,
    languages: Collection[str] | None = None,
    rules: ReadingRules = DEFAULT_RULES,
    report: ReadingReport | None = None,
) -> Iterator[SourceFile]:
    """Yield the source files under a folder, sorted by path.

    Read is what git would show: tracked files, and files that no pattern of an ignore file matches. Symbolic
    links are not followed. Left out are folders of vendored packages (unless `root` itself is one), virtual
    environments, and files that are generated, minified, too large, binary or unreadable.

    Args:
        root: a folder, or one file.
        languages: the languages to include; None for all in which definitions are read, so not "text".
        rules: which of the rules above apply.
        report: updated with what was read and left out.

    Raises:
        ValueError: `root` does not exist, or a language is unknown.
    """
    report = ReadingReport() if report is None else report
    for path in candidate_files(root, languages, rules, report):
        with report.guard(path):
            file = read_source(path, rules, languages)
            report.read[file.language] += 1
            yield file


def candidate_files(
    root: str | Path,
    languages: Collection[str] | None = None,
    rules: ReadingRules = DEFAULT_RULES,
    report: ReadingReport | None = None,
) -> Iterator[Path]:
    """Yield the files that `iter_sources` reads, by their names and their `#!` lines. Arguments as there."""
    root = Path(root)
    languages = supported_languages() if languages is None else languages
    if unknown := set(languages) - set(readable_languages()):
        raise ValueError(f"languages must be among {', '.join(readable_languages())}, got {sorted(unknown)}.")
    if not root.exists():
        raise ValueError(f"source tree {str(root)!r} does not exist")

    report = ReadingReport() if report is None else report
    if not root.is_dir():
        if _is_included(str(root), root.name, languages, report):
            yield root
        return

    try:
        paths, seen = _Listing(root, languages, rules, in_copy=False).run()
    except UnusualTreeError:
        paths, seen = _Listing(root, languages, rules, in_copy=True).run()
    report.update(seen)
    yield from (root / path for path in paths)


def read_source(
    path: Path, rules: ReadingRules = DEFAULT_RULES, languages: Collection[str] | None = None
) -> SourceFile:
    """Return a source file, decoded.

    Args:
        path: the file.
        rules: which files to refuse.
        languages: the languages to include; None for all that can be read.

    Raises:
        SkippedFileError: the file is unreadable, too large, binary, minified or generated, or not in a language
            that is included.
    """
    data = _read_bytes(path, rules)
    try:
        text, encoding = decode_source(data)
    except UndecodableError as error:
        raise SkippedFileError("binary", str(error)) from error

    language: str | None
    if path.suffix.lower() == NOTEBOOK_EXTENSION:
        language, text = notebook_source(text)
        source = text.encode()
    else:
        # Most files are what they should be already, and are not encoded again.
        is_plain = encoding == "utf-8" and b"\r" not in data and not data.startswith(codecs.BOM_UTF8)
        source = data if is_plain else text.encode()
        language = language_of(path, source)

    if language is None or (languages is not None and language not in languages):
        raise OtherLanguageError(language)
    # A paragraph of prose may be one long line.
    if language != TEXT and not rules.include_minified and is_minified(source, language, path.name):
        raise SkippedFileError("minified")
    if not rules.include_generated and is_generated(source, language):
        raise SkippedFileError("generated")
    return SourceFile(path, language, source, encoding)


def _read_bytes(path: Path, rules: ReadingRules) -> bytes:
    """Return the content of a file that is not too large."""
    try:
        with path.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            data = stream.read(size) if size <= rules.max_file_bytes else b""
    except FileNotFoundError as error:
        raise SkippedFileError("vanished", str(error)) from error
    except OSError as error:
        raise SkippedFileError("unreadable", error.strerror or str(error)) from error
    if size > rules.max_file_bytes:
        raise SkippedFileError("too large", f"{size:,} bytes")
    return data


def repository_of(root: Path, path: Path) -> str:
    """Return the name of the repository that a file belongs to.

    It is the name of `root` if that is a repository; else the first part of the path below `root`, as in a folder
    of packages.
    """
    if not root.is_dir():
        return portable_name(root.stem)
    if any((root / name).exists() for name in _REPOSITORY_FILES):
        return portable_name(root.resolve().name)
    first, *rest = path.relative_to(root).parts
    return portable_name(first if rest else Path(first).stem)


def path_below(root: Path, path: Path) -> str:
    """Return a file's path relative to its tree, with forward slashes; the name of a tree that is one file.

    Bytes that are not UTF-8 become escapes.
    """
    return portable_name(path.name if path == root else path.relative_to(root))


def _is_included(path: str, name: str, languages: Collection[str], report: ReadingReport) -> bool:
    """Return whether a file is in a language that is included; count it if not."""
    extension, language = extension_of(name), language_of(name)
    if language is None and extension == "without extension":
        language = _language_of_script(path)

    # Some names leave the language open: a header counts as C and may turn out to be C++.
    is_open = extension == NOTEBOOK_EXTENSION or (extension == ".h" and "cpp" in languages)
    if language is None and not is_open:
        report.other_files[extension] += 1
    elif language in languages or is_open:
        return True
    elif language is not None:
        report.unasked[language] += 1
    return False


def _language_of_script(path: str) -> str | None:
    """Return the language of a file without an extension by its `#!` line."""
    try:
        with Path(path).open("rb", buffering=0) as stream:
            start = stream.read(256)
    except OSError:
        return None
    return language_of(path, start) if start.startswith(b"#!") else None


class _Place(NamedTuple):
    """The place of an entry, as paths below the root."""

    scope: str  # key of `_Listing.visible`
    repository: str | None  # the nearest folder of a git repository; None outside of any


class _Listing:
    """One pass over a tree: finds the files to read, and counts the others.

    Args:
        root: the folder.
        languages: the languages to include.
        rules: which folders to read.
        in_copy: match git's patterns in a copy of the tree, which has unusual names or patterns.
    """

    def __init__(self, root: Path, languages: Collection[str], rules: ReadingRules, in_copy: bool):
        self.root, self.languages, self.in_copy = root, languages, in_copy
        self.closed = frozenset() if rules.include_vendored else VENDORED_FOLDERS
        self.include_environments = rules.include_vendored
        self.report = ReadingReport()

        self.real_root = root.resolve()
        #: Scope of patterns, as a path below the root -> the paths in it that they do not match.
        self.visible = {"": visible_paths(self.real_root, NEVER_READ, self.closed, in_copy)}
        #: Repository, as a path below the root -> its tracked files and their folders, read when needed.
        self.tracked: dict[str, set[str]] = {}

    def run(self) -> tuple[list[str], ReadingReport]:
        """Return the paths of the files to read, relative to the root and sorted, and what was left out.

        Raises:
            UnusualTreeError: the patterns of the tree must be matched in a copy.
        """
        paths: list[str] = []
        place = _Place("", "" if repository_top(self.real_root) is not None else None)
        # Not recursive: folders may be nested deeper than Python's stack.
        pending = [iter(self._entries("", place))]
        while pending:
            step = next(pending[-1], None)
            if step is None:
                pending.pop()
                continue

            entry, below, place = step
            try:
                if entry.is_symlink():
                    self._count_link(entry, below, place)
                elif entry.is_dir(follow_symlinks=False):
                    if self._is_entered(entry, below, place):
                        pending.append(iter(self._entries(below, place)))
                elif entry.is_file(follow_symlinks=False) and self._is_wanted(entry, below, place):
                    paths.append(below)
            except OSError as error:
                self.report.count("unreadable", self.root / below, error.strerror or str(error))
        return paths, self.report

    def _entries(self, below: str, place: _Place) -> list[tuple[os.DirEntry, str, _Place]]:
        """Return the entries of a folder, sorted, with their paths below the root and their place."""
        try:
            with os.scandir(self.real_root / below) as scan:
                entries = sorted(scan, key=lambda entry: entry.name)
        except OSError as error:
            self.report.count("unreadable", self.root / below, error.strerror or str(error))
            return []

        names = {entry.name for entry in entries}
        if VIRTUAL_ENVIRONMENT_FILE in names and below and not self.include_environments:
            self.report.count("virtual environment", self.root / below)
            return []

        if ".gitignore" in names:
            self._check_rules(self.real_root / below / ".gitignore")
        if ".git" in names and below:
            place = self._enter_repository(below, place)
        prefix = f"{below}/" if below else ""
        return [(entry, prefix + entry.name, place) for entry in entries if entry.name not in NEVER_READ]

    def _enter_repository(self, below: str, place: _Place) -> _Place:
        if self.in_copy:
            return place._replace(repository=below)
        if has_unusual_excludes(self.real_root / below):
            raise UnusualTreeError(below)
        if place.repository is not None:
            return place._replace(repository=below)

        # The first repository of a folder of several: patterns from around it do not apply.
        self.visible[below] = visible_paths(self.real_root / below, NEVER_READ, self.closed)
        return _Place(below, below)

    def _check_rules(self, path: Path) -> None:
        try:
            path.open("rb").close()
        except IsADirectoryError:
            return
        except OSError as error:
            self.report.count("unreadable", path, error.strerror or str(error))
        if not self.in_copy and is_unusual(path):
            raise UnusualTreeError(path)

    def _is_entered(self, entry: os.DirEntry, below: str, place: _Place) -> bool:
        if not self._is_shown(below, place):
            return False
        if entry.name in self.closed:
            self.report.count("vendored", self.root / below)
            return False
        return True

    def _is_wanted(self, entry: os.DirEntry, below: str, place: _Place) -> bool:
        if not self._is_shown(below, place):
            return False
        return _is_included(entry.path, entry.name, self.languages, self.report)

    def _count_link(self, entry: os.DirEntry, below: str, place: _Place) -> None:
        if self._is_visible(below, place) and (language_of(entry.name) or entry.is_dir()):
            self.report.count("symbolic link", self.root / below)

    def _is_visible(self, below: str, place: _Place) -> bool:
        path = below.removeprefix(f"{place.scope}/") if place.scope else below
        return path in self.visible[place.scope]

    def _is_shown(self, below: str, place: _Place) -> bool:
        """Return whether git shows a path: no pattern matches it, or it is tracked or holds what is."""
        if self._is_visible(below, place):
            return True
        if place.repository is None:
            return False

        if place.repository not in self.tracked:
            tracked = tracked_paths(self.real_root / place.repository)
            folders: set[str] = set()
            for path in tracked:
                while (path := path.rpartition("/")[0]) and path not in folders:
                    folders.add(path)
            self.tracked[place.repository] = tracked | folders
        return below.removeprefix(f"{place.repository}/") in self.tracked[place.repository]
