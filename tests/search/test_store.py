"""An index survives kills and damage, and refuses other writers and other models."""

import dataclasses
import random
import shutil
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, processors
from transformers import PreTrainedTokenizerFast

import mose.search.building
from mose.inference.bm25 import BM25
from mose.inference.fingerprints import model_fingerprint
from mose.inference.loading import load_model
from mose.search.digests import row_digests, total_digest
from mose.search.encoders import LookupEncoder, TorchEncoder
from mose.search.index import Index
from mose.search.lexical import TermCounter, TermTable, flatten_counts
from mose.search.records import Entry, Meta, Tree
from mose.search.snapshot import read_snapshot, salvaged_meta
from mose.search.store import Location, SearchIndexError
from mose.search.writing import NewRows, index_writer
from mose.tokenization.prompts import code_prompt

KILLED = """
import os, signal, sys
import mose.search.building, mose.search.writing
from mose.search import Index
from mose.search.encoders import LookupEncoder
mose.search.building.CHUNK = 10
where, model, tree, index = sys.argv[1:]
def die(*_, **__): os.kill(os.getpid(), signal.SIGKILL)
embed, chunks = LookupEncoder.documents, []
def embed_two_chunks(*arguments):
    chunks.append(arguments)
    return embed(*arguments) if len(chunks) < 3 else die()
if where == "embedding":
    LookupEncoder.documents = embed_two_chunks
else:
    mose.search.writing._Batches._files = die
Index.build(tree, model, None, index, 0, progress=False)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("where", "left_to_embed"), [("embedding", 20), ("writing", 0)])
def test_a_killed_build_leaves_the_old_index_and_its_work(
    where, left_to_embed, tree, many, tmp_path, model, model_folder, embed, monkeypatch
):
    path = tmp_path / "index"
    Index.build(tree, str(model_folder), None, path, 0, progress=False)
    command = [sys.executable, "-c", KILLED, where, str(model_folder), str(many), str(path)]
    killed = subprocess.run(command, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr

    old = Index.open(path, refresh=False)
    assert {hit.name for hit in old.search("add", 10)} == {"parse_iso_date", "next_month", "add", "readFile"}

    monkeypatch.setattr(mose.search.building, "CHUNK", 10)
    new = Index.build(many, str(model_folder), None, path, 0, progress=False)
    assert len(new) == 44 and len(new.trees) == 2
    assert new.report and new.report.embedded == left_to_embed
    assert not (path / "pending.lance").exists()
    rows = [row for row, path in enumerate(new.units.column("path")) if path.startswith("m")]
    texts = [code_prompt("python") + unit.text for unit in new.units.take(rows)]
    assert (new.vectors[rows] * embed(model, texts, 0)).sum(axis=1).min() > 0.999


def write(path, names, **changes):
    """Write an index of functions with these names."""
    units = [Entry("a.py", "function", name, name, "python", 1, 1, f"def {name}(): pass") for name in names]
    meta = Meta("m", "f", "", 1, 512, 4, (Tree(0, "/", "root", None, (), {}),))
    rows = NewRows([0] * len(units), units, np.eye(len(units), 4, dtype=np.float32), {})
    location = Location(str(path))
    with index_writer(location) as writer:
        previous = read_snapshot(location) if location.exists() else None
        writer.replace(dataclasses.replace(meta, **changes), rows, previous)


@pytest.mark.slow
def test_damaged_staged_embeddings_are_computed_again(tmp_path):
    write(tmp_path, ["f"])
    with index_writer(Location(str(tmp_path))) as writer:
        writer.stage("space", [bytes(16)], np.ones((1, 32), np.float32))
        writer.stage("space", [bytes(15) + b"1"], np.full((1, 32), 7, np.float32))
        for file in (tmp_path / "pending.lance" / "data").iterdir():
            content = file.read_bytes()
            file.write_bytes(content.replace(np.float32(7).tobytes(), np.float32(8).tobytes()))
        staged = writer.staged("space")
        assert list(staged) == [bytes(16)] and staged[bytes(16)].tolist() == [1.0] * 32
        assert writer.staged("another space") == {}


@pytest.mark.slow
def test_readers_see_whole_indexes_while_one_is_replaced(tmp_path):
    write(tmp_path, ["v0"] * 3)
    first = read_snapshot(Location(str(tmp_path)))
    ended = threading.Event()

    def keep_reading():
        seen = set()
        while not ended.is_set():
            snapshot = read_snapshot(Location(str(tmp_path)))
            seen.add((tuple(unit.source for unit in snapshot.units), len(snapshot.vectors)))
        return seen

    with ThreadPoolExecutor(1) as pool:
        reader = pool.submit(keep_reading)
        try:
            for version in range(1, 12):
                write(tmp_path, [f"v{version}"] * (version % 3 + 1))
        finally:
            ended.set()
    seen = reader.result()
    assert len(seen) > 1
    assert all(len(set(sources)) == 1 and len(sources) == rows for sources, rows in seen)
    # A version that has been replaced can still be read.
    assert [unit.name for unit in first.units] == ["v0"] * 3
    assert first.newer().units[0].name == "v11" and first.newer().newer() is None


def test_one_build_at_a_time(build, tmp_path):
    with index_writer(Location(str(tmp_path / "index"))), pytest.raises(SearchIndexError, match="another build"):
        build()
    assert len(build()) == 4


def test_many_small_commits_are_merged(build, tree, monkeypatch):
    monkeypatch.setattr("mose.search.writing.MAX_FRAGMENTS", 3)
    index = build()
    for number in range(5):
        (tree / "numbers.py").write_text(f"def add(a, b):\n    return a + b + {number}\n")
        assert index.refresh().embedded == 1
        assert len(index._snapshot.table.get_fragments()) <= 3
    assert "a + b + 4" in index.search("add", 1)[0].source
    assert len(index) == 4


def test_an_index_of_another_model_is_refused(build, tmp_path, model, model_folder, tiny_model, tokenizer):
    build()
    for other in (model, *(load_model(model_folder, exits)[0] for exits in ([1], None))):
        assert len(Index.load(tmp_path / "index", other, tokenizer)) == 4  # loaded deeper or not: the same model
    remedy = r"other weights.* run: python -m mose\.search index \S*tree --index \S*index --exit-layer 1"
    with pytest.raises(SearchIndexError, match=remedy):
        Index.load(tmp_path / "index", tiny_model(1), tokenizer)
    with pytest.raises(ValueError, match="exit_layer must be one of .*loaded up to exit 0, got 1"):
        Index.load(tmp_path / "index", load_model(model_folder, [0])[0], tokenizer)


def test_the_fingerprint_knows_weights_exit_and_tokenizer(model, tiny_model, tokenizer):
    names = {model_fingerprint(model, tokenizer, exit_layer) for exit_layer in model.exit_layers}
    assert len(names) == len(model.exit_layers)
    changed = tiny_model(0)
    with torch.no_grad():
        changed.layers[1].mlp.c_fc.weight[0, 0] += 1e-3  # the second block
    assert model_fingerprint(changed, tokenizer, 1) == model_fingerprint(model, tokenizer, 1)
    assert model_fingerprint(changed, tokenizer, 2) != model_fingerprint(model, tokenizer, 2)
    used_otherwise = tiny_model(0)
    used_otherwise.config.truncate_dim = 8
    assert model_fingerprint(used_otherwise, tokenizer, 1) not in names
    tokenizer(["a", "bc"], truncation=True, padding=True, max_length=8)  # leaves a trace in the tokenizer
    assert model_fingerprint(model, tokenizer, 1) in names
    other = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(tokenizer.backend_tokenizer.to_str()))
    other.backend_tokenizer.post_processor = processors.ByteLevel()
    assert model_fingerprint(model, other, 1) not in names


def test_exit_0_has_one_fingerprint_and_one_embedding_with_torch_and_without(model, model_folder, tokenizer):
    with_torch, without = TorchEncoder(model, tokenizer, 0, 512), LookupEncoder(str(model_folder), 512)
    assert with_torch.fingerprint(0) == without.fingerprint(0) != ""
    assert without.fingerprint(1) == "" and without.dim == with_torch.dim
    np.testing.assert_allclose(with_torch.query("read a file"), without.query("read a file"), atol=1e-5)
    codes = (["def add(a, b): return a + b", "x = 1"], ["python", "python"])
    np.testing.assert_allclose(with_torch.documents(*codes), without.documents(*codes), atol=2e-2)


# --- Terms -------------------------------------------------------------------------------------------------

words = st.text("abAB_1 .", max_size=30)


@given(st.lists(words, min_size=1, max_size=8), words, st.booleans())
def test_scores_are_those_of_bm25_over_the_whole_corpus(documents, query, prepared):
    counter, corpus = TermCounter(), BM25(documents)
    table = TermTable(*flatten_counts([counter.count(document) for document in documents]))
    if prepared:  # from the second query on
        table.match(query)
        table.match(query)
    scores, coverage = table.match(query)
    np.testing.assert_allclose(scores, corpus.scores(query), atol=1e-5)
    np.testing.assert_allclose(coverage, corpus.coverage(query), atol=1e-5)


# --- Damage ------------------------------------------------------------------------------------------------


@given(st.data())
def test_a_changed_value_changes_the_digest_of_its_row_and_no_other(data):
    rows = data.draw(st.integers(1, 6))
    texts, numbers = st.text(max_size=12), st.integers(0, 2**31 - 1)
    table = {
        "a": data.draw(st.lists(texts, min_size=rows, max_size=rows)),
        "b": data.draw(st.lists(numbers, min_size=rows, max_size=rows)),
        "c": data.draw(st.lists(st.lists(numbers, max_size=4), min_size=rows, max_size=rows)),
    }
    vectors = np.arange(4 * rows, dtype=np.float32).reshape(rows, 4)

    def digests():
        types = {"a": pa.string(), "b": pa.int32(), "c": pa.list_(pa.uint32())}
        return row_digests(pa.table({name: pa.array(table[name], types[name]) for name in table}), vectors)

    before, row = digests(), data.draw(st.integers(0, rows - 1))
    column = data.draw(st.sampled_from(["a", "b", "c", "vector"]))
    if column == "vector":
        vectors[row, data.draw(st.integers(0, 3))] += 1
    else:
        value = data.draw({"a": texts, "b": numbers, "c": st.lists(numbers, max_size=4)}[column])
        if value == table[column][row]:
            return
        table[column][row] = value
    after = digests()
    assert [number for number in range(rows) if before[number] != after[number]] == [row]
    assert total_digest(before) != total_digest(after)


def largest(path, folder):
    return max((path / "units.lance" / folder).iterdir(), key=lambda file: file.stat().st_size)


def overwrite(file, place, content):
    data = bytearray(file.read_bytes())
    data[place : place + len(content)] = content
    file.write_bytes(bytes(data[: max(file.stat().st_size, 0)]))


def zero_vectors(path):
    file = largest(path, "data")
    start = file.read_bytes().index(read_snapshot(Location(str(path))).vectors[0].tobytes())
    overwrite(file, start, bytes(64))


def scramble_source(path):
    file = largest(path, "data")
    overwrite(file, file.read_bytes().index(b"fromisoformat"), b"FROM")


def drop_rows(path):
    """Make a commit that this package did not make."""
    read_snapshot(Location(str(path))).table.delete("name = 'add'")


DAMAGE = {
    "vectors with zeros": zero_vectors,
    "data cut off": lambda path: truncate(largest(path, "data")),
    "data missing": lambda path: largest(path, "data").unlink(),
    "data of another kind": lambda path: largest(path, "data").write_bytes(b"precious"),
    "manifest cut off": lambda path: truncate(largest(path, "_versions")),
    "manifest emptied": lambda path: largest(path, "_versions").write_bytes(b""),
    "versions missing": lambda path: shutil.rmtree(path / "units.lance" / "_versions"),
    "rows missing": drop_rows,
    "source scrambled": scramble_source,
}


def truncate(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_index_is_named_and_can_be_rebuilt(damage, build, tmp_path, model, tokenizer):
    build()
    path = tmp_path / "index"
    damage(path)
    with pytest.raises(SearchIndexError, match=r"run: python -m mose\.search index DIR --index .*index"):
        Index.load(path, model, tokenizer).search("parse an ISO date", 10)
    assert salvaged_meta(Location(str(path))).exit_layer == 1
    again = build()
    assert len(again) == 4 and "damaged" in again.report.rebuilt
    assert len(Index.load(path, model, tokenizer).search("add")) == 4


@pytest.mark.slow
def test_a_flipped_bit_gives_an_error_or_the_right_answer(build, tmp_path, model, tokenizer):
    index = build()
    path = tmp_path / "index"
    right = index.search("read a file", 4)
    generator = random.Random(0)
    files = sorted(file for file in (path / "units.lance").rglob("*") if file.is_file())
    refused = 0
    for _ in range(30):
        file = generator.choice(files)
        content = file.read_bytes()
        place = generator.randrange(len(content))
        overwrite(file, place, bytes([content[place] ^ 1 << generator.randrange(8)]))
        try:
            assert Index.load(path, model, tokenizer).search("read a file", 4) == right
        except SearchIndexError:
            refused += 1
        file.write_bytes(content)
    assert refused > 5


def test_a_rebuilt_index_is_seen_though_its_version_has_the_same_number(build, tmp_path, tree):
    reader = build()
    (tree / "numbers.py").write_text("def add_up(a, b):\n    return a + b\n")
    zero_vectors(tmp_path / "index")
    healed = build()
    assert healed.report.rebuilt and healed.snapshot.version == reader.snapshot.version
    assert len(healed) == len(reader)
    assert reader.reload() and "add_up" in reader.units.column("name") and not reader.reload()


OLD = '{"format": 3, "root": "%s"}'


def test_an_index_of_an_older_format_is_named_and_rebuilt(build, tree, tmp_path, model, tokenizer):
    path = tmp_path / "index"
    (path / "generation-000001").mkdir(parents=True)
    (path / "generation-000001" / "meta.json").write_text(OLD % tree)
    (path / "CURRENT").write_text("generation-000001")
    with pytest.raises(SearchIndexError, match="older version of MoSE wrote this index.*run: python -m mose"):
        Index.load(path, model, tokenizer)
    index = build()
    assert len(index) == 4 and sorted(file.name for file in path.iterdir()) == [
        "about.json",
        "lock",
        "units.lance",
    ]


def test_an_index_of_an_older_format_of_another_tree_is_not_replaced(build, tmp_path):
    path = tmp_path / "index"
    (path / "generation-000001").mkdir(parents=True)
    (path / "generation-000001" / "meta.json").write_text(OLD % "/elsewhere")
    (path / "CURRENT").write_text("generation-000001")
    with pytest.raises(ValueError, match="is an index of /elsewhere by an older version"):
        build()
    assert (path / "CURRENT").exists()


def test_a_folder_of_something_else_is_not_touched(build, tmp_path):
    (tmp_path / "index" / "journal").mkdir(parents=True)
    (tmp_path / "index" / "thesis.tex").write_text("precious")
    with pytest.raises(ValueError, match=r"thesis\.tex"):
        build()
