import json
import logging

import numpy as np
import pytest
from datasets import Dataset, DatasetDict

from mose.data.retrieval.collator import PairCollator
from mose.data.retrieval.pairs import PAIR_COLUMNS, load_pairs
from mose.tokenization.prompts import UNKNOWN_LANGUAGE, code_prompt

TRIPLES = [
    {"text": f"task {i}", "code_a": f"a{i}", "language_a": "python", "code_b": f"b{i}", "language_b": "java"}
    for i in range(4)
]


@pytest.fixture(autouse=True)
def _quiet_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def sides(pairs):
    return [tuple(row[name] for name in PAIR_COLUMNS[:4]) for row in pairs]


def test_triples_give_both_kinds_in_equal_parts(tmp_path):
    pairs = load_pairs(datasets=[write_lines(tmp_path / "t.jsonl", TRIPLES)])
    assert pairs.column_names == list(PAIR_COLUMNS)
    assert sides(pairs)[:4] == [
        ("task 0", "", "a0", "python"),
        ("a0", "python", "b0", "java"),
        ("task 1", "", "b1", "java"),
        ("a1", "python", "b1", "java"),
    ]
    assert sum(row["query_language"] == "" for row in pairs) == len(pairs) / 2 == 4


def test_the_mixture_is_in_equal_parts_and_seeded():
    """Every epoch holds as many pairs of each kind; which stand in a batch is drawn from the seed."""
    pairs = load_pairs(datasets=[Dataset.from_list(TRIPLES * 100)])

    def shares(seed):
        kinds = [language == "" for language in pairs.shuffle(seed=seed)["query_language"]]
        return [sum(kinds[at : at + 80]) / 80 for at in range(0, len(kinds), 80)]

    assert np.mean(shares(0)) == 0.5 and np.std(shares(0)) < 0.1
    assert shares(0) == shares(0) != shares(1)


def test_hard_negatives_are_kept_where_there_are_any():
    rows = [{"text": "say hi", "code": "hi()", "negative": "bye()"}, {"text": "say bye", "code": "bye()"}]
    pairs = load_pairs(datasets=[Dataset.from_list(rows), Dataset.from_list(TRIPLES[:1])])
    assert pairs["negative"] == ["bye()", "", "", ""]
    assert pairs.column_names == [*PAIR_COLUMNS, "negative"]
    assert "negative" not in load_pairs(datasets=[Dataset.from_list(TRIPLES)]).column_names


def test_shapes_and_formats_come_together_in_order(tmp_path):
    texts = [{"text": "say hi", "code": "hi()", "language": "ruby", "repository": "r", "more": 1}]
    codes = [{"code_a": "x", "code_b": "y", "language": "c"}]
    ready = [{"query": "q", "document": "d", "document_language": "go"}]
    Dataset.from_list(texts).to_parquet(tmp_path / "t.parquet")
    (tmp_path / "c.json").write_text(json.dumps(codes))
    DatasetDict(train=Dataset.from_list(ready), test=Dataset.from_list(TRIPLES)).save_to_disk(tmp_path / "saved")
    pairs = load_pairs(
        datasets=[
            tmp_path / "t.parquet",
            tmp_path / "c.json",
            tmp_path / "saved",
            Dataset.from_list(TRIPLES[:1]),
        ]
    )
    assert sides(pairs) == [
        ("say hi", "", "hi()", "ruby"),
        ("x", "c", "y", "c"),
        ("q", "", "d", "go"),
        ("task 0", "", "a0", "python"),
        ("a0", "python", "b0", "java"),
    ]
    assert pairs["repository"] == ["r", "", "", "", ""]
    assert sides(load_pairs(datasets=[pairs])) == sides(pairs)


def test_a_folder_of_data_files(tmp_path):
    (tmp_path / "folder").mkdir()
    write_lines(tmp_path / "folder" / "train.jsonl", TRIPLES[:2])
    assert len(load_pairs(datasets=[tmp_path / "folder"])) == 4


