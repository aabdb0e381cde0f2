"""Semantic code search: index the code of a source tree, then find it by what it does.

The names below are loaded on first use, so that `--help` needs no torch.
"""

import importlib

_HOMES = {
    "BuildReport": "records",
    "CloneGroup": "clones",
    "CodeQuery": "similar",
    "Hit": "hits",
    "Index": "index",
    "SearchIndexError": "store",
    "find_clones": "clones",
    "find_similar": "similar",
    "fuse": "ranking.fusion",
    "main": "__main__",
    "render": "rendering",
    "unit_at": "similar",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
