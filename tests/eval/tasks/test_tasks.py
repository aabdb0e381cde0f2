import json
import re

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from mose.data.retrieval.retrieval_set import RetrievalSet, RetrievalSetError
from mose.eval.tasks import TASKS, get_task, load_task, summarize
from mose.eval.tasks.base import merge_identical
from mose.tokenization.prompts import code_prompt, prompt_for, text_prompt

SIX = ["ruby", "javascript", "go", "python", "java", "php"]


@pytest.mark.parametrize("name", TASKS)
def test_every_task_reads_its_published_shape(name, published):
    task = get_task(name)
    sets = load_task(name, published(name), "train" if name == "synthconl" else None)
    assert len({one.name for one in sets}) == len(sets)
    if task.measures[0] == "f1":
        assert [len(one.labels) for one in sets] == [3]
        return
    for one in sets:
        assert one.measures[0] == task.measures[0] and set(one.measures) == set(task.measures)
        assert len(one.queries) in (3, 6) and set(one.qrels) == set(one.query_ids)
    parts = [one.name.removeprefix(f"{name}-") for one in sets]
    assert (
        parts == (list(task.subsets) if name != "java-csharp" else ["java-csharp", "csharp-java"])
        or len(sets) == 1
    )


def test_every_task_says_what_it_is():
    assert len([name for name in TASKS if name.startswith("coir-")]) == 10
    for name, task in TASKS.items():
        assert task.name == name and task.title and task.size and task.layout and task.measures
        if task.source is None:
            continue
        assert "/" in task.source.repo
        pinned = re.fullmatch("[0-9a-f]{40}", task.source.revision)
        assert pinned or "main branch" in task.hub_note  # an unpinned dataset says so
    with pytest.raises(
        ValueError, match="task must be one of codesearchnet, advtest, cosqa, poj104, .* got 'nope'"
    ):
        get_task("nope")


def test_codesearchnet_searches_the_published_candidates(published):
    result = load_task("codesearchnet", published("codesearchnet"), subsets=["go"])[0]
    assert result.name == "codesearchnet-go"
    assert result.document_ids == tuple(f"https://example/go/{i}" for i in (3, 4, 5, 6, 0, 1, 2))
    assert result.documents[4] == "def f0 ( ) : return 0"  # no docstring, which would give the answer away
    assert result.queries == ("add two numbers 0", "read a file 1", "sort the list 2")
    assert result.qrels["https://example/go/1"] == {"https://example/go/1": 1}
    assert {*result.query_languages} == {"en"} and {*result.document_languages} == {"go"}


def test_codesearchnet_without_them_searches_test_and_validation(published, monkeypatch):
    """From the Hub, which has no codebase, and from a clone of it."""
    folder = published("codesearchnet")
    tables = {}
    for language in SIX:
        lines = (folder / language / "codebase.jsonl").read_text().splitlines()
        rows = {
            "validation": [json.loads(line) for line in lines[:2]],
            "test": [json.loads(line) for line in lines[4:]],
        }
        (folder / language / "codebase.jsonl").unlink()
        (folder / language / "test.jsonl").unlink()
        tables[language] = datasets.DatasetDict(
            {name: datasets.Dataset.from_list(part) for name, part in rows.items()}
        )
        for name, part in rows.items():
            path = folder / language / f"{name}-00000-of-00001.parquet"
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(part), path)
    requested = []

    def load_dataset(repo, config, revision):
        requested.append((repo, revision))
        return tables[config]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    from_clone, from_hub = load_task("codesearchnet", folder), load_task("codesearchnet")
    assert from_clone == from_hub
    assert [one.name for one in from_hub] == [f"codesearchnet-{language}" for language in SIX]
    assert from_hub[0].document_ids == tuple(f"https://example/ruby/{i}" for i in (0, 1, 2, 3, 4))
    source = TASKS["codesearchnet"].source
    assert set(requested) == {(source.repo, source.revision)}


def test_cosqa_makes_the_doubles_of_the_hub_one(published):
    assert load_task("cosqa", published("cosqa"))[0].qrels["cosqa-test-0"] == {"1": 1}
    data = RetrievalSet(
        "doubles",
        ("a", "b", "c", "d"),
        ("same", "other", "same", "same"),
        ("python", "python", "python", "go"),
        ("q", "r"),
        ("?", "!"),
        ("en", "en"),
        {"q": {"a": 1, "c": 2}, "r": {"b": 1, "d": 1}},
    )
    merged = merge_identical(data)
    assert merged.document_ids == ("a", "b", "d") and merged.documents == ("same", "other", "same")
    assert merged.document_languages == ("python", "python", "go")
    assert merged.qrels == {"q": {"a": 2}, "r": {"b": 1, "d": 1}}