def test_source_trees_give_texts_and_codes(tmp_path):
    source = 'def run(a):\n    """Run the whole thing."""\n    b = a\n    return b\n'
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg" / "a.py").write_text(source)
    pairs = load_pairs([tmp_path], [Dataset.from_list(TRIPLES[:1])], progress=False)
    assert pairs[0] == {
        "query": "Run the whole thing.",
        "query_language": "",
        "document": "def run(a):\n    b = a\n    return b",
        "document_language": "python",
        "repository": "pkg",
    }
    assert len(pairs) == 3


def test_columns_are_mapped_where_present():
    functions = Dataset.from_list([{"docstring": "say hi", "function": "hi()", "code": "not this", "lang": "go"}])
    mapping = {"docstring": "text", "function": "code", "lang": "language"}
    pairs = load_pairs(datasets=[functions, Dataset.from_list(TRIPLES[:1])], column_mapping=mapping)
    assert sides(pairs)[0] == ("say hi", "", "hi()", "go")
    assert len(pairs) == 3


def test_code_without_a_language_is_not_taken_for_text(tiny_tokenizer):
    pairs = load_pairs(datasets=[Dataset.from_list([{"code_a": "x", "code_b": "y"}])])
    assert sides(pairs) == [("x", UNKNOWN_LANGUAGE, "y", UNKNOWN_LANGUAGE)]
    batch = PairCollator(tiny_tokenizer)(list(pairs))
    for side, snippet in (("query", "x"), ("document", "y")):
        assert tiny_tokenizer.decode(batch[f"{side}_input_ids"][0]) == f"<sep>{code_prompt()}{snippet}<cls>"


def test_rows_with_an_empty_side_are_dropped_and_counted(caplog):
    rows = [*TRIPLES, {**TRIPLES[0], "code_a": None}, {**TRIPLES[0], "text": "  "}]
    with caplog.at_level(logging.WARNING):
        pairs = load_pairs(datasets=[Dataset.from_list(rows)])
    # Of the fifth row nothing is left (its text would go with code_a), of the sixth the pair of codes.
    assert len(pairs) == 9
    assert "3 pairs with an empty side" in caplog.text


def test_bad_data_is_named(tmp_path):
    wrong = Dataset.from_list([{"question": "a", "answer": "b"}])
    with pytest.raises(
        ValueError, match="text, code_a, code_b; or code_a, code_b; or text, code.*it has question, answer"
    ):
        load_pairs(datasets=[wrong])
    with pytest.raises(ValueError, match=r"'questio'.*question, answer"):
        load_pairs(datasets=[wrong], column_mapping={"questio": "text"})
    with pytest.raises(ValueError, match=r"column_mapping must map to .*text.*'txt'"):
        load_pairs(datasets=["no/such.jsonl"], column_mapping={"docstring": "txt"})
    with pytest.raises(ValueError, match=r"column_mapping must map to .*text.*'txt'"):
        load_pairs(datasets=[wrong], column_mapping={"question": "txt"})
    with pytest.raises(ValueError, match="'code' must hold strings, got .*int64"):
        load_pairs(datasets=[Dataset.from_list([{"text": "a", "code": 1}])])
    with pytest.raises(ValueError, match="missing.jsonl.*no such file"):
        load_pairs(datasets=[tmp_path / "missing.jsonl"])
    (tmp_path / "a.txt").write_text("a")
    with pytest.raises(ValueError, match="a.txt.*suffix of a file must be one of .jsonl"):
        load_pairs(datasets=[tmp_path / "a.txt"])
    (tmp_path / "broken.jsonl").write_text('{"text": ')
    with pytest.raises(ValueError, match="broken.jsonl"):
        load_pairs(datasets=[tmp_path / "broken.jsonl"])
    DatasetDict(dev=Dataset.from_list(TRIPLES)).save_to_disk(tmp_path / "saved")
    with pytest.raises(ValueError, match="split must be one of dev, got 'train'"):
        load_pairs(datasets=[tmp_path / "saved"])
    with pytest.raises(ValueError, match="nothing to read"):
        load_pairs()
    with pytest.raises(ValueError, match="no pairs in dataset"):
        load_pairs(datasets=[Dataset.from_list([{"text": "", "code": ""}])])
