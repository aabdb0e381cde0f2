import json

import datasets
import pytest

from mose.data.retrieval.retrieval_set import RetrievalSetError, load_retrieval_set

CORPUS = [
    {"_id": "d1", "title": "Dates", "text": "parse", "language": "python"},
    {"_id": "d2", "title": "", "text": "add"},
    {"_id": "d3", "text": "sub", "language": "go"},
]
QUERIES = [{"_id": "q1", "text": "date", "language": "en"}, {"_id": "q2", "text": "plus"}]
QRELS = [("q1", "d1", 2), ("q1", "d3", 0), ("q2", "d2", 1)]


def jsonl(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def tsv(rows):
    return "".join("\t".join(map(str, row)) + "\n" for row in [("query-id", "corpus-id", "score"), *rows])


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "corpus.jsonl").write_text(jsonl(CORPUS))
    (tmp_path / "queries.jsonl").write_text(jsonl(QUERIES))
    (tmp_path / "qrels.tsv").write_text(tsv(QRELS))
    return tmp_path


def test_a_folder_is_read_as_it_stands(folder):
    found = load_retrieval_set(folder)
    assert found.name == folder.name
    assert found.document_ids == ("d1", "d2", "d3")
    assert found.documents == ("Dates parse", "add", "sub")
    assert found.document_languages == ("python", "", "go")
    assert (found.query_ids, found.queries, found.query_languages) == (("q1", "q2"), ("date", "plus"), ("en", ""))
    assert found.qrels == {"q1": {"d1": 2}, "q2": {"d2": 1}}


def test_header_blank_lines_and_line_ends_do_not_matter(folder):
    expected = load_retrieval_set(folder)
    (folder / "qrels.tsv").write_bytes(b"q1\td1\t2\r\n\r\nq1\td3\t0\r\nq2\td2\t1")
    assert load_retrieval_set(folder) == expected


def test_splits_share_their_queries(folder):
    (folder / "qrels").mkdir()
    (folder / "qrels.tsv").rename(folder / "qrels/train.tsv")
    (folder / "qrels/test.tsv").write_text(tsv([("q2", "d3", 1)]))
    found = load_retrieval_set(folder)
    assert found.query_ids == ("q2",)
    assert found.qrels == {"q2": {"d3": 1}}
    assert load_retrieval_set(folder, split="train").query_ids == ("q1", "q2")


def test_unjudged_queries_are_dropped_only_when_asked(folder):
    (folder / "qrels.tsv").write_text(tsv(QRELS[2:]))
    with pytest.raises(RetrievalSetError, match="1 of 2 queries have no relevant document: 'q1'"):
        load_retrieval_set(folder)
    assert load_retrieval_set(folder, drop_unjudged=True).query_ids == ("q2",)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("corpus.jsonl", "", "the corpus is empty"),
        ("queries.jsonl", "\n", "the queries are empty"),
        ("corpus.jsonl", jsonl(CORPUS[:1]) + "{oops\n", r"corpus\.jsonl:2: not JSON"),
        ("corpus.jsonl", "[1]\n", r"corpus\.jsonl:1: must be a JSON object, got list"),
        ("corpus.jsonl", '{"text": "x"}\n', r"corpus\.jsonl:1: no '_id'"),
        ("queries.jsonl", '{"_id": "q1", "text": null}\n', r"queries\.jsonl:1: 'text' of 'q1' must be a string"),
        ("corpus.jsonl", jsonl([*CORPUS, CORPUS[0]]), r"corpus\.jsonl:4: id 'd1' occurs twice in the corpus"),
        ("qrels.tsv", tsv([("q9", "d1", 1)]), r"qrels\.tsv:2: query id 'q9'"),
        ("qrels.tsv", tsv([("q1", "d9", 0)]), r"qrels\.tsv:2: document id 'd9'"),
        ("qrels.tsv", "q1\td1\n", r"qrels\.tsv:1: must have 3 tab-separated columns .*got 2"),
        ("qrels.tsv", tsv([("q1", "d1", "high")]), r"qrels\.tsv:2: score must be a whole number, got 'high'"),
        ("qrels.tsv", tsv([("q1", "d1", 0), ("q2", "d2", 1)]), "no relevant document: 'q1'"),
        ("qrels.tsv", tsv([]), "2 of 2 queries have no relevant document"),
    ],
)
def test_what_is_wrong_is_named(folder, file, content, message):
    (folder / file).write_text(content)
    with pytest.raises(RetrievalSetError, match=message):
        load_retrieval_set(folder)


def test_bytes_that_are_not_utf8_are_named(folder):
    (folder / "corpus.jsonl").write_bytes(b'{"_id": "d1", "text": "\xff"}\n')
    with pytest.raises(RetrievalSetError, match=r"corpus\.jsonl: not UTF-8"):
        load_retrieval_set(folder)


@pytest.mark.parametrize("file", ["corpus.jsonl", "queries.jsonl", "qrels.tsv"])
def test_a_missing_file_is_named(folder, file):
    (folder / file).unlink()
    with pytest.raises(FileNotFoundError, match=file.replace(".", r"\.")):
        load_retrieval_set(folder)


@pytest.mark.parametrize("source", ["./nowhere", "/nowhere/at/all", "nowhere"])
def test_neither_folder_nor_hub_id(source):
    with pytest.raises(FileNotFoundError, match="no such folder, and not the id of a Hub dataset"):
        load_retrieval_set(source)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """`owner/name` leads to a folder laid out as the dataset repository that the Hub would serve."""
    root = tmp_path / "repository"
    root.mkdir()
    (root / "corpus.jsonl").write_text(jsonl([{"title": "", "language": "", **row} for row in CORPUS]))
    (root / "queries.jsonl").write_text(jsonl([{"language": "", **row} for row in QUERIES]))
    judgements = [dict(zip(("query-id", "corpus-id", "score"), row, strict=True)) for row in QRELS]
    (root / "test.jsonl").write_text(jsonl(judgements[2:]))
    (root / "train.jsonl").write_text(jsonl(judgements[:2]))
    (root / "README.md").write_text(
        """---
configs:
- config_name: default
  data_files:
  - {split: test, path: test.jsonl}
  - {split: train, path: train.jsonl}
- config_name: corpus
  data_files: [{split: corpus, path: corpus.jsonl}]
- config_name: queries
  data_files: [{split: queries, path: queries.jsonl}]
---
"""
    )
    real = datasets.load_dataset
    asked = []

    def load_dataset(repository, config, revision):
        asked.append((repository, revision))
        return real(str(root), config, cache_dir=str(tmp_path / "cache"))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return asked


def test_a_hub_dataset_gives_the_same_as_a_folder(hub, folder):
    expected = load_retrieval_set(folder)
    found = load_retrieval_set("owner/name")
    assert set(hub) == {("owner/name", None)}
    assert found.name == "name"
    assert found.documents == expected.documents
    assert found.document_languages == expected.document_languages
    assert found.query_ids == ("q2",)
    assert found.qrels == {"q2": {"d2": 1}}
    assert load_retrieval_set("owner/name", split="train").qrels == {"q1": {"d1": 2}}


def test_a_hub_dataset_without_the_split(hub):
    with pytest.raises(RetrievalSetError, match="owner/name: split .* one of test, train, got 'dev'"):
        load_retrieval_set("owner/name", split="dev")


def test_a_hub_dataset_that_cannot_be_loaded(monkeypatch):
    def unreachable(*_, **__):
        raise ConnectionError("no route\nlong story")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(RetrievalSetError, match="owner/name: cannot load the configuration 'corpus': no route$"):
        load_retrieval_set("owner/name")
