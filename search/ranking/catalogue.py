"""The indexed units as ranking knows them besides their scores: their places and their names."""

import copy
import re
from collections.abc import Sequence
from pathlib import PurePosixPath

import numpy as np

from mose.data.source.units import FUNCTIONS
from mose.search.ranking.roles import file_roles
from mose.search.ranking.terms import TermIndex, term_lists

#: Kinds of units that are a file or a part of a text, and define nothing.
_NOT_DEFINITIONS = frozenset({"file", "section"})
_ARITY = re.compile(r"`\d+")  # C# files of generic types: `List`1.cs`


class Catalogue:
    """The units of an index by file and by name. Row i is unit i; the order of the rows means nothing.

    Args:
        paths: the file of each unit, relative to the tree, with forward slashes.
        names: bare name of each unit.
        qualified_names: with the definitions around it, joined by dots.
        kinds: kind of each unit, see `mose.data.source.units.KINDS`.
        start_lines: first line of each unit.

    Attributes:
        files: the paths without repetitions.
        file_of: (units,) position of each unit's file in `files`.
        position: (units,) place of each unit by path and line, which decides between equal scores.
        is_type: (units,) classes, interfaces and the like.
        opens: (units,) False for the later parts of a long unit.
        qualified_names: as given.
        rows_by_name: name -> rows of the definitions of that name.
        rows_by_folded_name: the same for `fold_name` of the name.
        name_terms, file_name_terms, path_terms: words of the names of units and files, and of the files' paths.
        roles: from `mose.search.ranking.roles.file_roles`.
    """

    def __init__(
        self,
        paths: Sequence[str],
        names: Sequence[str],
        qualified_names: Sequence[str],
        kinds: Sequence[str],
        start_lines: Sequence[int],
    ):
        places: dict[str, int] = {path: place for place, path in enumerate(sorted(set(paths)))}
        self.files = list(places)
        self.file_of = np.array([places[path] for path in paths], np.intp)

        # Rows of one place differ in their names.
        order = sorted(range(len(paths)), key=lambda row: (paths[row], start_lines[row], qualified_names[row]))
        self.position = np.empty(len(paths), np.intp)
        self.position[order] = np.arange(len(paths))

        defines = np.array([kind not in _NOT_DEFINITIONS for kind in kinds], bool)
        self.is_type = np.array([kind not in _NOT_DEFINITIONS | FUNCTIONS for kind in kinds], bool)
        self.qualified_names = qualified_names
        self.opens = np.zeros(len(paths), bool)
        self.rows_by_name: dict[str, list[int]] = {}
        self.rows_by_folded_name: dict[str, list[int]] = {}
        seen: set[tuple[str, str, str]] = set()
        for row in order:
            key = (paths[row], qualified_names[row], kinds[row])
            self.opens[row] = key not in seen
            seen.add(key)
            if defines[row]:
                self.rows_by_name.setdefault(names[row], []).append(row)
                self.rows_by_folded_name.setdefault(fold_name(names[row]), []).append(row)

        named = [name if defined else "" for name, defined in zip(names, defines.tolist(), strict=True)]
        self.name_terms = TermIndex(term_lists(named))
        stems = [_ARITY.sub("", PurePosixPath(path).stem) for path in self.files]
        self.file_name_terms = TermIndex(term_lists(stems))
        self.path_terms = TermIndex(term_lists(str(PurePosixPath(path).with_suffix("")) for path in self.files))

        counts = np.bincount(self.file_of[defines & self.opens], minlength=len(self.files))
        self.roles = file_roles(self.files, counts.tolist())

    def __len__(self) -> int:
        return len(self.file_of)

    def take(self, rows: np.ndarray) -> "Catalogue":
        """Return the catalogue of some of the units, to rank evidence that was collected for all of them."""
        part = copy.copy(self)
        for name in ("file_of", "position", "is_type", "opens"):
            setattr(part, name, getattr(self, name)[rows])
        part.qualified_names = [self.qualified_names[row] for row in rows.tolist()]
        # Rows have other numbers now, and nothing that is left to do asks for them by name.
        part.rows_by_name, part.rows_by_folded_name = {}, {}
        return part


def fold_name(name: str) -> str:
    """Return a name without case and without the marks around it: `$ZodType` and `_zodtype` are one."""
    return name.strip("$_@?!~").lower()
