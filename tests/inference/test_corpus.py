"""A corpus encoded into a store equals one encoded in memory."""

import copy
import multiprocessing
import os
import queue
import signal

import numpy as np
import pytest
import torch

from mose.eval.baselines import load_baseline
from mose.inference import corpus
from mose.inference.corpus import encode_corpus
from mose.inference.encoders import MoSEEncoder
from mose.inference.encoding import encode
from mose.inference.progress import TokenBar
from mose.inference.store import Store, StoreError, open_for_writing, open_store
from mose.tokenization.prompts import code_prompt, text_prompt

TEXTS = [f"def f{i}(x):\n    return {'x + ' * (i % 7)}{i}" for i in range(22)]
LANGUAGES = ["python", "java"] * 11


@pytest.fixture(scope="module")
def encoder(model, tokenizer, model_folder):
    return MoSEEncoder(model, tokenizer, [0, 3], source=str(model_folder))


@pytest.fixture
def counted(monkeypatch):
    """Numbers of the shards that this process encodes."""
    encoded, make = [], corpus._encode_shard

    def count(encoder, task, progress):
        encoded.append(task.shard)
        return make(encoder, task, progress)

    monkeypatch.setattr(corpus, "_encode_shard", count)
    return encoded


def assert_right(store, model, tokenizer):
    expected = encode(model, tokenizer, TEXTS, [0, 3], [code_prompt(language) for language in LANGUAGES])
    for exit_layer, embeddings in expected.items():
        np.testing.assert_allclose(np.asarray(store[str(exit_layer)]), embeddings, atol=1e-5)


def test_shards_equal_one_call_and_are_encoded_once(encoder, model, tokenizer, tmp_path, counted):
    store = encode_corpus(encoder, TEXTS, tmp_path, LANGUAGES, shard_rows=8)
    assert_right(store, model, tokenizer)
    assert counted == [0, 1, 2]
    assert_right(encode_corpus(encoder, TEXTS, tmp_path, LANGUAGES, shard_rows=8), model, tokenizer)
    assert counted == [0, 1, 2]


def test_queries_get_their_prompt(encoder, model, tokenizer, tmp_path):
    store = encode_corpus(encoder, ["add", "sum"], tmp_path, query=True)
    expected = encode(model, tokenizer, ["add", "sum"], [3], text_prompt())[3]
    np.testing.assert_allclose(np.asarray(store["3"]), expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("renamed", "left"), [(False, [1, 2]), (True, [2])])
def test_a_killed_run_is_resumed(encoder, model, tokenizer, tmp_path, counted, renamed, left):
    """kill -9 at the worst moments: right before or after the second shard is renamed."""
    if (child := os.fork()) == 0:
        replace = type(tmp_path).replace

        def die(partial, target):
            if "shard-000001" not in target.name:
                return replace(partial, target)
            if renamed:
                replace(partial, target)
            return os.kill(os.getpid(), signal.SIGKILL)

        type(tmp_path).replace = die
        encode_corpus(encoder, TEXTS, tmp_path, LANGUAGES, shard_rows=8)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    with pytest.raises(StoreError, match=f"{len(left)} of 3 shards are missing"):
        open_store(tmp_path)
    assert_right(encode_corpus(encoder, TEXTS, tmp_path, LANGUAGES, shard_rows=8), model, tokenizer)
    assert counted == left


def test_a_truncated_shard_is_encoded_again(encoder, model, tokenizer, tmp_path, counted, capsys):
    store = encode_corpus(encoder, TEXTS, tmp_path, LANGUAGES, shard_rows=8)
    os.truncate(store.file(1), 200)
    counted.clear()
    assert_right(encode_corpus(encoder, TEXTS, tmp_path, LANGUAGES, shard_rows=8), model, tokenizer)
    assert counted == [1]
    assert "1 damaged shards are encoded again" in capsys.readouterr().err


def test_what_embeddings_depend_on_invalidates_them(encoder, model, tokenizer, model_folder, tmp_path, counted):
    def encoder_of(model=model, **options):
        return MoSEEncoder(model, tokenizer, [0, 3], source=str(model_folder), **options)

    changed = copy.deepcopy(model)
    with torch.no_grad():
        changed.layers[2].mlp.c_fc.weight[0, 0] += 1e-3
    norm = copy.deepcopy(model)
    norm.config.norm_epsilon = 1e-3
    encode_corpus(encoder, TEXTS, tmp_path)
    for other, texts, languages in (
        (encoder_of(changed), TEXTS, None),
        (encoder_of(norm), TEXTS, None),
        (encoder_of(max_length=9), TEXTS, None),
        (encoder_of(dtype=torch.bfloat16), TEXTS, None),
        (encoder, [*TEXTS[:-1], "new"], None),
        (encoder, TEXTS, LANGUAGES),
    ):
        counted.clear()
        encode_corpus(other, texts, tmp_path, languages)
        encode_corpus(other, texts, tmp_path, languages)
        assert counted == [0]


