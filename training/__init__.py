"""Training: arguments, losses and Trainers for fine-tuning, pre-training and classification.

Knows the model, the data and the Hub, but no evaluation: `train_hf.py` passes an evaluation function in.
"""

import importlib

#: Loaded on first use: it imports sentence-transformers.
_LAZY = {"MultiExitLoss": "multi_exit_loss"}
__all__ = sorted(_LAZY)


def __getattr__(name: str):
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
