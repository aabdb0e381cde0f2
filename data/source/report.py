"""Reports of what was read of source trees, and what was left out for which reason."""

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mose.data.source.languages import supported_languages
from mose.tokenization.prompts import LANGUAGES
from mose.utils.terminal import printable

logger = logging.getLogger(__name__)

#: Reason -> one and several files or folders of that kind, and what to do to have them read.
REASONS: dict[str, tuple[str, str, str]] = {
    "vendored": ("vendored folder", "vendored folders", "--include-vendored reads them"),
    "virtual environment": ("virtual environment", "virtual environments", "--include-vendored reads them"),
    "generated": ("generated file", "generated files", "--include-generated reads them"),
    "minified": ("minified file", "minified files", "--include-minified reads them"),
    "too large": ("too large file", "too large files", "--max-file-size SIZE reads up to SIZE"),
    "binary": ("binary file", "binary files", ""),
    "empty": ("empty file", "empty files", ""),
    "unparsable": ("file that is no notebook", "files that are no notebooks", ""),
    "other language": ("notebook in a language that is not read", "notebooks in languages that are not read", ""),
    "symbolic link": ("symbolic link", "symbolic links", "what they point to is not followed"),
    "unreadable": ("unreadable file or folder", "unreadable files or folders", ""),
    "vanished": ("file that vanished while it was read", "files that vanished while they were read", ""),
    "syntax errors": (
        "file with syntax errors",
        "files with syntax errors",
        "what the parser cannot see is missing",
    ),
    "failed": ("file that could not be read for an error", "files that could not be read for an error", ""),
}

#: Reasons of files that were read all the same.
_READ_IN_PART = frozenset({"syntax errors"})
#: Reasons that nobody expects -> number of files to name even without `verbose`.
_ALWAYS_NAMED = {"unreadable": 5, "failed": 5}


class SkippedFileError(Exception):
    """A file that is not read as source.

    Its text is the system's or the parser's message if there is one, else the reason.

    Attributes:
        reason: a key of `REASONS`, or another noun or adjective.
    """

    def __init__(self, reason: str, message: str = ""):
        super().__init__(message or reason)
        self.reason = reason


class OtherLanguageError(SkippedFileError):
    """A file whose content shows that it is in another language than its name says.

    Attributes:
        language: its language, which was not asked for; None if it is in none that is read.
    """

    def __init__(self, language: str | None):
        super().__init__("other language")
        self.language = language


@dataclass
class ReadingReport:
    """Counts and names of the files that were read, and of those left out.

    Attributes:
        read: number of files read in each language.
        left_out: reason -> path -> detail, of the files and folders left out.
        other_files: number of files by their extension that are in no language that is read.
        unasked: number of files by their language that `languages` leaves out.
    """

    read: Counter[str] = field(default_factory=Counter)
    left_out: dict[str, dict[str, str]] = field(default_factory=dict)
    other_files: Counter[str] = field(default_factory=Counter)
    unasked: Counter[str] = field(default_factory=Counter)

    def count(self, reason: str, path: str | Path, detail: str = "") -> None:
        """Count a file or folder under a reason. It counts once, however often it is met."""
        name = portable_name(path)
        logger.debug("%s: %s%s", name, reason, detail and f": {detail}")
        self.left_out.setdefault(reason, {})[name] = detail

    def error_counter(self, path: str | Path) -> Callable[[int], None]:
        """Return a function that counts a file of which the parser did not understand a number of bytes."""
        return lambda size: self.count("syntax errors", path, f"{size:,} bytes")

    @contextmanager
    def guard(self, path: str | Path) -> Iterator[None]:
        """Count a file that the block cannot read, whatever the exception: one bad file never ends a run."""
        try:
            yield
        except OtherLanguageError as error:
            if error.language is None:
                self.other_files[extension_of(Path(path).name)] += 1
            else:
                self.unasked[error.language] += 1
        except SkippedFileError as error:
            self.count(error.reason, path, "" if str(error) == error.reason else str(error))
        except Exception as error:  # parsers and codecs raise many classes
            self.count("failed", path, f"{type(error).__name__}: {error}".removesuffix(": "))

    def update(self, other: "ReadingReport") -> None:
        """Add the counts and names of another report."""
        self.read.update(other.read)
        self.other_files.update(other.other_files)
        self.unasked.update(other.unasked)
        for reason, names in other.left_out.items():
            self.left_out.setdefault(reason, {}).update(names)

    def number(self, reason: str) -> int:
        """Return the number of files and folders left out for a reason."""
        return len(self.left_out.get(reason, ()))

    def lines(self, verbose: bool = False) -> list[str]:
        """Return one line for each reason; with `verbose`, the names below it."""
        lines = []
        order = [*REASONS, *sorted(self.left_out.keys() - REASONS.keys())]
        for reason in (reason for reason in order if reason in self.left_out):
            names = self.left_out[reason]
            one, several, remedy = REASONS.get(reason, (f"file: {reason}", f"files: {reason}", ""))
            verdict = "read in part" if reason in _READ_IN_PART else "left out"
            text = f"{verdict}: {len(names):,} {one if len(names) == 1 else several}"
            lines.append(text + (f" ({remedy})" if remedy else ""))

            shown = list(names.items())[: None if verbose else _ALWAYS_NAMED.get(reason, 0)]
            details = [detail and f" ({detail})" for _, detail in shown]
            lines += [f"    {printable(name + detail)}" for (name, _), detail in zip(shown, details, strict=True)]
            if 0 < len(shown) < len(names):
                lines.append(f"    … and {len(names) - len(shown):,} more")

        if self.unasked:
            lines.append(f"left out: files in languages not asked for: {_counts(_by_display_name(self.unasked))}")
        if self.other_files:
            lines.append(f"not a source language: {_counts(self.other_files)}")
        return lines

    def as_dict(self) -> dict[str, Any]:
        """Return everything as a document for JSON."""
        left_out = {
            reason: {"count": len(names), "names": names} for reason, names in sorted(self.left_out.items())
        }
        return {
            "read": dict(sorted(self.read.items())),
            "left_out": left_out,
            "languages_not_asked_for": dict(sorted(self.unasked.items())),
            "not_a_source_language": dict(self.other_files.most_common()),
        }

    def explain_empty(self) -> str:
        """Return sentences for a tree in which nothing was found: what is read, and what was seen."""
        read = ", ".join(LANGUAGES.get(language, language) for language in supported_languages())
        seen = [f"read: {_counts(_by_display_name(self.read))}"] if self.read else ["no source file was read"]
        return f"Languages that are read: {read}. What was seen: {'; '.join([*seen, *self.lines()])}."


def extension_of(name: str) -> str:
    """Return the extension of a file's name as reports show it: ".toml", or "without extension"."""
    stem, _, extension = name.rpartition(".")
    return f".{extension.lower()}" if stem and extension else "without extension"


def portable_name(path: str | Path) -> str:
    """Return a path with forward slashes and valid Unicode; bytes that are not UTF-8 become escapes."""
    name = str(path).replace(os.sep, "/")
    return name if name.isascii() else name.encode(errors="surrogateescape").decode(errors="backslashreplace")


def _by_display_name(counts: Counter[str]) -> Counter[str]:
    return Counter({LANGUAGES.get(language, language): number for language, number in counts.items()})


def _counts(counts: Counter[str], most: int = 12) -> str:
    """Return the largest counts with their names: "12 .toml, 3 .yaml"."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    parts = [f"{number:,} {printable(name)}" for name, number in ordered[:most]]
    rest = sum(number for _, number in ordered[most:])
    return ", ".join([*parts, *([f"{rest:,} others"] if rest else [])])
