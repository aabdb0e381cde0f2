"""Cutting corpora into parts: every row once, whatever the file and the size of the parts."""

import bz2
import gzip
import json

import lance
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mose.scale.parts import Columns, Part, plan_parts, read_part

PACKERS = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress}
COLUMNS = Columns("text", "language", ("id",))
ROWS = [{"text": f"text {i} é", "language": "python", "id": i} for i in range(20)]


def read_all(corpus, columns=COLUMNS, **sizes) -> tuple[list, list, list]:
    """Return the texts, the kept ids and the problems of all parts."""
    parts, failures = plan_parts(str(corpus), **sizes)
    assert not failures and len({part.key for part in parts}) == len(parts)
    read = [read_part(Part.from_json(part.to_json()), columns) for part in parts]
    ids = [value for rows in read if rows.copied is not None for value in rows.copied["id"].to_pylist()]
    return [t for rows in read for t in rows.texts], ids, [p for rows in read for p in rows.problems]


@settings(max_examples=25)
@given(
    st.lists(st.text(max_size=12), max_size=12),
    st.integers(1, 60),
    st.booleans(),
    st.sampled_from(sorted(PACKERS)),
)
def test_every_line_is_in_one_part(tmp_path_factory, texts, part_bytes, ends, packing):
    file = tmp_path_factory.mktemp("lines") / f"rows.jsonl{packing}"
    lines = "\n".join(
        json.dumps({"text": text, "id": i}, ensure_ascii=i % 2 == 0) for i, text in enumerate(texts)
    )
    file.write_bytes(PACKERS[packing]((lines + "\n" * ends).encode("utf-8", "surrogatepass")))
    read, ids, problems = read_all(file, Columns("text", None, ("id",)), part_bytes=part_bytes)
    assert read == [text.encode("utf-8", "replace").decode() for text in texts] and not problems
    assert ids == [str(i) for i in range(len(texts))]


@pytest.mark.parametrize("part_rows", [1, 3, 7, 100])
def test_parquet_and_lance_give_the_same_rows(tmp_path, part_rows):
    table = pa.Table.from_pylist(ROWS)
    pq.write_table(table, tmp_path / "rows.parquet", row_group_size=3)
    lance.write_dataset(table, str(tmp_path / "rows.lance"), max_rows_per_file=7)
    for name in ("rows.parquet", "rows.lance"):
        texts, ids, problems = read_all(tmp_path / name, part_rows=part_rows)
        assert texts == [row["text"] for row in ROWS] and ids == list(range(20)) and not problems


def test_rows_without_a_text_are_left_out_and_named(tmp_path):
    lines = [b'{"text": "a", "id": 0}', b"{", b'{"text": 5}', b"[]", b"", b'{"id": 1}', b"\xff", b"[" * 9_999]
    (tmp_path / "rows.jsonl").write_bytes(b"\n".join(lines) + b'\n{"text": "z", "id": {"x": [1]}}')
    pq.write_table(pa.table({"text": ["b", None, "c"], "id": [1, 2, 3]}), tmp_path / "rows.parquet")
    columns = Columns("text", None, ("id",))
    texts, ids, _ = read_all(tmp_path / "rows.jsonl", columns)
    assert texts == ["a", "z"] and ids == ["0", '{"x": [1]}']

    parts, _ = plan_parts(str(tmp_path))
    lines, rows = (read_part(part, columns) for part in parts)
    assert lines.left_out == 6 and "rows.jsonl, byte 23: Expecting property name" in lines.problems[0]
    assert rows.left_out == 1 and rows.rows == [0, 2] and rows.copied["id"].to_pylist() == [1, 3]
    assert rows.problems == [f"{parts[1].source}, row 1: text is NoneType"]


def test_files_that_cannot_be_opened_are_named_and_others_read(tmp_path):
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 junk")
    (tmp_path / "notes.txt").write_text("not a corpus")
    (tmp_path / "good.jsonl").write_text(json.dumps(ROWS[0]))
    parts, failures = plan_parts(str(tmp_path))
    assert [part.source.rpartition("/")[2] for part in parts] == ["good.jsonl"]
    assert [file.rpartition("/")[2] for file in failures] == ["bad.parquet"]


def test_keys_change_with_the_file(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(ROWS[0]))
    before = plan_parts(str(file))[0][0].key
    assert plan_parts(str(file))[0][0].key == before
    file.write_text(json.dumps(ROWS[1]) + " ")
    assert plan_parts(str(file))[0][0].key != before


@pytest.mark.parametrize("name", ["nowhere", "empty", "nowhere.lance"])
def test_what_is_no_corpus_is_named(tmp_path, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=name):
        plan_parts(str(tmp_path / name))


def test_missing_columns_are_named(tmp_path):
    pq.write_table(pa.table({"code": ["a"]}), tmp_path / "rows.parquet")
    (part,), _ = plan_parts(str(tmp_path))
    with pytest.raises(KeyError, match="has no column text, only code"):
        read_part(part, COLUMNS)


def test_a_dataset_on_the_hub_is_cut_by_its_id(online, tmp_path):
    pq.write_table(pa.Table.from_pylist(ROWS[:12]), tmp_path / "rows.parquet", row_group_size=4)
    (tmp_path / "more.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS[12:]))
    online.add("someone/functions", tmp_path, "dataset")

    parts, failures = plan_parts("someone/functions", part_rows=4)
    assert not failures and len(parts) == 4
    assert {part.source.rpartition("/")[2] for part in parts} == {"rows.parquet", "more.jsonl"}
    texts, ids, _ = read_all("someone/functions", part_rows=4)
    assert sorted(texts) == sorted(row["text"] for row in ROWS) and len(ids) == 20
    with pytest.raises(FileNotFoundError, match="someone/nothing"):
        plan_parts("someone/nothing")
