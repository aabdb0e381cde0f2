"""The shipped model, ranking and scores together, on a tree of this package."""

import shutil

import pytest

from mose.search.index import Index
from mose.search.ranking.confidence import LOW_CONFIDENCE
from mose.utils.locations import package_folder

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shipped")
    tests = folder / "tree" / "tests"
    tests.mkdir(parents=True)
    for name in ("inference", "tokenization", "search"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(package_folder() / name, folder / "tree" / name, ignore=ignored)
    for file in sorted((package_folder() / "tests" / "inference").glob("*.py")):
        shutil.copy(file, tests / file.name)
    return Index.build(folder / "tree", str(package_folder()), None, folder / "index", 0, progress=False)


@pytest.mark.parametrize(
    ("query", "path", "name"),
    [
        ("BM25", "inference/bm25.py", "BM25"),
        ("Index.search", "search/index.py", "Index.search"),
        ("bm25_tokens", "inference/bm25.py", "bm25_tokens"),
        ("rankingConstants", "search/ranking/constants.py", "RankingConstants"),
    ],
)
def test_the_definition_of_a_symbol_is_first(index, query, path, name):
    hit = index.search(query, 1)[0]
    assert (hit.path, hit.qualified_name) == (path, name)
    assert hit.score >= LOW_CONFIDENCE


@pytest.mark.parametrize(
    ("query", "path"),
    [
        ("how are the embeddings of a corpus stored on disk", "inference/store.py"),
        ("how is a prompt chosen for a language", "tokenization/prompts.py"),
        # It is staged in building.py and kept by writing.py.
        ("embeddings of a build that was killed", "search/building.py|search/writing.py"),
        ("old versions and stubs are lowered", "search/ranking/roles.py"),
        ("test of the BM25 formula", "tests/test_bm25.py"),
    ],
)
def test_prose_finds_the_file(index, query, path):
    hits = index.search(query, 5, files=True)
    assert {hit.path for hit in hits} & set(path.split("|"))
    assert hits[0].score >= LOW_CONFIDENCE


@pytest.mark.parametrize(
    "query",
    [
        "kubernetes pod eviction for quantum teapots",
        "quantum circuit simulation",
        "how to prune apple trees",
        "GenomeAligner",
        "xqzzt blorple frobnitz",
    ],
)
def test_what_is_not_there_scores_low(index, query):
    assert index.search(query, 1)[0].score < LOW_CONFIDENCE
    assert index.search(query, 5, min_score=LOW_CONFIDENCE) == []
