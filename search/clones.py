"""Near-duplicates among the units of source trees: copies, edited copies, renamed ones, and translations.

The similarity of two units is the mean of two figures in [0, 1]: the words that they share, and what they do
alike. The latter is the share of common sequences of tokens within a language, whatever the names, and the cosine
similarity of the embeddings across languages. So neither boilerplate with other words nor prose about the same
subject is a clone.
"""

import dataclasses
import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from mose.data.source.near_duplicates import similar_sets
from mose.data.source.shapes import shape_of, tokens_of
from mose.search.display import Results, list_html, place_of
from mose.search.lexical import TermCounter
from mose.search.records import Entry
from mose.search.tree import MAX_UNIT_CHARACTERS

#: Similarity from which two units are clones.
CLONE_THRESHOLD = 0.6
#: Shorter units are alike by chance.
MIN_CLONE_TOKENS = 50
#: Units of one language are compared if they share so much of their structure.
_LEAST_STRUCTURE = 0.4
#: Units of two languages are compared if each is among so many that are most similar to the other.
_NEIGHBOURS = 3
#: Rows of the matrix of similarities that are in memory at a time.
_BLOCK = 1024

#: Position of two units -> their similarity. The first position is the lower one.
Pairs = dict[tuple[int, int], float]


@dataclasses.dataclass(frozen=True, repr=False)
class CloneGroup:
    """Units of which each two are clones.

    Attributes:
        similarity: of the two that are least similar, in [0, 1].
        units: at least two, by path and line.
    """

    similarity: float
    units: tuple[Entry, ...]

    @property
    def languages(self) -> list[str]:
        """The languages of the units, sorted."""
        return sorted({unit.language for unit in self.units})

    @property
    def extra_lines(self) -> int:
        """Number of lines that one unit of the group would save."""
        lengths = [unit.end_line - unit.start_line + 1 for unit in self.units]
        return sum(lengths) - max(lengths)

    def __repr__(self) -> str:
        return f"CloneGroup({self.similarity:.2f}, {', '.join(map(place_of, self.units))})"

    def _repr_html_(self) -> str:
        title = f"{self.similarity:.2f} {', '.join(self.languages)}"
        return list_html(title, {place_of(unit): unit.qualified_name for unit in self.units})

    def as_dict(self) -> dict[str, Any]:
        """Return the group, ready for JSON."""
        names = [name for name in Entry._fields if name != "source"]
        units = [{name: getattr(unit, name) for name in names} for unit in self.units]
        summary = {"similarity": self.similarity, "languages": self.languages, "extra_lines": self.extra_lines}
        return {**summary, "units": units}


