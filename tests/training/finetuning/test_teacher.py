import numpy as np
import pytest
import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer

from mose.training.finetuning import teacher
from mose.training.finetuning.teacher import (
    Teacher,
    attach_teacher,
    cached_embeddings,
    joint_embeddings,
    load_teacher,
    teacher_embeddings,
    text_key,
)

TEXTS = ["Add two numbers.", "def add(a, b): return a + b", "x", "", "Add two numbers.", "return first" * 20]


@pytest.fixture
def asked(monkeypatch):
    """All texts that a teacher was asked to embed, in the order of asking."""
    texts: list[str] = []
    encode = SentenceTransformer.encode

    def counted(self, sentences, *args, **kwargs):
        texts.extend(sentences)
        return encode(self, sentences, *args, **kwargs)

    monkeypatch.setattr(SentenceTransformer, "encode", counted)
    return texts


def test_embeddings_are_the_teachers_own(tiny_teacher, tmp_path):
    found = teacher_embeddings(TEXTS, tiny_teacher, tmp_path)
    assert found.dtype == np.float16 and found.shape == (len(TEXTS), 48)
    own = SentenceTransformer(tiny_teacher, model_kwargs={"dtype": torch.float32}, device="cpu")
    expected = own.encode(TEXTS, normalize_embeddings=True)
    assert (found * expected).sum(axis=1).min() > 0.999  # bf16 against float32
    assert np.abs(found @ found.T - np.eye(len(TEXTS))).max() > 0.1  # not all alike
    np.testing.assert_allclose(np.linalg.norm(found.astype(np.float64), axis=1), 1, atol=1e-3)


def test_long_texts_are_cut(tiny_teacher, tmp_path):
    long = ["word " * 200, "word " * 300]
    cut = teacher_embeddings(long, tiny_teacher, tmp_path, max_length=16)
    assert np.array_equal(cut[0], cut[1])
    assert load_teacher(tiny_teacher, 16).max_seq_length == 16
    # Another length is another cache.
    whole = teacher_embeddings(long, tiny_teacher, tmp_path, max_length=128)
    assert not np.array_equal(whole[0], cut[0])


def test_each_text_is_embedded_once(tiny_teacher, tmp_path, asked, monkeypatch):
    first = teacher_embeddings(TEXTS, tiny_teacher, tmp_path)
    assert sorted(asked) == sorted(set(TEXTS))
    asked.clear()
    more = teacher_embeddings([*reversed(TEXTS), "new"], tiny_teacher, tmp_path)
    assert asked == ["new"]
    np.testing.assert_array_equal(more[:-1], first[::-1])
    # What is known needs no teacher at all.
    monkeypatch.setattr(teacher, "load_teacher", lambda *_: pytest.fail("the teacher was loaded"))
    np.testing.assert_array_equal(teacher_embeddings(["new"], tiny_teacher, tmp_path), more[-1:])


def test_a_killed_run_goes_on_where_it_stopped(tiny_teacher, tmp_path, asked, monkeypatch):
    texts = [f"text {i} " * (i + 1) for i in range(7)]
    monkeypatch.setattr(teacher, "CHUNK_SIZE", 2)
    expected = teacher_embeddings(texts, tiny_teacher, tmp_path / "unbroken")
    asked.clear()
    save, shards = np.savez, []

    def killed_in_the_third(file, **arrays):
        shards.append(len(arrays["keys"]))
        if len(shards) == 3:
            file.write(b"half of a shard")
            raise KeyboardInterrupt
        save(file, **arrays)

    monkeypatch.setattr(np, "savez", killed_in_the_third)
    with pytest.raises(KeyboardInterrupt):
        teacher_embeddings(texts, tiny_teacher, tmp_path / "killed")
    monkeypatch.setattr(np, "savez", save)
    assert len(asked) == 6
    assert len(list((tmp_path / "killed").rglob("*.chunk"))) == 2
    asked.clear()
    found = teacher_embeddings(texts, tiny_teacher, tmp_path / "killed")
    assert len(asked) == 3  # those of the half-written shard, and the last
    np.testing.assert_array_equal(found, expected)


def test_what_a_teacher_must_not_give(tiny_teacher, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="There are no texts"):
        teacher_embeddings([], tiny_teacher, tmp_path)
    monkeypatch.setattr(SentenceTransformer, "encode", lambda self, texts, **_: np.full((len(texts), 4), np.nan))
    with pytest.raises(ValueError, match=f"teacher {tiny_teacher} returns NaN"):
        teacher_embeddings(["a"], tiny_teacher, tmp_path)
    assert not list(tmp_path.rglob("*.chunk"))


def test_a_teacher_that_is_not_there_is_named(tmp_path):
    with pytest.raises(OSError, match="teacher no/such-teacher: "):
        teacher_embeddings(["a"], "no/such-teacher", tmp_path)


