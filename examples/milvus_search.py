"""Milvus, with the server of milvus-lite on one file.

python examples/milvus_search.py
"""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from pymilvus import MilvusClient

from mose.examples.vectors import (
    QUERY,
    Snippet,
    SnippetHit,
    embed_deep,
    embed_shallow,
    print_snippet_hits,
    read_snippets,
)


def search_milvus(
    snippets: Sequence[Snippet], vectors: np.ndarray, query: np.ndarray, uri: str, top_k: int = 5
) -> list[SnippetHit]:
    """Store snippets with their vectors, and return those that are nearest to a query.

    Args:
        snippets: the rows.
        vectors: (snippets, dim) of unit norm.
        query: (dim,) of unit norm.
        uri: path of a file for milvus-lite, or the address of a Milvus server, such as `http://localhost:19530`.
        top_k: maximum number of hits.
    """
    client = MilvusClient(uri)
    try:
        if client.has_collection("code"):
            client.drop_collection("code")
        # The inner product of unit vectors is the cosine.
        client.create_collection("code", dimension=vectors.shape[1], metric_type="IP")

        pairs = enumerate(zip(snippets, vectors, strict=True))
        rows = [{"id": number, "vector": vector, **snippet._asdict()} for number, (snippet, vector) in pairs]
        client.insert("code", rows)

        options = {"limit": top_k, "filter": "language == 'python'", "output_fields": ["name"]}
        (hits,) = client.search("code", data=[query], **options)
        return [SnippetHit(hit["entity"]["name"], hit["distance"]) for hit in hits]
    finally:
        client.close()


if __name__ == "__main__":
    with TemporaryDirectory() as scratch:
        code = read_snippets()
        hits = search_milvus(code, embed_deep(code), embed_shallow(QUERY), str(Path(scratch, "milvus.db")))
        print_snippet_hits(hits)
