"""Find the source files of a folder: not ignored, vendored, generated, minified, binary or huge."""

import logging
import os
import re
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from pathspec import GitIgnoreSpec

from mose.data.source.languages import language_of, supported_languages

logger = logging.getLogger(__name__)

MAX_FILE_BYTES = 1_000_000
_SKIPPED_FOLDERS = {
    ".git", ".hg", ".svn", ".bzr", "CVS", "_darcs", ".venv", "venv", "virtualenv", ".tox", ".nox",
    "site-packages", "dist-packages", ".eggs", "__pycache__", "node_modules", "bower_components", "vendor",
    "_vendor", "vendored", "third_party", "thirdparty", "Godeps",
}  # fmt: skip
#: A folder that holds one of these is a repository.
_REPOSITORY_FILES = (
    ".git", ".hg", ".svn", "pyproject.toml", "setup.py", "setup.cfg", "PKG-INFO", "package.json", "pom.xml",
    "build.gradle", "build.gradle.kts", "go.mod", "Cargo.toml", "composer.json", "Gemfile", "CMakeLists.txt",
    "configure.ac", "meson.build",
)  # fmt: skip
_GENERATED = re.compile(
    rb"@generated\b|\bDO NOT (?:EDIT|MODIFY)\b|(?i:\bauto(?:matically |-)?generated\b)"
    rb"|(?i:\bthis (?:file|code) (?:is|was|has been) generated\b)"
    rb"|^\W*(?:Code |File |Source )?[Gg]enerated (?:by|from|with|using)\b",
    re.MULTILINE,
)


class SkippedFileError(Exception):
    """A file that is not read as source.

    Its text is the system's or the parser's message if there is one, else the reason.

    Attributes:
        reason: such as "unreadable", "too large", "binary", "minified" or "generated".
    """

    def __init__(self, reason: str, message: str = ""):
        super().__init__(message or reason)
        self.reason = reason


def iter_source_files(root: str | Path, languages: Collection[str] | None = None) -> Iterator[Path]:
    """Yield the source files under a folder, sorted by path.

    `.gitignore` files at and below `root` are honoured. Skipped are folders of version control, virtual
    environments, installed and vendored packages (unless `root` itself is one), symbolic links, and files that
    are unreadable, binary, generated, minified, or larger than 1 MB.

    Args:
        root: a folder, or one file.
        languages: the languages to include; None for all that can be read.

    Raises:
        ValueError: `root` does not exist, or a language is unknown.
    """
    for path in candidate_files(root, languages):
        try:
            read_source_file(path)
        except SkippedFileError as skipped:
            logger.debug("%s: skipped: %s", path, skipped)
        else:
            yield path


def candidate_files(
    root: str | Path,
    languages: Collection[str] | None = None,
    on_error: Callable[[OSError], None] | None = None,
) -> Iterator[Path]:
    """Yield the files that `iter_source_files` looks into, without opening them.

    The other arguments and errors are those of `iter_source_files`. `on_error` is called for every folder that
    cannot be read; None logs a warning.
    """
    root = Path(root)
    if unknown := set(languages or ()) - set(supported_languages()):
        raise ValueError(f"languages must be among {', '.join(supported_languages())}, got {sorted(unknown)}.")
    if not root.exists():
        raise ValueError(f"source tree {str(root)!r} does not exist")

    if root.is_file():
        if _is_included(root, languages):
            yield root
        return

    on_error = on_error or (lambda error: logger.warning("skipped: %s", error))
    yield from _walk_folder(root, "", (), languages, on_error)


def read_source_file(path: Path) -> bytes:
    """Return the content of a source file.

    Raises:
        SkippedFileError: the file is unreadable, too large, binary, minified or generated.
    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise SkippedFileError("too large")
        data = path.read_bytes()
    except OSError as error:
        raise SkippedFileError("unreadable", str(error)) from error

    # Like Git: a NUL byte near the start means binary.
    if b"\0" in data[:8192]:
        raise SkippedFileError("binary")
    if ".min." in path.name or len(data) > 200 * (data.count(b"\n") + 1) + 2000:
        raise SkippedFileError("minified")
    if _GENERATED.search(data, 0, 2048):
        raise SkippedFileError("generated")
    return data


def repository_of(root: Path, path: Path) -> str:
    """Return the name of the repository that a file belongs to.

    It is the name of `root` if that is a repository; else the first part of the path below `root`, as in a folder
    of packages.
    """
    if root.is_file():
        return root.stem
    if any((root / name).exists() for name in _REPOSITORY_FILES):
        return root.resolve().name
    first, *rest = path.relative_to(root).parts
    return first if rest else Path(first).stem


def path_below(root: Path, path: Path) -> str:
    """Return a file's path relative to its tree, with forward slashes; the name of a tree that is one file."""
    return path.name if path == root else path.relative_to(root).as_posix()


def _is_included(path: Path, languages: Collection[str] | None) -> bool:
    language = language_of(path)
    # A header counts as C by its name, and may turn out to be C++.
    return language is not None and (
        languages is None or language in languages or (path.suffix == ".h" and "cpp" in languages)
    )


def _walk_folder(
    root: Path,
    below: str,
    specs: tuple[tuple[str, GitIgnoreSpec], ...],
    languages: Collection[str] | None,
    on_error: Callable[[OSError], None],
) -> Iterator[Path]:
    """Yield the candidates under `root / below`; `specs` are the `.gitignore` files that apply, deepest first."""
    try:
        with os.scandir(root / below) as scan:
            entries = sorted(scan, key=lambda entry: entry.name)
    except OSError as error:
        on_error(error)
        return

    # The rules of a folder also apply to its own entries, so read them first.
    names = {entry.name for entry in entries}
    if below and "pyvenv.cfg" in names:  # a virtual environment, whatever its name
        return

    if ".gitignore" in names:
        try:
            text = (root / below / ".gitignore").read_text(errors="replace")
            specs = ((below, GitIgnoreSpec.from_lines(text.splitlines())), *specs)
        except (OSError, ValueError) as error:
            logger.warning("%s/.gitignore: not read: %s", root / below, error)

    for entry in entries:
        relative = below + entry.name
        if entry.is_symlink():
            continue
        if entry.is_dir():
            if entry.name not in _SKIPPED_FOLDERS and not _is_ignored(relative + "/", specs):
                yield from _walk_folder(root, relative + "/", specs, languages, on_error)
        elif entry.is_file() and _is_included(root / relative, languages) and not _is_ignored(relative, specs):
            yield root / relative


def _is_ignored(relative: str, specs: tuple[tuple[str, GitIgnoreSpec], ...]) -> bool:
    """Return the decision of the deepest `.gitignore` that has a rule for the path."""
    for below, spec in specs:
        decision = spec.check_file(relative.removeprefix(below)).include
        if decision is not None:
            return decision
    return False
