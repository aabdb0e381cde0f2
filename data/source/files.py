"""Which files of a source tree are source: not ignored, vendored, generated, minified, binary or huge."""

import logging
import os
import re
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from pathspec import GitIgnoreSpec

from mose.data.source.languages import language_of, languages

logger = logging.getLogger(__name__)

MAX_FILE_BYTES = 1_000_000
_SKIPPED_FOLDERS = {
    *(".git", ".hg", ".svn", ".bzr", "CVS", "_darcs"),
    *(
        ".venv",
        "venv",
        "virtualenv",
        ".tox",
        ".nox",
        "site-packages",
        "dist-packages",
        ".eggs",
        "__pycache__",
    ),
    *(
        "node_modules",
        "bower_components",
        "vendor",
        "_vendor",
        "vendored",
        "third_party",
        "thirdparty",
        "Godeps",
    ),
}
_GENERATED = re.compile(
    rb"@generated\b|\bDO NOT (?:EDIT|MODIFY)\b|(?i:\bauto(?:matically |-)?generated\b)"
    rb"|(?i:\bthis (?:file|code) (?:is|was|has been) generated\b)"
    rb"|^\W*(?:Code |File |Source )?[Gg]enerated (?:by|from|with|using)\b",
    re.MULTILINE,
)
_REPOSITORY_FILES = (
    *(
        ".git",
        ".hg",
        ".svn",
        "pyproject.toml",
        "setup.py",
        "setup.cfg",
        "PKG-INFO",
        "package.json",
        "pom.xml",
    ),
    *(
        "build.gradle",
        "build.gradle.kts",
        "go.mod",
        "Cargo.toml",
        "composer.json",
        "Gemfile",
        "CMakeLists.txt",
    ),
    *("configure.ac", "meson.build"),
)


def iter_source_files(root: str | Path, languages: Collection[str] | None = None) -> Iterator[Path]:
    """The source files under a folder, sorted by path.

    `.gitignore` files at and below `root` are honoured; folders of version control, virtual environments,
    installed and vendored packages are passed over (unless `root` itself is one), as are symbolic links and
    files that are unreadable, binary, generated, minified, or larger than 1 MB.

    Args:
        root: A folder, or one file.
        languages: The languages wanted, all that can be read by default.

    Raises:
        ValueError: `root` does not exist, or a language is unknown.
    """
    for path in candidate_files(root, languages):
        try:
            reason = rejection(path, path.read_bytes() if path.stat().st_size <= MAX_FILE_BYTES else None)
        except OSError as error:
            reason = str(error)
        if reason is None:
            yield path
        else:
            logger.debug("%s: skipped: %s", path, reason)


def candidate_files(
    root: str | Path,
    wanted: Collection[str] | None = None,
    on_error: Callable[[OSError], None] | None = None,
) -> Iterator[Path]:
    """`iter_source_files` before it looks inside; `on_error` is told of folders that can't be read."""
    root = Path(root)
    if unknown := set(wanted or ()) - set(languages()):
        raise ValueError(f"languages={sorted(unknown)}: those that can be read are {', '.join(languages())}")
    if not root.exists():
        raise ValueError(f"source tree {str(root)!r} does not exist")
    if root.is_file():
        if _is_wanted(root, wanted):
            yield root
        return
    yield from _walk(root, "", (), wanted, on_error or (lambda error: logger.warning("skipped: %s", error)))


def rejection(path: Path, data: bytes | None) -> str | None:
    """Why a file is not read ("too large", "binary", "minified", "generated"), or None.

    Args:
        path: The file.
        data: Its contents; None for a file beyond `MAX_FILE_BYTES`.
    """
    if data is None or len(data) > MAX_FILE_BYTES:
        return "too large"
    if b"\0" in data[:8192]:
        return "binary"
    if ".min." in path.name or len(data) > 200 * (data.count(b"\n") + 1) + 2000:
        return "minified"
    return "generated" if _GENERATED.search(data, 0, 2048) else None


def repository_of(root: Path, path: Path) -> str:
    """The project that a file belongs to.

    It is `root` by name where that is a repository; else the first part of the path below `root`, as in a
    folder of packages.
    """
    if root.is_file():
        return root.stem
    if any((root / name).exists() for name in _REPOSITORY_FILES):
        return root.resolve().name
    first, *rest = path.relative_to(root).parts
    return first if rest else Path(first).stem


def _is_wanted(path: Path, wanted: Collection[str] | None) -> bool:
    language = language_of(path)
    # A header counts as C by name and may turn out to be C++.
    return language is not None and (
        wanted is None or language in wanted or (path.suffix == ".h" and "cpp" in wanted)
    )


def _walk(
    root: Path,
    below: str,
    specs: tuple[tuple[str, GitIgnoreSpec], ...],
    wanted: Collection[str] | None,
    on_error: Callable[[OSError], None],
) -> Iterator[Path]:
    try:
        with os.scandir(root / below) as scan:
            entries = sorted(scan, key=lambda entry: entry.name)
    except OSError as error:
        on_error(error)
        return
    names = {entry.name for entry in entries}
    if below and "pyvenv.cfg" in names:
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
                yield from _walk(root, relative + "/", specs, wanted, on_error)
        elif entry.is_file() and _is_wanted(root / relative, wanted) and not _is_ignored(relative, specs):
            yield root / relative


def _is_ignored(relative: str, specs: tuple[tuple[str, GitIgnoreSpec], ...]) -> bool:
    """The deepest `.gitignore` that has a rule for a path decides."""
    for below, spec in specs:
        decision = spec.check_file(relative.removeprefix(below)).include
        if decision is not None:
            return decision
    return False
