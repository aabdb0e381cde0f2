"""The examples of vector databases against numpy; those whose library is missing are skipped."""

from tempfile import TemporaryDirectory

import numpy as np
import pytest

from mose.examples import vectors as shared
from mose.examples.vectors import Snippet, SnippetHit


@pytest.fixture(scope="module")
def rows():
    """Sixty snippets with unit vectors; every fifth is in another language, and must not be found."""
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(60, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    languages = ["go" if number % 5 == 0 else "python" for number in range(60)]
    quoted = "def f():\n    return '\"é\\\\'"
    snippets = [Snippet(f"m{number}.py", f"f{number}", word, quoted) for number, word in enumerate(languages)]
    query = vectors[10] + 0.2 * vectors[3]
    return snippets, vectors, query / np.linalg.norm(query)


def expected(rows, count):
    snippets, vectors, query = rows
    similarities = vectors @ query
    order = [number for number in np.argsort(-similarities) if snippets[number].language == "python"]
    return [SnippetHit(snippets[number].name, float(similarities[number])) for number in order[:count]]


def check(hits, rows, count):
    wanted = expected(rows, count)
    assert [hit.name for hit in hits] == [hit.name for hit in wanted] and len(hits) == count
    np.testing.assert_allclose([hit[1] for hit in hits], [hit[1] for hit in wanted], atol=1e-5)


def test_lancedb(rows, tmp_path):
    pytest.importorskip("lancedb")
    from mose.examples.lancedb_search import search_lancedb

    for count in (5, 3):  # the second run replaces the table
        check(search_lancedb(*rows, tmp_path, count), rows, count)


def test_postgresql(rows):
    pgserver = pytest.importorskip("pgserver")
    pytest.importorskip("pgvector")
    pytest.importorskip("psycopg")
    from mose.examples.pgvector_search import search_postgres

    # PostgreSQL refuses to run as root: pgserver then takes another user, who cannot enter pytest's folders.
    with TemporaryDirectory() as folder, pgserver.get_server(folder) as server:
        for count in (5, 3):
            check(search_postgres(*rows, server.get_uri(), count), rows, count)


def test_milvus(rows, tmp_path):
    pytest.importorskip("milvus_lite")
    from mose.examples.milvus_search import search_milvus

    for count in (5, 3):
        check(search_milvus(*rows, str(tmp_path / "milvus.db"), count), rows, count)


def test_qdrant(rows, tmp_path):
    qdrant_client = pytest.importorskip("qdrant_client")
    from mose.examples.qdrant_search import search_qdrant

    client = qdrant_client.QdrantClient(path=str(tmp_path))
    for count in (5, 3):
        check(search_qdrant(*rows, client, count), rows, count)
    client.close()


@pytest.mark.slow
def test_the_library_is_embedded_deep_and_found_shallow(capsys):
    snippets = [
        snippet
        for snippet in shared.read_snippets(("json",))
        if snippet.name in ("dump", "load", "detect_encoding")
    ]
    assert {snippet.path for snippet in snippets} == {"json/__init__.py"} and len(snippets) == 3
    vectors = shared.embed_deep(snippets)
    query = shared.embed_shallow("guess the character encoding of bytes")
    np.testing.assert_allclose(np.linalg.norm([*vectors, query], axis=1), 1, atol=1e-5)

    similarities = vectors @ query
    shared.print_snippet_hits([SnippetHit(snippets[int(similarities.argmax())].name, float(similarities.max()))])
    assert capsys.readouterr().out.endswith("  detect_encoding\n")
