"""LanceDB: a table in a folder, or in an object store.

python examples/lancedb_search.py
"""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import lancedb
import numpy as np

from mose.examples.vectors import (
    QUERY,
    Snippet,
    SnippetHit,
    embed_deep,
    embed_shallow,
    print_snippet_hits,
    read_snippets,
)


def search_lancedb(
    snippets: Sequence[Snippet], vectors: np.ndarray, query: np.ndarray, folder: Path, top_k: int = 5
) -> list[SnippetHit]:
    """Store snippets with their vectors, and return those that are nearest to a query."""
    database = lancedb.connect(str(folder))
    rows = [{**snippet._asdict(), "vector": vector} for snippet, vector in zip(snippets, vectors, strict=True)]
    table = database.create_table("code", rows, mode="overwrite")

    # Up to some 100,000 rows an exact scan is fast. Beyond, add: table.create_index(metric="cosine").
    nearest = table.search(query).distance_type("cosine").where("language = 'python'").limit(top_k)
    return [SnippetHit(row["name"], 1 - row["_distance"]) for row in nearest.to_list()]


if __name__ == "__main__":
    with TemporaryDirectory() as scratch:
        code = read_snippets()
        print_snippet_hits(search_lancedb(code, embed_deep(code), embed_shallow(QUERY), Path(scratch)))
