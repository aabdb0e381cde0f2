"""Attacks on a search index: kills, writers at once, queries during rebuilds, damage."""

import contextlib
import io
import json
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from mose.search import Index, main

QUERY = "convert a temperature"


def write_tree(root, version, files=40):
    """Write files whose functions all return the version."""
    root.mkdir(parents=True, exist_ok=True)
    for number in range(files):
        lines = [f"def convert_{number}_{k}(degrees):\n    return degrees * {version}\n" for k in range(5)]
        (root / f"temperature{number}.py").write_text("\n\n".join(lines))


def places(hits):
    """Return the hits without their last digits, which the order of a computation changes."""
    return [(hit["path"], hit["name"], hit["source"], round(hit["similarity"], 3)) for hit in hits]


def versions_of(hits):
    return {hit["source"].split()[-1] for hit in hits}


def search(path, *options):
    """Return the exit code of a query and its hits."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
        code = main(["query", QUERY, "--index", str(path), "--json", "--top-k", "20", *options])
    return code, json.loads(out.getvalue())["hits"] if code == 0 else []


def index_command(tree, path):
    return [sys.executable, "-m", "mose.search", "index", str(tree), "--index", str(path), "--exit-layer", "0"]


def build(tree, path):
    ended = subprocess.run(index_command(tree, path), capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


def test_killed_builds(tmp_path, tries):
    tree, path = tmp_path / "tree", tmp_path / "index"
    write_tree(tree, 0)
    build(tree, path)
    generator = random.Random(1)
    for version in range(1, 26):
        write_tree(tree, version)
        process = subprocess.Popen(
            index_command(tree, path), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(generator.uniform(0.2, 4.0))
        process.send_signal(signal.SIGKILL)
        process.wait()

        code, hits = search(path, "--no-refresh")
        assert code == 0 and len(versions_of(hits)) == 1
        finished = versions_of(hits) == {str(version)}
        code, hits = search(path)
        assert code == 0 and versions_of(hits) == {str(version)}
        tries.record(
            "kill -9 of index", "had finished" if finished else "old version whole, next query up to date"
        )


def test_four_writers_at_once(tmp_path, tries):
    path = tmp_path / "index"
    trees = [tmp_path / f"tree{number}" for number in range(4)]
    for number, tree in enumerate(trees):
        write_tree(tree, number, files=5)
    for _ in range(4):
        processes = [
            subprocess.Popen(
                index_command(tree, path), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
            )
            for tree in trees
        ]
        for process in processes:
            _, errors = process.communicate()
            assert process.returncode == 0 or "another build is writing this index" in errors
            tries.record("four writers", "written" if process.returncode == 0 else "refused by name")
        roots = {tree.root for tree in Index.open(path).trees}
        assert roots >= {str(tree) for tree, one in zip(trees, processes, strict=True) if one.returncode == 0}
    for tree in trees:
        build(tree, path)
    index = Index.open(path)
    assert len(index.trees) == 4 and len(index) == 4 * 5 * 5


def test_queries_during_rebuilds(tmp_path, tries):
    tree, path = tmp_path / "tree", tmp_path / "index"
    write_tree(tree, 0)
    build(tree, path)
    ended = threading.Event()

    def keep_searching():
        answers = 0
        while not ended.is_set():
            index = Index.open(path, refresh=False)
            hits = [hit.as_dict() for hit in index.search(QUERY, 20)]
            assert len(hits) == 20 and len(versions_of(hits)) == 1
            answers += 1
        return answers

    with ThreadPoolExecutor(3) as pool:
        readers = [pool.submit(keep_searching) for _ in range(3)]
        try:
            for version in range(1, 13):
                write_tree(tree, version)
                build(tree, path)
        finally:
            ended.set()
    answers = sum(reader.result() for reader in readers)
    assert answers >= 18
    for _ in range(answers):
        tries.record("query during 12 rebuilds", "one version, whole")


def flip_bit(data, place, generator):
    data[place] ^= 1 << generator.randrange(8)


def zero_block(data, place, generator):
    size = generator.choice([16, 4096, 65536])
    data[place : place + size] = bytes(len(data[place : place + size]))


def scramble(data, place, generator):
    data[place : place + 64] = generator.randbytes(len(data[place : place + 64]))


def cut_off(data, place, generator):
    del data[place:]


@pytest.mark.parametrize("damage", [flip_bit, zero_block, scramble, cut_off])
def test_random_damage(damage, tmp_path, tries):
    """Of 40 damages of each kind, none leads to a wrong answer with exit code 0, and `index` heals each."""
    tree, path = tmp_path / "tree", tmp_path / "index"
    write_tree(tree, 0)
    build(tree, path)
    (tree / "temperature0.py").write_text("def convert(degrees):\n    return degrees * 0\n")
    right = places(search(path)[1])  # commits a second version, with a deletion file
    shutil.copytree(path, tmp_path / "intact")

    generator = random.Random(damage.__name__)
    for _ in range(40):
        shutil.rmtree(path)
        shutil.copytree(tmp_path / "intact", path)
        files = [file for file in sorted((path / "units.lance").rglob("*")) if file.is_file()]
        file = generator.choice([*files, max(files, key=lambda one: one.stat().st_size)])
        data = bytearray(file.read_bytes())
        damage(data, generator.randrange(len(data)), generator)
        file.write_bytes(bytes(data))

        code, hits = search(path, *generator.choice([[], ["--no-refresh"]]))
        assert code == 1 or places(hits) == right, file
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            assert main(["index", str(tree), "--index", str(path)]) == 0, file
        healed, hits = search(path)
        assert healed == 0 and places(hits) == right, file
        tries.record(damage.__name__.replace("_", " "), "no answer, healed" if code else "right answer")
