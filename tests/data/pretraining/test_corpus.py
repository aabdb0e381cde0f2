import json
import logging
from collections import Counter
from pathlib import Path

import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from mose.data.pretraining.corpus import load_corpus
from mose.data.source.rules import ReadingRules

SIZES = {name: [5 + 3 * i for i in range(n)] for name, n in (("a", 3), ("b", 40), ("c", 1), ("d", 17), ("e", 9))}


def key(row):
    return row["repository"], row["path"]


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def flat_rows(repositories=6, files=7):
    return [
        {"content": f"text {r}/{f}", "repo_name": f"repo{r}", "path": f"{f}.py", "lang": "Python", "other": f}
        for r in range(repositories)
        for f in range(files)
    ]


def grouped_rows():
    rows = {}
    for row in flat_rows():
        files = rows.setdefault(row["repo_name"], {"repo_name": row["repo_name"], "num_files": 7, "files": []})
        files["files"].append({"content": row["content"], "path": row["path"], "language": row["lang"]})
    return list(rows.values())


def test_a_pass_over_trees_holds_every_file_once_with_its_package(plant_repositories):
    root = plant_repositories(SIZES)
    corpus = load_corpus([root], held_out=0, shuffle_buffer=10)
    rows = list(corpus)
    assert sorted(map(key, rows)) == sorted(
        (p.parent.name, f"{p.parent.name}/{p.name}") for p in root.rglob("*.py")
    )
    for row in rows:
        assert row["text"] == (root / row["path"]).read_text() and row["language"] == "python"
    assert list(corpus) == rows == list(load_corpus([root], held_out=0, shuffle_buffer=10))
    again = [row for block, _ in corpus.blocks(epoch=1) for row in block]
    assert again != rows and Counter(map(key, again)) == Counter(map(key, rows))
    assert [*load_corpus([root], held_out=0, shuffle_buffer=10, seed=1)] != rows


def test_a_root_that_is_a_project_is_one_repository(plant_repositories):
    root = plant_repositories({"src": [5, 6], "more": [7]})
    (root / "pyproject.toml").write_text("[project]\n")
    assert {row["repository"] for row in load_corpus([root], held_out=0)} == {"tree"}


def test_blocks_are_bounded_grouped_and_have_two_repositories(plant_repositories):
    corpus = load_corpus([plant_repositories(SIZES)], held_out=0, shuffle_buffer=20)
    blocks = [rows for rows, _ in corpus.blocks()]
    for rows in blocks:
        names = [row["repository"] for row in rows]
        assert len(rows) < 20 + 16 + 40  # the buffer, a parcel, and what it takes to see another repository
        starts = [name for name, before in zip(names, [None, *names], strict=False) if name != before]
        assert len(starts) == len(set(starts))
    assert all(len({row["repository"] for row in rows}) > 1 for rows in blocks[:-1])


@pytest.mark.parametrize("suffix", ["jsonl", "json", "parquet", "object"])
@pytest.mark.parametrize("shape", [flat_rows, grouped_rows])
def test_flat_and_grouped_datasets_give_the_same_rows(tmp_path, shape, suffix):
    path = tmp_path / f"data.{suffix}"
    if suffix == "parquet":
        Dataset.from_list(shape()).to_parquet(path)
    elif suffix == "json":
        path.write_text(json.dumps(shape()))
    else:
        write_lines(path, shape())
    source = Dataset.from_list(shape()) if suffix == "object" else path
    assert list(load_corpus(datasets=[source], held_out=0)) == [
        {
            "text": row["content"],
            "repository": row["repo_name"],
            "language": "python",
            "path": row["path"],
        }
        for row in flat_rows()
    ]