def find_clones(
    units: Iterable[Entry],
    embed: Callable[[Sequence[str], Sequence[str]], np.ndarray] | None = None,
    *,
    threshold: float = CLONE_THRESHOLD,
    min_tokens: int = MIN_CLONE_TOKENS,
    same_file: bool = True,
) -> Results[CloneGroup]:
    """Return the groups of clones among units, those with most lines to save first.

    Args:
        units: from `mose.search.tree.read_tree` or `Index.units`.
        embed: returns the embeddings of texts in languages, (texts, dim), rows of unit norm. None compares within
            languages alone.
        threshold: similarity from which two units are clones, in (0, 1].
        min_tokens: tokens that a unit must have, at least 1.
        same_file: two units of one file can be clones.

    Raises:
        ValueError: an argument is out of its range.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold must be in (0, 1], got {threshold}. Pass 1 for exact copies alone.")
    if min_tokens < 1:
        raise ValueError(f"min_tokens must be at least 1, got {min_tokens}.")

    copies = _exact_copies(units, min_tokens)
    firsts = [units[0] for units in copies]
    words = _WordOverlap([unit.source for unit in firsts])
    pairs = _pairs_within_languages(firsts, words, threshold)
    if embed is not None and len({unit.language for unit in firsts}) > 1:
        vectors = embed([unit.source for unit in firsts], [unit.language for unit in firsts])
        pairs |= _pairs_across_languages(firsts, vectors, words, threshold)

    def counts(first: int, second: int) -> bool:
        one, other = firsts[first], firsts[second]
        return not _is_one_place(one, other) if same_file else _file(one) != _file(other)

    pairs = {pair: similarity for pair, similarity in pairs.items() if counts(*pair)}
    groups = []
    for rows, similarity in group_pairs(pairs, len(firsts)):
        members = _distinct((unit for row in rows for unit in copies[row]), same_file)
        if len(members) > 1:
            groups.append(CloneGroup(similarity, tuple(sorted(members, key=_order_of))))
    groups.sort(key=lambda group: (-group.extra_lines, -group.similarity, _order_of(group.units[0])))
    return Results(groups)


def group_pairs(pairs: Pairs, count: int) -> Iterator[tuple[list[int], float]]:
    """Yield groups in which each two are a pair, the most similar pairs together first (complete linkage).

    Chains are cut: if a is like b, and b like c, but a unlike c, only the more similar two are a group.

    Args:
        pairs: positions and similarities, above 0.
        count: number of positions.

    Yields:
        All positions, also those alone, and the lowest similarity of each group: 1 for a single position.
    """
    groups = {row: [row] for row in range(count)}
    home = list(range(count))
    lowest = dict.fromkeys(range(count), 1.0)

    for first, second in sorted(pairs, key=lambda pair: (-pairs[pair], pair)):
        one, other = home[first], home[second]
        if one == other:
            continue
        crossing = [pairs.get((min(a, b), max(a, b)), 0.0) for a in groups[one] for b in groups[other]]
        if all(crossing):
            for row in groups[other]:
                home[row] = one
            groups[one] += groups.pop(other)
            lowest[one] = min(*crossing, lowest[one], lowest[other])

    yield from ((rows, lowest[home[rows[0]]]) for rows in groups.values())


def _exact_copies(units: Iterable[Entry], min_tokens: int) -> list[list[Entry]]:
    """Return the units that are long enough, those together that differ in white space alone."""
    copies: dict[bytes, list[Entry]] = defaultdict(list)
    for unit in sorted(units, key=_order_of):
        tokens = tokens_of(unit.source)
        if len(tokens) >= min_tokens:
            text = " ".join([unit.language, *tokens]).encode("utf-8", "surrogatepass")
            copies[hashlib.blake2b(text, digest_size=16).digest()].append(unit)
    return list(copies.values())


def _pairs_within_languages(units: Sequence[Entry], words: "_WordOverlap", threshold: float) -> Pairs:
    rows_of: dict[str, list[int]] = defaultdict(list)
    for row, unit in enumerate(units):
        rows_of[unit.language].append(row)

    pairs: Pairs = {}
    for language, rows in rows_of.items():
        shapes = [shape_of(units[row].source, language) for row in rows]
        for first, second, structure in similar_sets(shapes, max(_LEAST_STRUCTURE, 2 * threshold - 1)):
            pair = rows[first], rows[second]
            similarity = (structure + words.overlap(*pair)) / 2
            if similarity >= threshold:
                pairs[pair] = similarity
    return pairs


def _pairs_across_languages(
    units: Sequence[Entry], vectors: np.ndarray, words: "_WordOverlap", threshold: float
) -> Pairs:
    """Return the pairs of two languages. Each must be among the nearest neighbours of the other."""
    names = np.array([unit.language for unit in units])
    rows_of = {name: np.flatnonzero(names == name) for name in sorted(set(names.tolist()))}
    nearest = {
        (one, other): _neighbours(vectors, rows, rows_of[other])
        for one, rows in rows_of.items()
        for other in rows_of
        if one != other
    }

    pairs: Pairs = {}
    for (one, other), neighbours in nearest.items():
        if one > other:
            continue
        for first, second in neighbours & {(b, a) for a, b in nearest[other, one]}:
            similarity = (float(vectors[first] @ vectors[second]) + words.overlap(first, second)) / 2
            if similarity >= threshold:
                pairs[min(first, second), max(first, second)] = min(similarity, 1.0)
    return pairs


def _neighbours(vectors: np.ndarray, rows: np.ndarray, others: np.ndarray) -> set[tuple[int, int]]:
    """Return each row with those of `others` that are nearest to it."""
    result: set[tuple[int, int]] = set()
    candidates, count = vectors[others], min(_NEIGHBOURS, len(others))
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK]
        best = np.argpartition(vectors[block] @ candidates.T, len(others) - count, axis=1)[:, -count:]
        result.update(
            (int(row), int(other)) for row, places in zip(block, best, strict=True) for other in others[places]
        )
    return result


class _WordOverlap:
    """The words that texts share. Rare words weigh more.

    Args:
        texts: all that are compared.
    """

    def __init__(self, texts: Sequence[str]):
        counter = TermCounter()
        self._terms = [frozenset(counter.count(text)) for text in texts]
        frequencies = Counter(term for terms in self._terms for term in terms)
        self._weights = {term: math.log1p(len(texts) / count) for term, count in frequencies.items()}
        self._totals = [self._weight(terms) for terms in self._terms]

    def overlap(self, first: int, second: int) -> float:
        """Return the weight of the common words over that of all words of two texts, in [0, 1]."""
        common = self._weight(self._terms[first] & self._terms[second])
        total = self._totals[first] + self._totals[second] - common
        return min(common / total, 1.0) if total else 0.0

    def _weight(self, terms: Iterable[int]) -> float:
        return math.fsum(self._weights[term] for term in terms)


def _distinct(units: Iterable[Entry], same_file: bool) -> list[Entry]:
    """Return units without those that are one place with an earlier one, or in one file."""
    kept: dict[tuple[str, str], list[Entry]] = defaultdict(list)
    for unit in units:
        others = kept[_file(unit)]
        if not others or (same_file and not any(_is_one_place(unit, other) for other in others)):
            others.append(unit)
    return [unit for others in kept.values() for unit in others]


def _is_one_place(first: Entry, second: Entry) -> bool:
    """Return whether two units are not two pieces of code, but one within the other, or parts of a long one."""
    if _file(first) != _file(second):
        return False
    if first.start_line <= second.end_line and second.start_line <= first.end_line:
        return True
    same_unit = (first.kind, first.qualified_name) == (second.kind, second.qualified_name)
    # Together, parts are longer than a unit may be.
    return same_unit and len(first.source) + len(second.source) > MAX_UNIT_CHARACTERS


def _file(unit: Entry) -> tuple[str, str]:
    return unit.root, unit.path


def _order_of(unit: Entry) -> tuple[str, str, int, str]:
    return unit.root, unit.path, unit.start_line, unit.qualified_name
