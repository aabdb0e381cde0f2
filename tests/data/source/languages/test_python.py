"""What is read in Python."""

from listed_units import list_units

SOURCE = r'''"""Shelves for books."""

import os
from dataclasses import dataclass

WIDTH = 80

type Books[T] = list[T]


@dataclass(frozen=True)
class Shelf[T]:
    """Holds books.

    Attributes:
        width: its width.
    """

    width: int = 80

    def __init__(self, width):
        """Make a shelf."""
        self.width = width

    @property
    def room(self) -> int:
        return self.width

    @staticmethod
    async def fetch(url, *, retries=3):
        """Fetch books from `url`."""

        def attempt():
            """Not a unit of its own."""
            return url

        return await attempt()

    class Cursor:
        def next(self): return 1

    if os.name == "nt":

        def path(self):
            "Where it is."


def longest(books: "list[str]", key=lambda book: len(book)):
    r"""Return the longest of \d books."""
    return max(books, key=key)


try:
    from fast import sort
except ImportError:

    def sort(books):
        return sorted(books)
'''
#: Lines, kind, qualified name and first line of the documentation of each unit.
EXPECTED = [
    ("1-54", "file", "FILE", "Shelves for books."),
    ("8-8", "type", "Books", ""),
    ("11-45", "class", "Shelf", "Holds books."),
    ("21-23", "constructor", "Shelf.__init__", "Make a shelf."),
    ("25-27", "method", "Shelf.room", ""),
    ("29-37", "method", "Shelf.fetch", "Fetch books from `url`."),
    ("39-40", "class", "Shelf.Cursor", ""),
    ("40-40", "method", "Shelf.Cursor.next", ""),
    ("44-45", "method", "Shelf.path", "Where it is."),
    ("48-50", "function", "longest", "Return the longest of \\d books."),
    ("57-58", "function", "sort", ""),
]


def test_every_definition_is_a_unit():
    assert list_units(SOURCE, "python") == EXPECTED