def test_a_column_mapping_names_what_no_alias_knows(tmp_path):
    rows = [{"src": "a()", "project": f"r{i}", "text": "not this", "where": "x.go"} for i in range(2)]
    mapping = {"src": "text", "project": "repository", "where": "path"}
    found = list(
        load_corpus(datasets=[write_lines(tmp_path / "d.jsonl", rows)], column_mapping=mapping, held_out=0)
    )
    assert found[0] == {"text": "a()", "repository": "r0", "language": "go", "path": "x.go"}


@pytest.fixture(scope="module")
def many_sources(tmp_path_factory):
    """A tree, a dataset of three shards and one of a single file of grouped rows."""
    folder = tmp_path_factory.mktemp("sources")
    for repository, files in SIZES.items():
        (folder / "tree" / repository).mkdir(parents=True)
        for number, words in enumerate(files):
            (folder / "tree" / repository / f"{number}.py").write_text(f"{repository} " * words)
    (folder / "shards").mkdir()
    for shard in range(3):
        rows = [{**row, "repo_name": f"{row['repo_name']}-{shard}"} for row in flat_rows(4, 6)]
        write_lines(folder / "shards" / f"{shard}.jsonl", rows)
    write_lines(folder / "grouped.jsonl", grouped_rows())
    return folder


def load_many(folder, **options):
    return load_corpus([folder / "tree"], [folder / "shards", folder / "grouped.jsonl"], **options)


@pytest.mark.slow
@settings(max_examples=12, deadline=None)
@given(st.data())
def test_blocks_go_on_from_any_state(many_sources, data):
    buffer = data.draw(st.sampled_from([4, 13, 50]), "buffer")
    lanes = data.draw(st.sampled_from([1, 2, 3]), "lanes")
    lane, epoch = data.draw(st.integers(0, lanes - 1), "lane"), data.draw(st.integers(0, 1), "epoch")
    corpus = load_many(many_sources, held_out=0, shuffle_buffer=buffer)
    blocks = list(corpus.blocks(epoch, lane, lanes))
    at = data.draw(st.integers(0, len(blocks) - 1), "at")
    state = json.loads(json.dumps(blocks[at][1]))
    other = load_many(many_sources, held_out=0, shuffle_buffer=buffer)
    assert list(other.blocks(epoch, lane, lanes, state)) == blocks[at + 1 :]


@pytest.mark.parametrize("lanes", [2, 3, 4])
def test_lanes_hold_every_file_once(many_sources, lanes):
    corpus = load_many(many_sources, held_out=0, shuffle_buffer=20)
    parts = [[key(row) for rows, _ in corpus.blocks(0, lane, lanes) for row in rows] for lane in range(lanes)]
    assert all(parts)
    assert Counter(sum(parts, [])) == Counter(map(key, corpus))


def test_sources_are_mixed_by_volume(tmp_path):
    rows = [{"text": "x" * 100, "repository": f"{name}{i}"} for name in "ab" for i in range(40)]
    paths = [write_lines(tmp_path / f"{n}.jsonl", part) for n, part in enumerate((rows[:40], rows[40:] * 2))]
    names = [row["repository"][0] for row in load_corpus(datasets=paths, held_out=0, shuffle_buffer=8)]
    assert Counter(names[:40]) == {"a": 20, "b": 20} and Counter(names) == {"a": 40, "b": 80}


