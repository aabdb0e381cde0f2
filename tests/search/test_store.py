"""An index survives kills and damage, and refuses other writers and other models."""

import shutil
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, processors
from transformers import PreTrainedTokenizerFast

import mose.search.index
from mose.inference.fingerprints import model_fingerprint
from mose.inference.loading import load_model
from mose.search.index import Index
from mose.search.store import FORMAT, Entry, Meta, SearchIndexError, index_writer, read_generation
from mose.tokenization.prompts import code_prompt

KILLED = """
import os, signal, sys
from pathlib import Path
import mose.search.index
from mose.inference.loading import load_model
from mose.search import Index
mose.search.index.CHUNK = 10
where, model, tree, index = sys.argv[1:]
def die(*_): os.kill(os.getpid(), signal.SIGKILL)
embed, replace, chunks = mose.search.index._encode_texts, Path.replace, []
def embed_two_chunks(*arguments):
    chunks.append(arguments)
    return embed(*arguments) if len(chunks) < 3 else die()
if where == "embedding":
    mose.search.index._encode_texts = embed_two_chunks
else:
    Path.replace = lambda partial, target: die() if target.name.startswith(where) else replace(partial, target)
Index.build(tree, *load_model(model, [1])[:2], index, 1, progress=False)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("where", "left_to_embed"), [("embedding", 20), ("generation", 0), ("CURRENT", 0)])
def test_a_killed_build_leaves_the_old_index_and_its_work(
    where, left_to_embed, tree, many, tmp_path, model_folder, embed, monkeypatch
):
    model, tokenizer, _ = load_model(model_folder, [1])
    path = tmp_path / "index"
    Index.build(tree, model, tokenizer, path, progress=False)
    command = [sys.executable, "-c", KILLED, where, str(model_folder), str(many), str(path)]
    killed = subprocess.run(command, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr

    old = Index.load(path, model, tokenizer)
    assert {hit.name for hit in old.search("add", 10)} == {"parse_iso_date", "next_month", "add", "readFile"}

    monkeypatch.setattr(mose.search.index, "CHUNK", 10)
    new = Index.build(many, model, tokenizer, path, progress=False)
    assert len(new) == 40
    assert new.report and new.report.embedded == left_to_embed
    assert len(list(path.glob("generation-*"))) == 1 and not (path / "journal").exists()
    headers = [f"{row['path']} {row['qualified_name']}\n" for row in new.units]
    texts = [
        code_prompt("python") + header + row["source"] for header, row in zip(headers, new.units, strict=True)
    ]
    alone = embed(model, texts, 1)
    assert (np.array(new.units["embedding"]) * alone).sum(axis=1).min() > 0.999


@pytest.mark.slow
def test_a_damaged_journal_is_computed_again(build, tmp_path):
    index = build()
    with index_writer(tmp_path / "index") as writer:
        writer.journal(index.meta.space, ["a"], np.ones((1, 32), np.float32))
        writer.journal(index.meta.space, ["b"], np.zeros((1, 32), np.float32))
        damaged = next((tmp_path / "index" / "journal").iterdir())
        damaged.write_bytes(damaged.read_bytes()[:100])
        assert len(writer.journalled(index.meta.space)) == 1
        assert writer.journalled("another space") == {}


def commit(path, names):
    """Write an index of functions with these names."""
    entries = [Entry("a.py", "function", name, name, "python", 1, 1, f"def {name}(): pass") for name in names]
    meta = Meta(FORMAT, "m", "f", 1, 512, len(entries), 4, "/", {}, [])
    with index_writer(path) as writer:
        writer.commit(meta, entries, np.eye(len(entries), 4, dtype=np.float32))


@pytest.mark.slow
def test_readers_see_whole_indexes_while_one_is_replaced(tmp_path):
    commit(tmp_path, ["v0"] * 3)
    ended = threading.Event()

    def keep_reading():
        seen = set()
        while not ended.is_set():
            generation = read_generation(tmp_path)
            seen.add((tuple(entry.name for entry in generation.entries()), generation.vectors.ntotal))
        return seen

    with ThreadPoolExecutor(1) as pool:
        reader = pool.submit(keep_reading)
        try:
            for version in range(1, 12):
                commit(tmp_path, [f"v{version}"] * (version % 3 + 1))
        finally:
            ended.set()
    seen = reader.result()
    assert len(seen) > 1
    assert all(len(set(names)) == 1 and len(names) == rows for names, rows in seen)


def test_one_build_at_a_time(build, tmp_path):
    with index_writer(tmp_path / "index"), pytest.raises(SearchIndexError, match="another build"):
        build()
    assert len(build()) == 4


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


def truncate(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


DAMAGE = {
    "meta cut off": lambda path, folder: truncate(folder / "meta.json"),
    "meta of another kind": lambda path, folder: (folder / "meta.json").write_text('["format"]'),
    "meta of the future": lambda path, folder: (folder / "meta.json").write_text('{"format": 99}'),
    "vectors cut off": lambda path, folder: truncate(folder / "vectors.faiss"),
    "vectors missing": lambda path, folder: (folder / "vectors.faiss").unlink(),
    "units cut off": lambda path, folder: truncate(next((folder / "units").glob("*.arrow"))),
    "units missing": lambda path, folder: shutil.rmtree(folder / "units"),
    "words missing": lambda path, folder: shutil.rmtree(folder / "bm25"),
    "words cut off": lambda path, folder: truncate(folder / "bm25" / "data.csc.index.npy"),
    "words emptied": lambda path, folder: (folder / "bm25" / "data.csc.index.npy").write_bytes(b""),
    "pointer outside": lambda path, folder: (path / "CURRENT").write_text("../elsewhere"),
    "pointer empty": lambda path, folder: (path / "CURRENT").write_text(""),
    "pointer missing": lambda path, folder: (path / "CURRENT").unlink(),
}


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_index_is_named_and_can_be_rebuilt(damage, build, tmp_path, model, tokenizer):
    build()
    path = tmp_path / "index"
    damage(path, next(path.glob("generation-*")))
    with pytest.raises(SearchIndexError, match=r"run: python -m mose\.search index DIR --index .*index"):
        Index.load(path, model, tokenizer)
    assert len(build()) == 4
    assert len(Index.load(path, model, tokenizer).search("add")) == 4


def test_a_folder_of_something_else_is_not_touched(build, tmp_path):
    (tmp_path / "index" / "journal").mkdir(parents=True)
    (tmp_path / "index" / "thesis.tex").write_text("precious")
    with pytest.raises(ValueError, match="thesis.tex"):
        build()
