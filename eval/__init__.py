"""Evaluation of a MoSE at every exit: metrics, benchmark tasks, baselines, costs, and the report.

The names below are loaded on first use, so that importing this package needs no torch.
"""

import importlib

_HOMES = {
    "BM25": "mose.inference.bm25",
    "MoSEEncoder": "mose.inference.encoders",
    "NoExitFits": "mose.eval.choose",
    "RetrievalSet": "mose.data.retrieval.retrieval_set",
    "choose_exit": "mose.eval.choose",
    "classify_pairs": "mose.eval.classification",
    "encode": "mose.inference.encoding",
    "encode_corpus": "mose.inference.corpus",
    "evaluate": "mose.eval.retrieval",
    "evaluate_pairs": "mose.eval.classification",
    "flops_per_token": "mose.eval.costs",
    "get_task": "mose.eval.tasks",
    "intervals": "mose.eval.significance",
    "load_baseline": "mose.eval.baselines",
    "load_model": "mose.inference.loading",
    "load_pair_classifier": "mose.eval.classification",
    "load_retrieval_set": "mose.data.retrieval.retrieval_set",
    "load_task": "mose.eval.tasks",
    "markdown": "mose.eval.report",
    "open_store": "mose.inference.store",
    "parameters": "mose.eval.costs",
    "permutation_p_value": "mose.eval.significance",
    "plot_report": "mose.eval.plots",
    "summarize": "mose.eval.tasks",
    "terminal": "mose.eval.report",
    "top_k": "mose.eval.topk",
    "update_card": "mose.eval.model_index",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
