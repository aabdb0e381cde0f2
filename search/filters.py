"""Restrictions of a search: how many hits, how good, and units of which language, path or kind."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from mose.data.source.languages import readable_languages
from mose.data.source.units import KINDS

if TYPE_CHECKING:
    from mose.search.snapshot import Units


def check_limits(top_k: int, min_score: float) -> None:
    """Check how many hits are asked for, and how good ones.

    Raises:
        ValueError: `top_k` is below 1, or `min_score` is not in [0, 1].
    """
    if top_k < 1:
        raise ValueError(f"top_k must be at least 1, got {top_k}.")
    if not 0 <= min_score <= 1:
        raise ValueError(f"min_score must be in [0, 1], got {min_score}. Pass 0 to see all hits.")


def check_filters(languages: Sequence[str] | None, kinds: Sequence[str] | None) -> None:
    """Check that languages and kinds exist.

    Raises:
        ValueError: one does not.
    """
    for name, values, allowed in (("languages", languages, readable_languages()), ("kinds", kinds, KINDS)):
        if unknown := sorted(set(values or ()) - set(allowed)):
            raise ValueError(f"{name} must be among {', '.join(allowed)}, got {', '.join(unknown)}.")


def matching_rows(
    units: "Units", languages: Sequence[str] | None, paths: Sequence[str] | None, kinds: Sequence[str] | None
) -> np.ndarray | None:
    """Return the rows of the units that pass all filters, ascending; None if there are no filters.

    Args:
        units: of an index.
        languages: languages to keep; None keeps all.
        paths: patterns of paths to keep, as in a `.gitignore`; the last pattern that matches decides.
        kinds: kinds of units to keep; None keeps all.

    Raises:
        ValueError: there is no such language or kind.
    """
    check_filters(languages, kinds)
    if languages is None and paths is None and kinds is None:
        return None

    keeps = np.ones(len(units), bool)
    for name, values in (("language", languages), ("kind", kinds)):
        if values is not None:
            wanted = set(values)
            keeps &= np.fromiter((value in wanted for value in units.column(name)), bool, len(units))
    if paths is not None:
        import pathspec

        spec = pathspec.GitIgnoreSpec.from_lines(paths)
        known = {path: spec.match_file(path) for path in set(units.column("path"))}
        keeps &= np.fromiter((known[path] for path in units.column("path")), bool, len(units))
    return np.flatnonzero(keeps)
