"""PostgreSQL with pgvector, on a server of its own from pgserver.

python examples/pgvector_search.py
"""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pgserver
import psycopg
from pgvector.psycopg import register_vector

from mose.examples.vectors import (
    QUERY,
    Snippet,
    SnippetHit,
    embed_deep,
    embed_shallow,
    print_snippet_hits,
    read_snippets,
)


def search_postgres(
    snippets: Sequence[Snippet], vectors: np.ndarray, query: np.ndarray, uri: str, top_k: int = 5
) -> list[SnippetHit]:
    """Store snippets with their vectors, and return those that are nearest to a query.

    Args:
        snippets: the rows.
        vectors: (snippets, dim) of unit norm.
        query: (dim,) of unit norm.
        uri: of the database, `postgresql://user:password@host/name`.
        top_k: maximum number of hits.
    """
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        register_vector(connection)
        connection.execute("DROP TABLE IF EXISTS code")
        columns = f"path text, name text, language text, code text, embedding vector({vectors.shape[1]})"
        connection.execute(f"CREATE TABLE code ({columns})")

        with connection.cursor() as cursor:
            rows = [(*snippet, vector) for snippet, vector in zip(snippets, vectors, strict=True)]
            cursor.executemany("INSERT INTO code VALUES (%s, %s, %s, %s, %s)", rows)

        # <#> is the negative inner product, for unit vectors the negative cosine. For many rows, add an index:
        # CREATE INDEX ON code USING hnsw (embedding vector_ip_ops).
        order = (
            "SELECT name, -(embedding <#> %s) FROM code WHERE language = %s ORDER BY embedding <#> %s LIMIT %s"
        )
        return [SnippetHit(*row) for row in connection.execute(order, (query, "python", query, top_k))]


if __name__ == "__main__":
    with TemporaryDirectory() as scratch, pgserver.get_server(Path(scratch)) as server:
        code = read_snippets()
        print_snippet_hits(search_postgres(code, embed_deep(code), embed_shallow(QUERY), server.get_uri()))
