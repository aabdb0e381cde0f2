"""Finding code by code: the source of a fragment, copies of a function, the same in another language.

Three signals are added. Embeddings find code that does the same, in any language. Shared sequences of tokens,
with all names alike, find copies whose names have changed. Shared words find copies that keep their names. Each
is in [0, 1], and so is their weighted sum, the score. A unit that holds a fragment gets at least 0.5, the weights
of structure and words.
"""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mose.data.source.shapes import shape_of
from mose.search.display import Results
from mose.search.filters import check_limits, matching_rows
from mose.search.hits import Hit
from mose.search.progress import BuildProgress
from mose.search.ranking.files import repeats
from mose.search.ranking.ranker import Parts, best_rows_by
from mose.search.shape_table import ShapeTable, shape_table

if TYPE_CHECKING:
    from mose.search.index import Index
    from mose.search.records import Entry

#: Weights of the three signals (`benchmarks/fragments.py`).
DENSE, STRUCTURE, WORDS = 0.5, 0.35, 0.15


class CodeQuery(NamedTuple):
    """Code to find the like of, and where it comes from if it is a part of the index."""

    code: str
    language: str = ""  # "" if unknown
    root: str = ""
    path: str = ""
    start_line: int = 0
    end_line: int = 0
    name: str = ""

    def holds(self, root: str, path: str, start_line: int, end_line: int) -> bool:
        """Return whether a unit is the one that was asked about, around it, or in it."""
        same_file = bool(self.path) and (self.root, self.path) == (root, path)
        return same_file and start_line <= self.end_line and self.start_line <= end_line


def find_similar(
    index: "Index",
    query: "CodeQuery | str",
    top_k: int = 5,
    *,
    files: bool = False,
    min_score: float = 0.0,
    languages: Sequence[str] | None = None,
    paths: Sequence[str] | None = None,
    kinds: Sequence[str] | None = None,
    progress: BuildProgress = False,
) -> Results[Hit]:
    """Return the units that are most similar to code, best first.

    Args:
        index: what to search.
        query: the code, or from `unit_at` a unit of the index, which is left out of the answer.
        top_k: maximum number of hits.
        files: return the best unit of each file alone.
        min_score: leave out hits with a lower score, in [0, 1].
        languages: units in these languages alone.
        paths: units of files that match one of these patterns alone, written as in a `.gitignore`.
        kinds: units of these kinds alone, see `mose.data.source.units.KINDS`.
        progress: show a bar on stderr, or report to a function, while the first call makes a table of the units.

    Raises:
        ValueError: there is no code, `top_k` is below 1, `min_score` is not in [0, 1], or there is no such
            language or kind.
        SearchIndexError: the model returns NaN, or the index is damaged.
    """
    query = CodeQuery(query) if isinstance(query, str) else query
    if not query.code.strip():
        raise ValueError("there is no code to compare with. Pass the lines of a function, or a part of one.")
    check_limits(top_k, min_score)

    snapshot = index.snapshot
    rows = matching_rows(snapshot.units, languages, paths, kinds)
    rows = np.arange(len(snapshot)) if rows is None else rows
    if query.path:
        places = zip(*(snapshot.units.column(name) for name in CodeQuery._fields[2:6]), strict=True)
        itself = np.fromiter((query.holds(*place) for place in places), bool, len(snapshot))
        rows = rows[~itself[rows]]
    if not len(rows):
        return Results()

    similarities = snapshot.vectors @ index.embed_snippet(query.code, query.language)
    dense = DENSE * np.maximum(similarities, 0)
    structure = STRUCTURE * shared_structure(
        shape_table(snapshot.units, progress), snapshot.units.column("language"), query.code
    )
    words = WORDS * snapshot.terms.match(query.code)[1]
    scores = np.minimum(dense + structure + words, 1.0)

    catalogue = snapshot.catalogue
    order = rows[best_rows_by(scores[rows], len(rows) if files else top_k, catalogue.position[rows])]
    order = order[repeats(catalogue.file_of[order]) == 0][:top_k] if files else order
    order = order[scores[order] >= min_score]
    return Results(
        Hit(
            score=float(scores[row]),
            similarity=float(similarities[row]),
            parts=_parts_of(float(dense[row]), float(words[row]), float(structure[row])),
            **unit._asdict(),
        )
        for row, unit in zip(order.tolist(), snapshot.units.take(order.tolist()), strict=True)
    )


def shared_structure(table: ShapeTable, languages: Sequence[str], code: str) -> np.ndarray:
    """Return which share of the code's sequences of tokens each unit has, (units,) float32 in [0, 1].

    The keywords are those of each unit's own language, so that nobody has to know that of a fragment.

    Args:
        table: the shapes of the units.
        languages: that of each unit.
        code: what to compare with.
    """
    columns = np.array(languages, object)
    result = np.zeros(len(table), np.float32)
    for language in sorted(set(languages)):
        is_in = columns == language
        result[is_in] = table.shares(shape_of(code, language))[is_in]
    return result


def _parts_of(dense: float, words: float, structure: float) -> Parts:
    nothing = Parts(dense=0, lexical=0, definition=0, name=0, file_name=0, path=0, role=1, agreement=0, repeat=1)
    return nothing._replace(dense=dense, lexical=words, structure=structure)


def unit_at(index: "Index", location: str) -> CodeQuery:
    """Return the innermost unit of an index around a line.

    Args:
        index: the index.
        location: `FILE:LINE`, with a path that exists or one relative to an indexed tree. Lines count from 1.

    Raises:
        ValueError: it is no location, the file is not in the index, or no unit has the line.
    """
    name, _, number = location.rpartition(":")
    if not name or not number.isdecimal() or int(number) < 1:
        raise ValueError(f"the location must be FILE:LINE, got {location!r}. Example: src/server.py:42.")
    line = int(number)

    units = _units_of_file(index, name)
    around = [unit for unit in units if unit.start_line <= line <= unit.end_line]
    if not around:
        raise ValueError(f"{name}:{line} is in no function, class or other unit. {_nearest_unit(units, line)}")
    # Of units around a line, the innermost is the shortest. The file itself comes last.
    unit = min(around, key=lambda unit: (unit.kind == "file", unit.end_line - unit.start_line))
    place = {name: getattr(unit, name) for name in CodeQuery._fields[1:6]}
    return CodeQuery(unit.source, **place, name=unit.qualified_name)


def _units_of_file(index: "Index", name: str) -> "list[Entry]":
    """Return the units of a file that exists, or of one with that path in a tree."""
    roots = [tree.root for tree in index.trees]
    file = Path(name).resolve()
    inside = [root for root in roots if file.is_relative_to(root)] if file.exists() else []
    # Of trees that contain each other, the innermost has the file.
    places = [(max(inside, key=len), file.relative_to(max(inside, key=len)).as_posix())] if inside else []
    places += [(root, PurePosixPath(name.replace("\\", "/")).as_posix()) for root in roots]

    for root, path in places:
        if units := [unit for unit in index.units_of(path) if unit.root == root]:
            return units
        if (root, path) in index.files:
            raise ValueError(f"{name} has no units: nothing in it is code outside of imports and comments.")
    reason = "the index does not have it" if file.exists() else "no such file"
    raise ValueError(f"{name}: {reason}. It has the code of {', '.join(roots)}; `--code -` takes any other code.")


def _nearest_unit(units: "list[Entry]", line: int) -> str:
    def distance(unit: "Entry") -> int:
        return max(unit.start_line - line, line - unit.end_line)

    unit = min(units, key=distance)
    return f"The nearest is {unit.qualified_name} in lines {unit.start_line} to {unit.end_line}."
