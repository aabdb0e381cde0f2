"""Turning a folder of weights into a Hub repository. Knows nothing of how the model was trained.

The names below are loaded on first use, so that `--help` needs no torch.
"""

import importlib

_MODULES = {
    "model_card": "card",
    "order_by_exit": "weights",
    "publish": "publish",
    "slice_repository": "slice",
    "validate_card": "card",
}
__all__ = sorted(_MODULES)


def __getattr__(name: str):
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