@pytest.mark.slow
def test_held_out_repositories_are_never_trained_on(tmp_path):
    rows = [{"text": f"t {i}", "repository": f"owner/repo-{i}"} for i in range(2000)]
    path = write_lines(tmp_path / "d.jsonl", rows)
    parts = {
        part: {row["repository"] for row in load_corpus(datasets=[path], held_out=0.1, part=part)}
        for part in ("train", "held_out")
    }
    assert not parts["train"] & parts["held_out"]
    assert len(parts["train"] | parts["held_out"]) == 2000
    assert 140 < len(parts["held_out"]) < 260  # binomial: more than four standard deviations about 200
    # A name is on one side whatever else is there, and stays held out when the share grows.
    few = write_lines(tmp_path / "few.jsonl", rows[::3])
    again = {row["repository"] for row in load_corpus(datasets=[few], held_out=0.1, part="held_out", seed=9)}
    assert again == parts["held_out"] & {row["repository"] for row in rows[::3]}
    more = {row["repository"] for row in load_corpus(datasets=[path], held_out=0.3, part="held_out")}
    assert parts["held_out"] < more
    named = load_corpus(datasets=[path], held_out=["owner/repo-7"], part="held_out")
    assert [row["repository"] for row in named] == ["owner/repo-7"]
    orders = (["owner/repo-7", "owner/repo-8"], ["owner/repo-8", "owner/repo-7"])  # as a set may have them
    assert len({load_corpus(datasets=[few], held_out=names).fingerprint() for names in orders}) == 1
    with pytest.raises(ValueError, match=r"held_out must be in \[0, 1\), got '0.1'"):
        load_corpus(datasets=[few], held_out="0.1")


def test_near_duplicates_are_left_out(tmp_path, plant_repositories):
    root = plant_repositories({"a": [200, 300], "b": [250]})
    text = (root / "a" / "f000.py").read_text()
    (root / "c").mkdir()
    (root / "c" / "copy.py").write_text(text.replace("a1", "a2", 1))
    kept = [row["path"] for row in load_corpus([root], held_out=0, near_duplicates=True, progress=False)]
    assert sorted(kept) == ["a/f000.py", "a/f001.py", "b/f000.py"]
    rows = [{"text": text, "repository": "a"}, {"text": "else " * 9, "repository": "b"}]
    rows.append({"text": text + "more", "repository": "c"})
    corpus = load_corpus(datasets=[write_lines(tmp_path / "d.jsonl", rows)], held_out=0, near_duplicates=True)
    assert [row["repository"] for row in corpus] == ["a", "b"] and corpus.counts["near-duplicate"] == 1


def test_files_left_out_are_counted_and_named(plant_repositories, caplog):
    root = plant_repositories({"a": [5], "b": [6]})
    for name, data in (
        ("empty.py", b" \n"),
        ("latin.py", b"x = '\xe9'\r"),
        ("bin.py", b"a\0"),
        ("big.py", b"a = 1\n" * 100),
        ("made.py", b"# @generated\n"),
        ("notes.rst", b""),
    ):
        (root / "a" / name).write_bytes(data)
    texts = [b"x", b"", b"y", b"\xe9", b"\0\0"]
    data = Dataset.from_dict({"content": texts, "repo_name": [None, "a", "a", "a", "a"]})

    with caplog.at_level(logging.WARNING):
        corpus = load_corpus([root], [data], held_out=0, rules=ReadingRules(max_file_bytes=500))
        caplog.clear()
        texts = [row["text"] for row in corpus]
    assert len(texts) == 5 and {"x = 'é'\n", "y", "é"} < set(texts)
    skipped = {"empty": 2, "binary": 2, "too large": 1, "generated": 1, "without repository": 1}
    assert corpus.counts == {"files": 5, **skipped}
    messages = [record.getMessage() for record in caplog.records]
    assert any("5 files read so far; skipped: {'binary': 2, 'empty': 2" in message for message in messages)

    list(corpus)  # a second pass reads the same files again, and reports none twice
    report = corpus.reading()
    left_out = {reason: [Path(name).name for name in names] for reason, names in report.left_out.items()}
    assert left_out == {
        **{"empty": ["empty.py"], "binary": ["bin.py"], "too large": ["big.py"], "generated": ["made.py"]},
    }
    assert (report.read, report.unasked) == ({"python": 3}, {"text": 1})


