"""Qdrant, in the local mode of its client, without a server.

python examples/qdrant_search.py
"""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from qdrant_client import QdrantClient, models

from mose.examples.vectors import (
    QUERY,
    Snippet,
    SnippetHit,
    embed_deep,
    embed_shallow,
    print_snippet_hits,
    read_snippets,
)


def search_qdrant(
    snippets: Sequence[Snippet], vectors: np.ndarray, query: np.ndarray, client: QdrantClient, top_k: int = 5
) -> list[SnippetHit]:
    """Store snippets with their vectors, and return those that are nearest to a query.

    Args:
        snippets: the rows.
        vectors: (snippets, dim) of unit norm.
        query: (dim,) of unit norm.
        client: `QdrantClient(path=…)` for the local mode, or `QdrantClient(url=…)` for a server.
        top_k: maximum number of hits.
    """
    if client.collection_exists("code"):
        client.delete_collection("code")
    # The inner product of unit vectors is the cosine.
    space = models.VectorParams(size=vectors.shape[1], distance=models.Distance.DOT)
    client.create_collection("code", vectors_config=space)

    pairs = enumerate(zip(snippets, vectors, strict=True))
    points = [
        models.PointStruct(id=number, vector=vector.tolist(), payload=snippet._asdict())
        for number, (snippet, vector) in pairs
    ]
    client.upsert("code", points)

    is_python = models.FieldCondition(key="language", match=models.MatchValue(value="python"))
    only = models.Filter(must=[is_python])
    nearest = client.query_points("code", query=query.tolist(), query_filter=only, limit=top_k)
    return [SnippetHit((point.payload or {})["name"], point.score) for point in nearest.points]


if __name__ == "__main__":
    with TemporaryDirectory() as scratch:
        code, local = read_snippets(), QdrantClient(path=str(Path(scratch)))
        print_snippet_hits(search_qdrant(code, embed_deep(code), embed_shallow(QUERY), local))
        local.close()
