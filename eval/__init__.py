"""Measuring a MoSE at every exit: metrics, encoding of corpora, peers to compare with, the report.

Knows nothing of training. The names below are loaded on first use, so that `--help` needs no torch.
"""

import importlib

_HOMES = {
    "BM25": "bm25",
    "RetrievalSet": "beir",
    "load_retrieval_set": "beir",
    "MoSEEncoder": "encoders",
    "NoExitFits": "choose",
    "choose_exit": "choose",
    "encode": "encoding",
    "encode_corpus": "corpus",
    "evaluate": "retrieval",
    "flops_per_token": "costs",
    "intervals": "significance",
    "load_model": "encoders",
    "load_peer": "peers",
    "markdown": "report",
    "open_store": "store",
    "plot_report": "plots",
    "parameters": "costs",
    "permutation_p_value": "significance",
    "terminal": "report",
    "top_k": "topk",
    "write_card": "card",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
