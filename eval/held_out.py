"""Scores of every exit on a retrieval set, with separate length limits for queries and documents."""

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
    """Return exit -> measure of the set -> value over the whole corpus, for all exits that are built.

    Queries are truncated after `max_query_length` tokens, documents after `max_document_length`. The model may
    have an adapter. `dtype` is the compute type, by autocast; None means the type of the weights.
    """
    query_encoder = MoSEEncoder(model, tokenizer, max_length=max_query_length, dtype=dtype)
    queries = query_encoder.encode(data.queries, data.query_languages, query=True)

    document_encoder = MoSEEncoder(model, tokenizer, max_length=max_document_length, dtype=dtype)
    documents = document_encoder.encode(data.documents, data.document_languages, query=False)

    return {key: score(data, score_blocks(queries[key], documents[key])) for key in queries}
