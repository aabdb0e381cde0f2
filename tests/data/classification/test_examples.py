import json
from pathlib import Path

import pytest
from datasets import ClassLabel, Dataset, Features, Value
from hypothesis import given
from hypothesis import strategies as st

from mose.data.classification.examples import ClassificationCollator, check_like, label_names, load_examples
from mose.tokenization.prompts import CLS, SEP


def write(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


PAIRS = [
    {"code_a": "a = 1", "code_b": "b = 1", "label": 1},
    {"code_a": "a = 2", "code_b": "print()", "label": 0},
]


@pytest.mark.parametrize("form", ["jsonl", "parquet", "csv", "folder"])
def test_every_form_reads_the_same(tmp_path, form):
    data = Dataset.from_list(PAIRS)
    path = tmp_path / f"pairs.{form}"
    {"jsonl": data.to_json, "parquet": data.to_parquet, "csv": data.to_csv, "folder": data.save_to_disk}[form](
        str(path)
    )
    assert load_examples(path).to_list() == [
        {"first": "a = 1", "second": "b = 1", "label": "1"},
        {"first": "a = 2", "second": "print()", "label": "0"},
    ]


def test_labels_of_every_kind_have_one_name(tmp_path):
    for labels in ([True, False], [1.0, 0.0], ["1", " 0 "]):
        rows = [{**row, "label": label} for row, label in zip(PAIRS, labels, strict=True)]
        assert load_examples(write(tmp_path / "a.jsonl", rows))["label"][:] == ["1", "0"]
    features = Features({"code": Value("string"), "label": ClassLabel(names=["no", "yes"])})
    named = Dataset.from_dict({"code": ["a", "b"], "label": [1, 0]}, features=features)
    assert load_examples(named)["label"][:] == ["yes", "no"]


def test_codexglues_bigclonebench(tmp_path):
    write(tmp_path / "data.jsonl", [{"idx": str(i), "func": f"int f() {{ return {i}; }}"} for i in range(3)])
    (tmp_path / "train.txt").write_text("0\t2\t1\n1\t0\t0\n")
    assert load_examples(tmp_path / "train.txt").to_list() == [
        {"first": "int f() { return 0; }", "second": "int f() { return 2; }", "label": "1"},
        {"first": "int f() { return 1; }", "second": "int f() { return 0; }", "label": "0"},
    ]
    (tmp_path / "bad.txt").write_text("0\t7\t1\n")
    with pytest.raises(ValueError, match="bad.txt:1: function '7' is not in data.jsonl"):
        load_examples(tmp_path / "bad.txt")
    (tmp_path / "bad.txt").write_text("0\t2\t1\n0 1\n")
    with pytest.raises(ValueError, match="bad.txt:2: must have 3 columns .*got 2"):
        load_examples(tmp_path / "bad.txt")
    write(tmp_path / "data.jsonl", [{"idx": "0"}])
    with pytest.raises(ValueError, match="data.jsonl:1: must have idx and func"):
        load_examples(tmp_path / "train.txt")


def test_columns_are_mapped_and_pairs_are_preferred(tmp_path):
    rows = [{"left": "x", "right": "y", "text": "ignored", "class": "c"}]
    path = write(tmp_path / "a.jsonl", rows)
    mapping = {"left": "code_a", "right": "code_b", "class": "label"}
    assert load_examples(path, mapping).to_list() == [{"first": "x", "second": "y", "label": "c"}]
    assert load_examples(path, {"right": "text", "class": "label"}).to_list() == [{"first": "y", "label": "c"}]


@pytest.mark.parametrize(
    ("rows", "mapping", "message"),
    [
        ([{"code": "a"}], {}, "must have the columns code_a, code_b, label; or .*it has code"),
        ([{"label": 1}], {}, "it has label"),
        ([{"code": 3, "label": 1}], {}, "column 'code' must hold texts, got 3"),
        ([{"code": 0, "label": 1}, {"code": 2, "label": 1}], {}, "column 'code' must hold texts, got 0"),
        ([{"code": "a", "label": 0.5}], {}, "label must be a string, .*got 0.5"),
        ([{"code": "a", "label": None}, {"code": "a", "label": 1}], {}, "1 of 2 examples have no label"),
        ([{"code": "a", "label": " "}], {}, "1 of 1 examples have no label"),
        ([{"code": " ", "label": 1}], {}, "no example has texts"),
        ([{"code": "a", "label": 1}], {"kode": "code"}, "names 'kode', which no dataset has.*code, label"),
        ([{"code": "a", "label": 1}], {"code": "snippet"}, "must map to code, .*got 'snippet'"),
    ],
)
def test_bad_files_are_named(tmp_path, rows, mapping, message):
    with pytest.raises(ValueError, match=message):
        load_examples(write(tmp_path / "a.jsonl", rows), mapping)


def test_empty_texts_are_counted(tmp_path, caplog):
    rows = [*PAIRS, {"code_a": "", "code_b": "b", "label": 1}, {"code_a": "a", "code_b": None, "label": 0}]
    assert len(load_examples(write(tmp_path / "a.jsonl", rows))) == 2
    assert "2 of 4 examples with an empty text left out" in caplog.text


def test_labels_are_ordered_and_checked():
    def of(labels, **columns):
        return Dataset.from_dict({"first": ["a"] * len(labels), "label": labels, **columns})

    assert label_names(of(["10", "9", "-1", "9"]), "t") == ["-1", "9", "10"]
    assert label_names(of(["10", "9", "x"]), "t") == ["10", "9", "x"]
    with pytest.raises(ValueError, match="t must have two classes or more; all 2 examples are '1'"):
        label_names(of(["1", "1"]), "t")
    with pytest.raises(ValueError, match="v: label must be one of a, as in training; got b, c"):
        check_like(of(["b", "a", "c"]), "v", of(["a"]), ["a"])
    with pytest.raises(ValueError, match="v must have single texts, as in training; it has pairs"):
        check_like(of(["a"], second=["x"]), "v", of(["a"]), ["a"])


# --- batches -----------------------------------------------------------------------------------------------

CODE = st.text(alphabet="abcdef ()=\n", min_size=1, max_size=40)


@given(pairs=st.lists(st.tuples(CODE, CODE), min_size=1, max_size=4), max_length=st.integers(5, 40))
def test_pairs_are_laid_out_and_cut_as_the_tokenizer_does_it(tiny_tokenizer, pairs, max_length):
    collator = ClassificationCollator(tiny_tokenizer, ["n", "y"], max_length)
    batch = collator([{"first": a, "second": b, "label": "y"} for a, b in pairs])
    assert batch["labels"].tolist() == [1] * len(pairs)
    for (a, b), row, mask in zip(pairs, batch["input_ids"], batch["attention_mask"], strict=True):
        ids = row[mask.bool()].tolist()
        first, second = (tiny_tokenizer(side, add_special_tokens=False)["input_ids"] for side in (a, b))
        while len(first) + len(second) + 3 > max_length:  # longest first, the second at a tie
            (first if len(first) > len(second) else second).pop()
        sep, cls = tiny_tokenizer.convert_tokens_to_ids([SEP, CLS])
        assert ids == [sep, *first, sep, *second, cls]


def test_single_texts_keep_cls(tiny_tokenizer):
    collator = ClassificationCollator(tiny_tokenizer, ["n", "y"], 8)
    batch = collator([{"first": "abcdefghijklmn" * 3, "label": "n"}, {"first": "a", "label": "y"}])
    ids = tiny_tokenizer("abcdefghijklmn" * 3, truncation=True, max_length=8)["input_ids"]
    assert batch["input_ids"][0].tolist() == ids and batch["attention_mask"].sum(dim=1).tolist() == [8, 3]
    with pytest.raises(ValueError, match="max_length must be at least 5, got 4"):
        ClassificationCollator(tiny_tokenizer, ["n"], 4)
