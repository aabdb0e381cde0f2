"""Ranking of code: which units answer a query best, as small pure functions of names, paths and scores.

Each module has one idea and says why it holds. `ranker.py` puts them together, `constants.py` has their weights.
"""

import importlib

_HOMES = {
    "Catalogue": "catalogue",
    "DEFAULT_CONSTANTS": "constants",
    "Evidence": "ranker",
    "Parts": "ranker",
    "RankingConstants": "constants",
    "SearchQuery": "queries",
    "collect_evidence": "ranker",
    "fuse": "fusion",
    "parse_query": "queries",
    "query_confidence": "confidence",
    "rank_units": "ranker",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
