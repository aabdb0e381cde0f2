import itertools
import json
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from mose.data.pretraining.corpus import load_corpus
from mose.data.pretraining.masking import MLMCollator
from mose.data.pretraining.stream import PreTrainingStream

LENGTH = 48
SHAPES = ("tree", "shards", "both")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A source tree, and a dataset in three shards, one row a file."""
    folder = tmp_path_factory.mktemp("corpus")
    for r in range(9):
        (folder / "tree" / f"r{r}").mkdir(parents=True)
        for f in range(4 + r):
            (folder / "tree" / f"r{r}" / f"{f}.py").write_text(f"value_{r} = {f} + x\n" * (3 + (5 * r + f) % 7))
    (folder / "shards").mkdir()
    for shard in range(3):
        rows = [
            {"content": f"def f{i}(x): return {i % 5} * x\n" * (2 + i % 6), "repo_name": f"o/{shard}-{i % 5}"}
            for i in range(30)
        ]
        (folder / "shards" / f"{shard}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def make_stream(folder, tiny_tokenizer):
    def make(shape="both", objective="icc", buffer=24, **options):
        corpus = load_corpus(
            [folder / "tree"] if shape != "shards" else [],
            [folder / "shards"] if shape != "tree" else [],
            held_out=0,
            shuffle_buffer=buffer,
        )
        return PreTrainingStream(corpus, tiny_tokenizer, LENGTH, objective, **options)

    return make


def take(stream, n):
    return list(itertools.islice(stream, n))


@pytest.mark.slow
@settings(max_examples=10, deadline=None)
@given(st.data())
def test_a_run_killed_at_any_points_sees_what_an_unbroken_run_sees(make_stream, data):
    """Each life of the run takes some examples, saves having used fewer of them, and dies."""
    shape = data.draw(st.sampled_from(SHAPES), "shape")
    lanes = data.draw(st.sampled_from([1, 2, 3]), "lanes")
    objective = data.draw(st.sampled_from(["icc", "nsp", "none"]), "objective")
    cuts = data.draw(st.lists(st.tuples(st.integers(0, 250), st.integers(0, 40)), max_size=3), "cuts")
    world = data.draw(st.sampled_from([1, 2, 3]), "world")
    options = {"shape": shape, "objective": objective, "lanes": lanes}
    unbroken = make_stream(**options)
    state, used, seen = None, 0, []
    for more, ahead in [*cuts, (20, 0)]:
        streams = [make_stream(**options, rank=rank, world_size=world) for rank in range(world)]
        parts = []
        for stream in streams:
            if state is not None:
                stream.load_state_dict(state)
            parts.append(take(stream, more + ahead)[:more])
        seen += [example for step in zip(*parts, strict=True) for example in step]
        used += more * world
        state = json.loads(json.dumps(streams[-1].state_dict(used)))
        assert state["examples"] == used
    assert seen == take(unbroken, used)
    assert [example["index"] for example in seen] == list(range(used))


def test_the_stream_goes_on_into_other_passes(make_stream):
    one = len(list(make_stream(epochs=1)))
    assert one > 50
    endless = take(make_stream(), 3 * one)
    second = make_stream(epochs=1)
    second.set_epoch(1)
    bodies = [[{**example, "index": 0} for example in part] for part in (endless[:one], endless[one:], [*second])]
    assert bodies[1][: len(bodies[2])] == bodies[2] != bodies[0][: len(bodies[2])]
    # The loops that call this at the start of every epoch must not undo what was loaded.
    resumed = make_stream()
    resumed.load_state_dict({**make_stream().state_dict(), "examples": 7})
    resumed.set_epoch(0)
    assert next(iter(resumed)) == endless[7]


@pytest.mark.slow
@pytest.mark.parametrize("lanes", [1, 2, 4])
@pytest.mark.parametrize("world", [2, 4])
def test_processes_together_see_the_batches_of_one(make_stream, lanes, world):
    whole = take(make_stream(lanes=lanes), 40 * world)
    parts = [take(make_stream(lanes=lanes, rank=rank, world_size=world), 40) for rank in range(world)]
    assert [example for step in zip(*parts, strict=True) for example in step] == whole


def test_with_lanes_a_process_reads_its_own_part_only(make_stream, monkeypatch):
    for rank in range(2):
        stream = make_stream(lanes=4, rank=rank, world_size=2)
        blocks, lanes = stream.corpus.blocks, set()
        monkeypatch.setattr(
            stream.corpus, "blocks", lambda e, lane, *rest, b=blocks, s=lanes: s.add(lane) or b(e, lane, *rest)
        )
        take(stream, 50)
        assert lanes == {rank, rank + 2}
        assert set(stream.state_dict()["marks"]) == {str(rank), str(rank + 2)}


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_workers_and_read_ahead_change_nothing(make_stream, tiny_tokenizer, workers):
    collator = MLMCollator(tiny_tokenizer)
    expected = take(make_stream(), 40)
    stream = make_stream(batch_size=4)
    loader = DataLoader(stream, batch_size=4, num_workers=workers, collate_fn=collator)
    for at, batch in enumerate(itertools.islice(loader, 10)):
        wanted = collator(expected[4 * at : 4 * at + 4])
        assert all(batch[name].equal(wanted[name]) for name in wanted)
    # What a loader's workers read is unknown here; the state is right all the same.
    other = make_stream()
    other.load_state_dict(stream.state_dict(12))
    assert take(other, 5) == expected[12:17]


def test_going_on_reads_one_block_again_and_one_ahead(make_stream):
    stream = make_stream(buffer=8)
    seen = take(stream, 600)
    block = 8 + 16 + 16  # the buffer, a parcel, and what it takes to see another repository
    assert stream.corpus.counts["files"] > 4 * block
    other = make_stream(buffer=8)
    other.load_state_dict(stream.state_dict(590))
    assert take(other, 1) == seen[590:591]
    assert other.corpus.counts["files"] <= 2 * block


def test_the_state_of_another_stream_is_refused(make_stream, folder):
    state = make_stream().state_dict()
    make_stream(rank=1, world_size=2).load_state_dict(state)
    for options in ({"shape": "tree"}, {"objective": "nsp"}, {"buffer": 25}, {"lanes": 2}, {"seed": 1}):
        with pytest.raises(ValueError, match="another stream"):
            make_stream(**options).load_state_dict(state)
    for name in ("new.py", "0.py"):  # a file that is new, and one that has grown
        file = folder / "tree" / "r0" / name
        before = file.read_text() if file.exists() else None
        file.write_text((before or "") + "x = 1")
        with pytest.raises(ValueError, match="another stream"):
            make_stream().load_state_dict(state)
        file.unlink()
        if before is not None:
            file.write_text(before)
    make_stream().load_state_dict(state)


def test_bad_arguments_and_corpora_are_named_before_the_first_example(
    make_stream, tiny_tokenizer, tmp_path, monkeypatch
):
    for options, message in (
        ({"rank": 2, "world_size": 2}, r"rank must be in \[0, world_size=2\), got 2"),
        ({"lanes": 0}, "lanes must be at least 1, got 0"),
        ({"epochs": 1, "lanes": 2}, "lanes must be 1 with epochs=1, got 2"),
    ):
        with pytest.raises(ValueError, match=message):
            make_stream(**options)
    for name in ("a.py", "b.py"):
        (tmp_path / "one").mkdir(exist_ok=True)
        (tmp_path / "one" / name).write_text("x = 1\n" * 50)
    (tmp_path / "one" / "setup.py").write_text("")
    corpus = load_corpus([tmp_path / "one"], held_out=0)
    with pytest.raises(ValueError, match="from 2 repositories or more; all are from 'one'"):
        PreTrainingStream(corpus, tiny_tokenizer, LENGTH)
    assert take(PreTrainingStream(corpus, tiny_tokenizer, LENGTH, "none"), 3)
    with pytest.raises(ValueError, match="max_length must be at least 5 .*got 4"):
        PreTrainingStream(corpus, tiny_tokenizer, 4)
    (tmp_path / "tiny" / "a").mkdir(parents=True)
    (tmp_path / "tiny" / "b").mkdir()
    for name in "ab":
        (tmp_path / "tiny" / name / "x.py").write_text("x")
    with pytest.raises(ValueError, match="gives no example.*'files': 2"):
        take(PreTrainingStream(load_corpus([tmp_path / "tiny"], held_out=0), tiny_tokenizer, LENGTH), 1)
    monkeypatch.setattr(
        "mose.data.pretraining.stream.get_worker_info", lambda: SimpleNamespace(id=0, num_workers=2)
    )
    with pytest.raises(ValueError, match="batch_size must be .*if it has 2 workers"):
        take(make_stream(), 1)


def test_taking_the_state_leaves_the_tokenizer_of_the_reading_thread_alone(make_stream):
    stream = make_stream()
    assert take(stream, 1)
    backend = stream.builder.tokenizer.backend_tokenizer
    assert backend.encode_special_tokens  # special tokens in a file are text
    stream.state_dict()
    assert backend.encode_special_tokens