@pytest.mark.slow
def test_several_processes(encoder, model, tokenizer, tmp_path, counted):
    """Each with a model of its own; nothing is encoded here."""
    store = encode_corpus(encoder, TEXTS, tmp_path, LANGUAGES, devices=["cpu", "cpu"], shard_rows=4)
    assert_right(store, model, tokenizer)
    assert counted == []


def test_a_process_that_dies_is_named_and_finished_shards_are_kept(encoder, tmp_path, monkeypatch):
    make, parent = corpus._encode_shard, os.getpid()

    def die_at_the_third(encoder, task, progress):
        if task.shard == 2:
            assert os.getpid() != parent
            os.kill(os.getpid(), signal.SIGKILL)
        return make(encoder, task, progress)

    monkeypatch.setattr(corpus, "_encode_shard", die_at_the_third)
    monkeypatch.setattr(corpus, "_start_context", lambda: multiprocessing.get_context("fork"))
    with pytest.raises(RuntimeError, match="an encoding process died"):
        encode_corpus(encoder, TEXTS, tmp_path, LANGUAGES, devices=["cpu"], shard_rows=2)
    assert Store.read(tmp_path).unfinished == list(range(2, 11))
    with open_for_writing(tmp_path, Store.read(tmp_path).spec) as (store, damaged):
        assert not damaged and store.unfinished == list(range(2, 11))


def test_a_process_that_loads_another_model_says_so(model, tokenizer, model_folder, monkeypatch):
    changed = copy.deepcopy(model)
    with torch.no_grad():
        changed.embed_tokens.weight[5, 0] += 1
    encoder = MoSEEncoder(changed, tokenizer, [0, 3], source=str(model_folder))
    free: queue.Queue = queue.Queue()
    free.put("cpu")
    setup = corpus._WorkerSetup(encoder.load, free, None, torch.get_num_threads())
    monkeypatch.setattr(corpus, "_setup", setup, False)
    for _ in range(2):  # the device is free again: a second task fails, too, and does not wait for one
        with pytest.raises(RuntimeError, match="the model on disk is not the model in memory"):
            corpus._worker_encoder(encoder.fingerprint())
        assert free.qsize() == 1


def test_a_baseline_is_stored_as_well(tiny_teacher, tmp_path, counted):
    baseline = load_baseline(tiny_teacher, device="cpu")
    store = encode_corpus(baseline, TEXTS, tmp_path, shard_rows=8, progress=True)
    np.testing.assert_allclose(np.asarray(store[baseline.name]), baseline.encode_documents(TEXTS), atol=1e-5)
    encode_corpus(load_baseline(tiny_teacher, device="cpu"), TEXTS, tmp_path, shard_rows=8)
    assert counted == [0, 1, 2]
    encode_corpus(load_baseline(tiny_teacher, max_length=5, device="cpu"), TEXTS, tmp_path, shard_rows=8)
    assert counted == [0, 1, 2] * 2


def test_time_left_is_counted_in_tokens(model, tokenizer):
    """Exact once all is tokenized; before, as if the rest had as many tokens per character."""
    texts = ["q" * 40, "q q " * 10]
    with TokenBar(sum(map(len, texts)) + 40, shown=False) as bar:
        totals = []
        counted = type("Listener", (), {})()
        counted.tokenized = lambda characters, tokens: (bar.tokenized(characters, tokens), totals.append(tokens))
        done = []
        counted.encoded = done.append
        encode(model, tokenizer, texts, [0], token_budget=1, progress=counted)
        assert sum(totals) == sum(done) == sum(len(tokenizer(text)["input_ids"]) for text in texts)
        assert len(done) == 2  # news with every batch
        assert bar.total == round(sum(done) * 1.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"texts": []}, "no texts"),
        ({"languages": ["python"]}, "1 languages for 22"),
        ({"shard_rows": 0}, "shard_rows must be at least 1, got 0"),
    ],
)
def test_bad_input_is_named(encoder, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        encode_corpus(**{"encoder": encoder, "texts": TEXTS, "folder": tmp_path, **options})
