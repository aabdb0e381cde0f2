import pytest
from datasets import Dataset

from mose.data.tables import check_column_mapping, load_table, rename_columns


def test_columns_are_renamed_at_once_and_replace_those_of_the_new_name():
    table = Dataset.from_list([{"a": 1, "b": 2, "c": 3}])
    assert rename_columns(table, {"a": "b", "b": "a"}).to_list() == [{"b": 1, "a": 2, "c": 3}]
    assert rename_columns(table, {"a": "c", "missing": "b", "b": "b"}).to_list() == [{"c": 1, "b": 2}]


def test_a_column_mapping_is_checked_on_both_sides():
    tables = [("one", ["a"]), ("one", ["b"])]
    check_column_mapping({"a": "text", "b": "code"}, ("text", "code"), tables)
    with pytest.raises(ValueError, match="must map to text, code; got 'txt'"):
        check_column_mapping({"a": "txt"}, ("text", "code"))
    with pytest.raises(ValueError, match="names 'c', which no dataset has. Use one of one: a; one: b"):
        check_column_mapping({"c": "text"}, ("text",), tables)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        # These would crash Arrow's reader, and the process with it.
        ("null\n", "row 1 must be a JSON object, got null"),
        ('{"a": 1}\n' + '{"a":' * 40_000 + "1" + "}" * 40_000, "row 2 is nested too deeply"),
        ("[1]\n", "row 1 must be a JSON object, got \\[1\\]"),
    ],
)
def test_lines_that_are_no_rows_are_named(tmp_path, content, message):
    path = tmp_path / "rows.jsonl"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        load_table(path, "train")


def test_a_dataset_is_returned_as_it_is_or_streamed(tmp_path):
    table = Dataset.from_list([{"a": 1}, {"a": 2}])
    assert load_table(table, "train") is table
    assert list(load_table(table, "train", streaming=True)) == table.to_list()
    table.save_to_disk(tmp_path / "saved")
    assert load_table(tmp_path / "saved", "any").to_list() == table.to_list()
