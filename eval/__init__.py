"""Measuring a MoSE at every exit: metrics, encoding of corpora, peers to compare with, the report.

Knows nothing of training. The names below are loaded on first use, so that `--help` needs no torch.
"""

import importlib

_HOMES = {
    "BM25": "bm25",
    "MoSEEncoder": "encoders",
    "NoExitFits": "choose",
    "RetrievalSet": "beir",
    "choose_exit": "choose",
    "classify": "pairs",
    "encode": "encoding",
    "encode_corpus": "corpus",
    "evaluate": "retrieval",
    "evaluate_pairs": "pairs",
    "flops_per_token": "costs",
    "get_task": "tasks",
    "intervals": "significance",
    "load_classifier": "pairs",
    "load_model": "encoders",
    "load_peer": "peers",
    "load_retrieval_set": "beir",
    "load_task": "tasks",
    "markdown": "report",
    "open_store": "store",
    "parameters": "costs",
    "permutation_p_value": "significance",
    "plot_report": "plots",
    "summarize": "tasks",
    "terminal": "report",
    "top_k": "topk",
    "write_card": "card",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