def test_bad_sources_are_named_before_anything_is_read(tmp_path, plant_repositories):
    root = plant_repositories({"a": [5], "b": [6]})
    no_repository = write_lines(tmp_path / "n.jsonl", [{"content": "x", "stars": 1}])
    with pytest.raises(
        ValueError, match=r"column with the repository, got content, stars.*column_mapping={'NAME'"
    ):
        load_corpus(datasets=[no_repository])
    ids = write_lines(tmp_path / "i.jsonl", [{"repo_name": "r", "files": [{"blob_id": "1", "path": "a.py"}]}])
    with pytest.raises(ValueError, match=r"of a file: blob_id, path.*download"):
        load_corpus(datasets=[ids])
    empty = write_lines(tmp_path / "e.jsonl", [{"content": " ", "repo_name": "r"}] * 3)
    with pytest.raises(ValueError, match="no file is left.*e.jsonl; skipped: 3 empty"):
        load_corpus(datasets=[empty], held_out=0)
    (tmp_path / "blank" / "a").mkdir(parents=True)
    (tmp_path / "blank" / "a" / "x.py").write_text("")
    with pytest.raises(ValueError, match="no file is left.*1 empty"):
        load_corpus([tmp_path / "blank"], held_out=0)
    (tmp_path / "blank" / "a" / "x.py").unlink()
    with pytest.raises(ValueError, match="blank' has no source file"):
        load_corpus([tmp_path / "blank"])
    with pytest.raises(ValueError, match="does not exist"):
        load_corpus([tmp_path / "missing"])
    with pytest.raises(ValueError, match="nothing.jsonl"):
        load_corpus(datasets=[tmp_path / "nothing.jsonl"])
    (tmp_path / "none.jsonl").write_text("")
    with pytest.raises(ValueError, match="none.jsonl"):
        load_corpus(datasets=[tmp_path / "none.jsonl"])
    (tmp_path / "broken.jsonl").write_text("{no json\n")
    with pytest.raises(ValueError, match="broken.jsonl"):
        load_corpus(datasets=[tmp_path / "broken.jsonl"])
    with pytest.raises(ValueError, match="nothing to read"):
        load_corpus()
    with pytest.raises(ValueError, match="none of the 2 repositories"):
        load_corpus([root], held_out=["c"], part="held_out")
    for options, message in (
        ({"held_out": 1.0}, r"held_out must be in \[0, 1\), got 1.0"),
        ({"part": "test"}, "part must be one of train, held_out, got 'test'"),
        ({"shuffle_buffer": 1}, "shuffle_buffer must be at least 2, got 1"),
        ({"column_mapping": {"x": "y"}}, "column_mapping"),
        ({"languages": ["cobol"]}, "cobol"),
    ):
        with pytest.raises(ValueError, match=message):
            load_corpus([root], **options)


def test_telling_repositories_apart_needs_two(plant_repositories):
    corpus = load_corpus([plant_repositories({"a": [5, 6]})], held_out=0)
    corpus.check()
    with pytest.raises(ValueError, match="from 2 repositories or more; all are from 'a'"):
        corpus.check(repositories=2)


def test_no_repository_gives_more_files_than_wanted(plant_repositories):
    """A cap draws the same files whatever the rest of the corpus is, evenly rather than the first ones."""
    root = plant_repositories(SIZES)
    capped = Counter(row["repository"] for row in load_corpus([root], held_out=0, files_per_repository=9))
    assert capped == {"a": 3, "b": 9, "c": 1, "d": 9, "e": 9}
    drawn = {key(row) for row in load_corpus([root], held_out=0, files_per_repository=9)}
    assert {key(row) for row in load_corpus([root], held_out=["a"], files_per_repository=9)} == {
        (repository, path) for repository, path in drawn if repository != "a"
    }
    assert {key(row) for row in load_corpus([root], held_out=0, files_per_repository=4)} < drawn
    firsts = sorted(p.relative_to(root).as_posix() for p in (root / "b").rglob("*.py"))[:9]
    assert {path for repository, path in drawn if repository == "b"} != set(firsts)
    with pytest.raises(ValueError, match="files_per_repository must be at least 1, got 0"):
        load_corpus([root], held_out=0, files_per_repository=0)
