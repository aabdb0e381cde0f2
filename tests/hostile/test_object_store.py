"""An index in an object store, through a real server of the S3 protocol: use, kills, two writers, damage."""

import re
import signal
import subprocess
import sys

import pytest
from pyarrow import fs
from s3_server import BUCKET, moto_python, s3_server

from mose.search import Index, SearchIndexError, main, neighbours
from mose.search.store import DamagedIndexError
from mose.utils.locations import package_folder
from tests.hostile.test_search_store import build, index_command, versions_of, write_tree

PYTHON = moto_python()
pytestmark = pytest.mark.skipif(PYTHON is None, reason="needs moto in an environment of its own: make soak")
QUERY = "convert a temperature"
DIES = """
import os, signal, sys
import mose.search.writing
from mose.search import Index
def die(*_, **__): os.kill(os.getpid(), signal.SIGKILL)
setattr(*{where}, die)
Index.build(sys.argv[1], {model!r}, None, sys.argv[2], 0, progress=False)
"""
#: Before any row is written, in the middle of them, and between the rows and the commit.
MOMENTS = {
    "at the first row": "(mose.search.writing._Batches, '__iter__')",
    "before the last row": "(mose.search.writing._Batches, '_files')",
    "before the commit": "(mose.search.writing.IndexWriter, '_commit')",
}


@pytest.fixture(scope="module")
def store():
    with s3_server(PYTHON) as environment, pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        yield environment["AWS_ENDPOINT"]


@pytest.fixture
def path(store, request):
    name = re.sub(r"\W+", "-", request.node.name)
    return f"s3://{BUCKET}/{name}"


def hits_of(index, count=20):
    return [hit.as_dict() for hit in index.search(QUERY, count)]


def test_built_searched_updated_and_removed(path, tmp_path, tries):
    trees = [tmp_path / "a", tmp_path / "b"]
    for number, tree in enumerate(trees):
        write_tree(tree, number, files=4)
        build(tree, path)
    index = Index.open(path)
    assert (len(index), len(index.trees), index.location.name) == (40, 2, path)

    write_tree(trees[1], 7, files=2)  # of four files
    reader = Index.open(path, refresh=False)
    assert index.refresh().changed == 2
    assert versions_of(hits_of(index, 40)) == {"0", "1", "7"}
    assert versions_of(hits_of(reader, 40)) == {"0", "1"}  # a reader keeps its version
    assert reader.reload() and versions_of(hits_of(reader, 40)) == {"0", "1", "7"}
    assert {hit["path"] for hit in (hit.as_dict() for hit in index.search(QUERY, 9, paths=["*1.py"]))} == {
        "temperature1.py"
    }
    assert main(["index", str(trees[0]), "--index", path, "--remove"]) == 0
    assert main(["query", QUERY, "--index", path]) == 0
    assert len(Index.open(path)) == 20
    tries.record("index in a bucket", "built, updated, searched, a tree removed")


@pytest.mark.parametrize(
    ("moment", "is_first"),
    [(moment, False) for moment in MOMENTS] + [(moment, True) for moment in list(MOMENTS)[:2]],
)
def test_a_killed_writer_harms_nobody(moment, is_first, path, tmp_path, tries):
    tree = tmp_path / "tree"
    write_tree(tree, 0, files=4)
    if not is_first:
        build(tree, path)
        write_tree(tree, 1, files=4)
    script = DIES.format(where=MOMENTS[moment], model=str(package_folder()))
    killed = subprocess.run([sys.executable, "-c", script, str(tree), path], capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr

    if is_first:
        with pytest.raises(SearchIndexError, match="no finished index"):
            Index.open(path)
        build(tree, path)
        assert versions_of(hits_of(Index.open(path))) == {"0"}
    else:
        assert versions_of(hits_of(Index.open(path, refresh=False))) == {"0"}
        assert versions_of(hits_of(Index.open(path))) == {"1"}
    tries.record("kill -9 of a writer", "old version whole, next one up to date")


@pytest.mark.parametrize("is_new", [True, False], ids=["new index", "index that is there"])
def test_two_writers_at_once_lose_no_tree(is_new, path, tmp_path, tries):
    for number in range(4):
        place, trees = f"{path}-{number}", [tmp_path / f"{number}-{name}" for name in "abc"]
        for tree in trees:
            write_tree(tree, number, files=3)
        if not is_new:
            build(trees[2], place)
        writers = [
            subprocess.Popen(
                index_command(tree, place), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
            )
            for tree in trees[:2]
        ]
        for writer in writers:
            _, errors = writer.communicate()
            assert writer.returncode == 0 or (writer.returncode == 1 and "Try again" in errors), errors
            tries.record("two writers", "written" if writer.returncode == 0 else "refused, told to try again")
        written = {str(tree) for tree, one in zip(trees[:2], writers, strict=True) if one.returncode == 0}
        found = {tree.root for tree in Index.open(place).trees}
        assert written and found == written | ({str(trees[2])} if not is_new else set())
        for tree in trees[:2]:
            build(tree, place)
        assert len(Index.open(place)) == 15 * (2 if is_new else 3)


def test_a_store_that_is_away_is_not_taken_for_a_damaged_index(path, store, tmp_path, monkeypatch, capsys, tries):
    tree = tmp_path / "tree"
    write_tree(tree, 0, files=2)
    build(tree, path)
    with monkeypatch.context() as patch:
        patch.setenv("AWS_ENDPOINT", "http://127.0.0.1:9")
        assert main(["index", str(tree), "--index", path]) == 1
        assert main(["query", QUERY, "--index", path]) == 1
        errors = capsys.readouterr().err
        assert errors.count("the store cannot be used") == 2 and "is damaged" not in errors
    assert len(Index.open(path)) == 10
    tries.record("a store that is away", "named, nothing rebuilt")


def test_a_damaged_object_gives_no_answer_and_is_healed(path, store, tmp_path, tries):
    tree = tmp_path / "tree"
    write_tree(tree, 0, files=4)
    build(tree, path)
    data = Index.open(path).snapshot.table.get_fragments()[0].data_files()[0].path
    client = fs.S3FileSystem(endpoint_override=store, access_key="any", secret_key="any", region="us-east-1")
    name = f"{path.removeprefix('s3://')}/units.lance/data/{data}"
    with client.open_input_stream(name) as stream:
        content = bytearray(stream.read())
    content[len(content) // 2 : len(content) // 2 + 2048] = bytes(2048)
    with client.open_output_stream(name) as stream:
        stream.write(bytes(content))
    with pytest.raises(DamagedIndexError):
        Index.open(path).search(QUERY, 20)
    build(tree, path)
    assert versions_of(hits_of(Index.open(path))) == {"0"}
    tries.record("an object with zeros", "no answer, healed")


def test_a_large_index_has_its_graph_there(path, tmp_path, monkeypatch, tries):
    monkeypatch.setattr(neighbours, "LEAST_UNITS", 50)
    tree = tmp_path / "tree"
    write_tree(tree, 0, files=20)
    index = Index.build(tree, str(package_folder()), None, path, 0, progress=False)
    assert index.snapshot.neighbours is not None
    places = [[(hit.path, hit.name) for hit in index.search(QUERY, 10, exact=exact)] for exact in (True, False)]
    assert places[0] == places[1]
    tries.record("a graph of neighbours in a bucket", "same hits as without")
