"""Running a MoSE: loading it at some exits, encoding texts, storing embeddings, and BM25 beside them.

The names below are loaded on first use, so that importing this package needs no torch.
"""

import importlib

_HOMES = {
    "AdaptivePolicy": "adaptive",
    "BM25": "bm25",
    "MoSEEncoder": "encoders",
    "StaticEncoder": "static",
    "Store": "store",
    "StoreError": "store",
    "adaptive_scores": "adaptive",
    "encode": "encoding",
    "encode_corpus": "corpus",
    "fit_policy": "adaptive",
    "load_mose_config": "loading",
    "load_model": "loading",
    "model_fingerprint": "fingerprints",
    "open_store": "store",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
