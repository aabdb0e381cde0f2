"""Scores of every exit on a retrieval set whose queries and documents have length limits of their own."""

from typing import Any

import torch

from mose.data.retrieval.retrieval_set import RetrievalSet
from mose.eval.metrics import score_blocks
from mose.eval.retrieval import score
from mose.inference.encoders import MoSEEncoder


def score_exits(
    model: Any,
    tokenizer: Any,
    data: RetrievalSet,
    max_query_length: int | None = None,
    max_document_length: int | None = None,
    dtype: torch.dtype | None = None,
) -> dict[str, dict[str, float]]:
    """Return exit → metric → value over the whole corpus, for all exits that the model has built.

    Args:
        model: a `MoSEModel`, perhaps with an adapter.
        tokenizer: the model's.
        data: its `measures` are computed.
        max_query_length: tokens after which a query is truncated.
        max_document_length: tokens after which a document is truncated.
        dtype: compute type, by autocast; None means the type of the weights.
    """
    queries = MoSEEncoder(model, tokenizer, max_length=max_query_length, dtype=dtype).encode(
        data.queries, data.query_languages, query=True
    )
    documents = MoSEEncoder(model, tokenizer, max_length=max_document_length, dtype=dtype).encode(
        data.documents, data.document_languages, query=False
    )

    return {e: score(data, score_blocks(queries[e], documents[e])) for e in queries}