def dataset(rows=12):
    return Dataset.from_list(
        [{"query": f"add {i % 9} to it", "document": f"def add_{i}(a): return a + {i}"} for i in range(rows)]
    )


def centred(texts, teacher, cache):
    """The vectors of a side by the definition: about the mean of its different texts, of unit norm."""
    vectors = {text: teacher_embeddings([text], teacher, cache)[0].astype(np.float32) for text in texts}
    mean = np.mean(list(vectors.values()), axis=0)
    return np.stack([(vectors[text] - mean) / np.linalg.norm(vectors[text] - mean) for text in texts])


def test_the_rows_attached_are_those_of_the_texts(tiny_teacher, tmp_path):
    pairs = dataset()
    taught, vectors = attach_teacher(pairs, tiny_teacher, tmp_path)
    assert len(vectors) == len(set(pairs["query"][:])) + len(set(pairs["document"][:]))
    assert vectors.dtype == torch.float32
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(len(vectors)))
    for side in ("query", "document"):
        assert taught[side][:] == pairs[side][:]
        expected = centred(pairs[side][:], tiny_teacher, tmp_path)
        np.testing.assert_allclose(vectors[taught[f"teacher_{side}"][:]].numpy(), expected, atol=1e-3)


def test_each_side_has_its_prompt(tiny_teacher, tmp_path, asked):
    prompts = {"query": "query: ", "document": "passage: "}
    attach_teacher(dataset(3), Teacher(tiny_teacher, prompts), tmp_path / "given")
    wanted = [f"query: {text}" for text in dataset(3)["query"][:]]
    assert sorted(asked) == sorted([*wanted, *(f"passage: {text}" for text in dataset(3)["document"][:])])

    # Without prompts given, those of the model's own configuration count, as in `encode_document`.
    model = SentenceTransformer(tiny_teacher, device="cpu")
    model.prompts = {"query": "Q ", "passage": "P "}
    model.save(str(tmp_path / "own"))
    own = Teacher(str(tmp_path / "own"))
    assert (own.prompt("query"), own.prompt("document")) == ("Q ", "P ")
    assert Teacher(own.name_or_path, {}).prompt("query") == "" == Teacher("no/such-teacher").prompt("query")


def test_the_similarities_of_several_teachers_are_averaged(tiny_teacher, tmp_path):
    other = tmp_path / "other"
    model = SentenceTransformer(tiny_teacher, device="cpu")
    with torch.no_grad():
        torch.manual_seed(3)
        for weight in model.parameters():
            weight += 0.3 * torch.randn_like(weight)
    model.save(str(other))

    names = [tiny_teacher, str(other)]
    own = [teacher_embeddings(TEXTS, name, tmp_path / "cache").astype(np.float32) for name in names]
    assert np.abs(own[0] @ own[0].T - own[1] @ own[1].T).max() > 0.05  # they differ
    joint = joint_embeddings(TEXTS, names, tmp_path / "cache")
    assert joint.shape == (len(TEXTS), 96) and joint.dtype == np.float32
    np.testing.assert_allclose(joint @ joint.T, (own[0] @ own[0].T + own[1] @ own[1].T) / 2, atol=1e-3)

    taught, vectors = attach_teacher(dataset(), names, tmp_path / "cache")
    for side in ("query", "document"):
        parts = [centred(dataset()[side][:], name, tmp_path / "cache") for name in names]
        expected = np.concatenate(parts, axis=1) / 2**0.5
        np.testing.assert_allclose(vectors[taught[f"teacher_{side}"][:]].numpy(), expected, atol=1e-3)

    with pytest.raises(ValueError, match="at least one teacher, got none"):
        joint_embeddings(TEXTS, [], tmp_path)


@pytest.mark.parametrize("side", ["query", "document"])
def test_the_teacher_may_read_something_else(tiny_teacher, tmp_path, asked, side):
    pairs = dataset(3)
    named = [f"named {i}" for i in range(3)]
    taught, vectors = attach_teacher(pairs.add_column(f"teacher_{side}", named), tiny_teacher, tmp_path)
    assert not any(text in asked for text in pairs[side][:])
    expected = centred(named, tiny_teacher, tmp_path)
    np.testing.assert_allclose(vectors[taught[f"teacher_{side}"][:]].numpy(), expected, atol=1e-3)
    assert taught[side][:] == pairs[side][:]


def test_what_is_cached_is_known_by_its_text(tiny_teacher, tmp_path):
    assert cached_embeddings(tiny_teacher, tmp_path) == {}
    vectors = teacher_embeddings(["a b", "c"], tiny_teacher, tmp_path)
    known = cached_embeddings(tiny_teacher, tmp_path)
    assert known.keys() == {text_key("a b"), text_key("c")}
    np.testing.assert_array_equal(known[text_key("c")], vectors[1])
    assert cached_embeddings(tiny_teacher, tmp_path, 16) == {}