def test_poj104_asks_for_the_other_programs_of_the_problem(published):
    result = load_task("poj104", published("poj104"))[0]
    assert result.exclude_own and result.measures == ("map@r",)
    assert result.query_ids == result.document_ids == tuple("012345")
    assert set(result.qrels["0"]) == set("024") and set(result.qrels["3"]) == set("135")


def test_bigclonebench_in_both_shapes(published, tmp_path):
    """CodeXGLUE's two files, and the Hub's columns: the same pairs."""
    listed = load_task("bigclonebench", published("bigclonebench"))[0]
    assert listed.pairs.tolist() == [[0, 1], [2, 1], [3, 0]] and listed.labels.tolist() == [1, 0, 1]
    rows = [
        {
            "id1": 70 + first,
            "id2": 70 + second,
            "func1": listed.functions[first],
            "func2": listed.functions[second],
            "label": bool(label),
        }
        for (first, second), label in zip(listed.pairs.tolist(), listed.labels, strict=True)
    ]
    (tmp_path / "clone" / "data").mkdir(parents=True)
    path = tmp_path / "clone" / "data" / "test-00000-of-00001.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    joined = load_task("bigclonebench", tmp_path / "clone")[0]

    def texts(data):
        return [tuple(data.functions[i] for i in pair) for pair in data.pairs]

    assert texts(joined) == texts(listed) and np.array_equal(joined.labels, listed.labels)


def test_java_and_csharp_look_for_each_other(published):
    forth, back = load_task("java-csharp", published("java-csharp"))
    assert (forth.queries, forth.documents) == (back.documents, back.queries)
    assert forth.query_languages[0] == back.document_languages[0] == "java"
    assert forth.queries[2] == "int f2() { }" and forth.documents[2] == "int F2() { }"


def test_columns_of_other_names(published):
    folder = published("synthconl")
    path = folder / "train-00000-of-00001.parquet"
    table = pyarrow.parquet.read_table(path).rename_columns(
        ["text", "source", "language_a", "target", "language_b"]
    )
    pyarrow.parquet.write_table(table, path)
    with pytest.raises(
        RetrievalSetError, match="no column 'code_b'; there are: text, source, language_a, target"
    ):
        load_task("synthconl", folder, "train")
    result = load_task("synthconl", folder, "train", columns={"code_a": "source", "code_b": "target"})[0]
    assert result.queries[1] == "def f1(): pass" and result.documents[1] == "func f1() {}"
    assert result.query_languages == ("python",) * 3 and result.qrels["a2"] == {"b2": 1}
    with pytest.raises(
        ValueError, match="column of synthconl must be one of code_a, code_b, language_a, .* got 'text'"
    ):
        load_task("synthconl", folder, columns={"text": "source"})
    with pytest.raises(ValueError, match=r"column of coir-apps must be one of \(none\), got 'x'"):
        load_task("coir-apps", folder, columns={"x": "y"})


@pytest.mark.parametrize(
    ("name", "of_query", "of_document"),
    [
        ("coir-apps", text_prompt(), code_prompt("python")),
        ("coir-codesearchnet", code_prompt("python"), text_prompt()),
        ("coir-codesearchnet-ccr", code_prompt("python"), code_prompt("python")),
        ("coir-codetrans-contest", code_prompt(), code_prompt()),
        ("coir-stackoverflow-qa", text_prompt(), text_prompt()),
    ],
)
def test_coir_says_what_is_text_and_what_is_code(name, of_query, of_document, published):
    result = {one.name: one for one in load_task(name, published(name))}
    one = result.get(f"{name}-python") or result[name]
    assert prompt_for(one.query_languages[0], query=True) == of_query
    assert prompt_for(one.document_languages[0], query=False) == of_document


def test_a_limit_keeps_the_documents(published):
    result = load_task("advtest", published("advtest"), limit=2)[0]
    assert len(result.queries) == len(result.qrels) == 2 and len(result.documents) == 3
    pairs = load_task("bigclonebench", published("bigclonebench"), limit=1)[0]
    assert pairs.pairs.tolist() == [[0, 1]] and pairs.labels.tolist() == [1]


