"""MoSE: one code-embedding model with several exits.

The names below are loaded on first use, so that `import mose` costs nothing and this file can be read as a
plain module when the repository root is not installed.
"""

import importlib

__version__ = "0.1.0"

_HOMES = {
    "MoSEConfig": "configuration_mose",
    "MoSEModel": "modeling_mose",
    "MoSEForPreTraining": "modeling_mose",
    "MoSEForSequenceClassification": "modeling_mose",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"mose.{_HOMES[name]}"), name)
