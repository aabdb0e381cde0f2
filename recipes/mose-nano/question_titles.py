#!/usr/bin/env python
"""Write the titles of published question sets to a text file, one a line, as `recipe.py --questions` reads them.

    python recipes/mose-nano/question_titles.py FILE … [--share 0.3] --output questions.txt

A file is text with a title a line, a table with titles in the first column (.tsv), or a pickled dictionary with
titles as its values (.pickle). README.md names those of the shipped weights.
"""

import argparse
import csv
import pickle
import random
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from mose.utils.command_line import exit_status
from mose.utils.files import atomic_write_text

#: Words of a title that is kept. Shorter ones ask nothing, longer ones are no titles.
WORDS = range(3, 31)
SITE_NOTES = re.compile(r"(\s*\[(duplicate|closed|on hold)\])+$")


class PlainUnpickler(pickle.Unpickler):
    """Reads numbers, texts and their containers alone: a pickle from elsewhere could run code."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        """Refuse every class and function."""
        raise ValueError(f"the pickle wants {module_name}.{global_name}; only numbers and texts are read.")


def read_titles(path: Path) -> Iterator[str]:
    """Yield the titles of a file, as they are.

    Raises:
        ValueError: the file is damaged, or holds something else; the message names it.
    """
    try:
        yield from pickled_titles(path) if path.suffix == ".pickle" else text_titles(path)
    except (ValueError, EOFError, pickle.UnpicklingError, csv.Error) as error:
        raise ValueError(f"{path}: {error}") from error


def pickled_titles(path: Path) -> list[str]:
    """Return the values of a pickled dictionary; ValueError if it is none, or has other values than texts."""
    with path.open("rb") as stream:
        content = PlainUnpickler(stream, encoding="latin1").load()
    if not isinstance(content, dict):
        raise ValueError(
            f"a pickle must be a dictionary with titles as its values, got a {type(content).__name__}."
        )

    titles = list(content.values())
    if kinds := {type(title).__name__ for title in titles if not isinstance(title, str)}:
        raise ValueError(f"the values of the pickle must be texts, got {', '.join(sorted(kinds))}.")
    return titles


def text_titles(path: Path) -> Iterator[str]:
    """Yield the lines of a text, or the first column of a table."""
    with path.open(encoding="utf-8", errors="replace", newline="") as lines:
        # Strict, so that a quotation mark that is never closed does not swallow what follows.
        is_table = path.suffix == ".tsv"
        rows = csv.reader(lines, delimiter="\t", strict=True) if is_table else ([line] for line in lines)
        yield from (row[0] for row in rows if row)


def clean_titles(titles: Iterable[str], share: float, seed: int = 0) -> list[str]:
    """Return a share of the titles that are plain ASCII, each once, without notes such as `[closed]`."""
    if not 0 < share <= 1:
        raise ValueError(f"--share must be in (0, 1], got {share}.")

    distinct: dict[str, str] = {}
    for title in titles:
        text = SITE_NOTES.sub("", " ".join(title.split()))
        if len(text.split()) in WORDS and text.isascii():
            distinct.setdefault(text.lower(), text)

    # Drawn by title, so that the same titles are kept whatever else is in the files.
    return [text for key, text in distinct.items() if random.Random(f"{seed} {key}").random() < share]


def main() -> int:
    """Parse the arguments, write the titles and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help="question set")
    parser.add_argument("--share", type=float, default=1.0, help="share of the titles to keep")
    parser.add_argument("--output", type=Path, required=True, help="text file to write")
    options = parser.parse_args()

    def write() -> None:
        titles = clean_titles((title for path in options.files for title in read_titles(path)), options.share)
        if not titles:
            raise ValueError(f"No title is left: they must have {WORDS[0]} to {WORDS[-1]} words in plain ASCII.")
        atomic_write_text(options.output, "\n".join(titles) + "\n")
        print(f"{len(titles)} titles in {options.output}")

    return exit_status(parser.prog, write)


if __name__ == "__main__":
    sys.exit(main())