@pytest.mark.parametrize(
    ("name", "file", "content", "message"),
    [
        (
            "codesearchnet",
            "go/test.jsonl",
            '{"url": "u"}\n',
            r"test\.jsonl:1: no column 'docstring_tokens'; there are: url",
        ),
        (
            "codesearchnet",
            "go/codebase.jsonl",
            '{"url": "u", "code_tokens": ["x"]}\n',
            "query|document id 'https://example/go/0' is not in the corpus",
        ),
        (
            "codesearchnet",
            "go/codebase.jsonl",
            '{"url": "u", "code_tokens": 7}\n',
            "'code_tokens' must be a text or a list",
        ),
        ("codesearchnet", "go/codebase.jsonl", "", "the corpus is empty"),
        ("advtest", "test.jsonl", "", "the corpus is empty"),
        ("advtest", "test.jsonl", "{", r"test\.jsonl:1: not JSON"),
        ("advtest", "test.jsonl", '{"url": null, "idx": 1}\n', "'url' is empty|no column 'function_tokens'"),
        ("cosqa", "code_idx_map.txt", "[]", "must be one JSON dict, got list"),
        ("cosqa", "code_idx_map.txt", "{}", "the corpus is empty"),
        ("cosqa", "code_idx_map.txt", '{"def x(): 0": 0}', "document id '1' is not in the corpus"),
        (
            "poj104",
            "test.jsonl",
            '{"index": "0", "label": "81", "code": "x"}\n',
            "problem '81' must have two programs, has only '0'",
        ),
        (
            "poj104",
            "test.jsonl",
            '{"index": "0", "label": "81", "code": "x"}\n' * 2,
            "id '0' occurs twice in the programs",
        ),
        ("poj104", "test.jsonl", '{"index": "0", "label": "81"}\n', "no column 'code'; there are: index, label"),
        ("poj104", "test.jsonl", "\n", "the programs are empty"),
        ("bigclonebench", "test.txt", "70\t99\t1\n", r"test\.txt:1: function id '99' is not among the functions"),
        ("bigclonebench", "test.txt", "70\t71\tyes\n", "label must be 0 or 1, got 'yes'"),
        ("bigclonebench", "test.txt", "70\t71\n", r"test\.txt:1: must have 3 columns \(id, id, label\), got 2"),
        ("bigclonebench", "test.txt", "", "the pairs are empty"),
        ("java-csharp", "test.java-cs.txt.cs", "int F0()\n", "3 lines of Java but 1 of C#"),
        ("coir-apps", "qrels/test.tsv", "q9\td0\t1\n", "query id 'q9' is not among the queries"),
        ("beir", "qrels/test.tsv", "q0\td0\t1\n", "2 of 3 queries have no relevant document: 'q1', 'q2'"),
        ("synthconl", "train-00000-of-00001.parquet", "no", "not parquet"),
    ],
)
def test_what_is_wrong_is_named(name, file, content, message, published):
    folder = published(name)
    (folder / file).write_text(content)
    with pytest.raises(RetrievalSetError, match=message):
        load_task(name, folder, "train" if name == "synthconl" else None)


@pytest.mark.parametrize(
    ("name", "file", "message"),
    [
        ("codesearchnet", "go/test.jsonl", r"neither go/test\.jsonl nor test-\*\.parquet"),
        ("cosqa", "cosqa-retrieval-test-500.json", "cosqa-retrieval-test-500.json"),
        ("cosqa", "code_idx_map.txt", r"corpus\.jsonl: no such file"),
        ("poj104", "test.jsonl", r"neither test\.jsonl nor test-\*\.parquet"),
        ("bigclonebench", "test.txt", r"test\.txt: no such file; it must list the pairs of data\.jsonl"),
        ("java-csharp", "test.java-cs.txt.cs", "no such file, though the other side exists"),
        ("coir-apps", "corpus.jsonl", r"corpus\.jsonl: no such file"),
    ],
)
def test_a_missing_file_is_named(name, file, message, published):
    folder = published(name)
    (folder / file).unlink()
    with pytest.raises(FileNotFoundError, match=message):
        load_task(name, folder)


def test_what_cannot_be_asked_for(published, tmp_path):
    with pytest.raises(
        ValueError, match="subset of codesearchnet must be one of ruby, javascript, .* got 'cobol'"
    ):
        load_task("codesearchnet", subsets=["cobol"])
    with pytest.raises(ValueError, match=r"subset of cosqa must be one of \(none\), got 'ruby'"):
        load_task("cosqa", subsets=["ruby"])
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        load_task("advtest", tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="must have one of the folders ruby, "):
        load_task("codesearchnet", tmp_path)
    with pytest.raises(FileNotFoundError, match="beir has no dataset of its own"):
        load_task("beir")


def test_a_dataset_without_the_split(monkeypatch):
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: {"train": []})
    with pytest.raises(
        RetrievalSetError,
        match="google/code_x_glue_cc_clone_detection_poj104: split must be one of train, got 'test'",
    ):
        load_task("poj104")


def test_the_mean_of_a_task_is_over_all_its_sets(published):
    task = TASKS["codesearchnet"]
    figures = {"a": {"exits": {"0": {"mrr": 0.5}}, "peers": {"bm25": {"mrr": 1.0}}}}
    figures["b"] = {"exits": {"0": {"mrr": 0.25}, "3": {"mrr": 0.5}}, "peers": {}}
    result = summarize(task.name, {"sets": figures}, ["a", "b"])
    assert result["measure"] == "mrr" and result["exits"] == {"0": 0.375} and result["peers"] == {}
    assert result["paper"]["mrr"]["18"] == 0.81
    assert "higher" in result["note"] and summarize(task.name, {"sets": figures}, ["a", "b"], False)["note"] == ""
