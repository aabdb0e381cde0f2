"""Code as a query: units and fragments, by the functions and the command."""

import io
import json
import re

import numpy as np
import pytest

from mose.search import Index, main
from mose.search.shape_table import ShapeTable, shape_table
from mose.search.similar import CodeQuery, find_similar, unit_at

READER = """\
import json


class Reader:
    \"\"\"Reads records.\"\"\"

    def __init__(self, path):
        self.path = path

    def records(self, limit=None):
        with open(self.path) as stream:
            for number, line in enumerate(stream):
                if limit is not None and number >= limit:
                    break
                yield json.loads(line)


def total(values):
    result = 0
    for value in values:
        result += value
    return result


LIMIT = total([1, 2])
"""
#: The loop of `records` with other names, and a call that is not there.
FRAGMENT = """\
            for place, text in enumerate(source):
                if most is not None and place >= most:
                    break
                log(text)
"""


@pytest.fixture(scope="module")
def index(tmp_path_factory, model, tokenizer):
    folder = tmp_path_factory.mktemp("similar")
    (folder / "tree" / "lib").mkdir(parents=True)
    (folder / "tree" / "reader.py").write_text(READER)
    (folder / "tree" / "lib" / "copy.py").write_text(READER.replace("records", "rows").replace("Reader", "Table"))
    (folder / "tree" / "lib" / "sum.js").write_text(
        "function sum(values) {\n  return values.reduce((a, b) => a + b);\n}\n"
    )
    (folder / "tree" / "lib" / "empty.py").write_text("import os\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOSE_CACHE", str(folder / "cache"))
        yield Index.build(folder / "tree", model, tokenizer, folder / "index", 0, progress=False)


def places(hits):
    return [(hit.path, hit.qualified_name) for hit in hits]


def test_the_unit_around_a_line_is_the_innermost(index):
    for line, name in ((5, "Reader"), (8, "Reader.__init__"), (12, "Reader.records"), (25, "reader.py")):
        query = unit_at(index, f"reader.py:{line}")
        assert (query.name, query.path, query.language) == (name, "reader.py", "python")
    assert unit_at(index, f"{index.trees[0].root}/lib/sum.js:2").code.startswith("function sum(values)")


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("reader.py", "must be FILE:LINE, got 'reader.py'"),
        ("reader.py:0", "must be FILE:LINE"),
        ("reader.py:-3", "must be FILE:LINE"),
        (
            "reader.py:99",
            "reader.py:99 is in no function, class or other unit. The nearest is reader.py in lines",
        ),
        ("lib/sum.js:9", "The nearest is sum in lines 1 to 3"),
        ("lib/empty.py:1", "lib/empty.py has no units"),
        ("none.py:3", "none.py: no such file"),
        (f"{__file__}:1", "the index does not have it"),
    ],
)
def test_lines_that_are_in_no_unit_are_refused(index, location, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        unit_at(index, location)


def test_the_like_of_a_unit_is_its_copy_and_never_itself(index):
    hits = find_similar(index, unit_at(index, "reader.py:12"), 10)
    assert places(hits)[0] == ("lib/copy.py", "Table.rows")
    # Neither the method nor the class around it.
    assert {name for path, name in places(hits) if path == "reader.py"} == {
        "Reader.__init__",
        "total",
        "reader.py",
    }
    assert hits[0].score > 0.9 and [hit.score for hit in hits] == sorted(
        (hit.score for hit in hits), reverse=True
    )
    for hit in hits:
        assert 0 <= hit.score <= 1 and hit.score == pytest.approx(hit.parts.rank_score, abs=1e-6)
        assert hit.similarity >= -1 and hit.parts.dense == pytest.approx(0.5 * max(hit.similarity, 0), abs=1e-6)


def test_a_renamed_fragment_has_its_source_first(index):
    hits = find_similar(index, FRAGMENT, 2)
    assert {name for _, name in places(hits)} == {"Reader.records", "Table.rows"}
    assert hits[0].parts.structure > 0.2 > find_similar(index, FRAGMENT, 9)[2].parts.structure


def test_filters_and_files(index):
    assert places(find_similar(index, FRAGMENT, languages=["javascript"])) == [("lib/sum.js", "sum")]
    assert {path for path, _ in places(find_similar(index, FRAGMENT, 9, paths=["lib/"]))} == {
        "lib/copy.py",
        "lib/sum.js",
    }
    hits = find_similar(index, FRAGMENT, 9, files=True)
    assert sorted(hit.path for hit in hits) == ["lib/copy.py", "lib/sum.js", "reader.py"]
    assert find_similar(index, FRAGMENT, 9, kinds=["enum"]) == []
    assert all(hit.score >= 0.5 for hit in find_similar(index, FRAGMENT, 9, min_score=0.5))
    for arguments, message in (
        ({"query": " \n"}, "there is no code"),
        ({"query": "f()", "top_k": 0}, "top_k must be at least 1"),
        ({"query": "f()", "min_score": 2}, "min_score must be in"),
    ):
        with pytest.raises(ValueError, match=message):
            find_similar(index, **arguments)


def test_tables_are_kept_in_the_cache_and_made_anew_if_damaged(index, tmp_path, monkeypatch):
    monkeypatch.setenv("MOSE_CACHE", str(tmp_path))
    units, tables = index.units, []
    for damage in (None, lambda data: data[:100], lambda data: data[:300] + bytes([data[300] ^ 1]) + data[301:]):
        for file in (tmp_path / "shapes").glob("*.npz"):
            if damage:
                file.write_bytes(damage(file.read_bytes()))
        monkeypatch.setattr("mose.search.shape_table._TABLES", {})
        steps: list[tuple[str, int, int]] = []
        tables.append(shape_table(units, lambda *step, steps=steps: steps.append(step)))
        assert steps in ([], [("Structure", 0, len(units)), ("Structure", len(units), len(units))])
        assert len(list((tmp_path / "shapes").iterdir())) == 1
    monkeypatch.setattr("mose.search.shape_table._TABLES", {})
    monkeypatch.setattr("mose.search.shape_table._make_table", None)  # the file is read
    tables.append(shape_table(units))
    for table in tables[1:]:
        assert (
            table.hashes.tolist() == tables[0].hashes.tolist() and table.rows.tolist() == tables[0].rows.tolist()
        )


def test_shares_are_those_of_sets():
    rng = np.random.default_rng(0)
    shapes = [np.unique(rng.integers(0, 30, size, np.uint64)) for size in (1, 5, 20, 40)]
    wanted = np.unique(rng.integers(0, 40, 12, np.uint64))
    expected = [len({*wanted.tolist()} & {*shape.tolist()}) / len(wanted) for shape in shapes]
    assert ShapeTable.of_shapes(shapes).shares(wanted).tolist() == pytest.approx(expected)
    assert ShapeTable.of_shapes([]).shares(wanted).tolist() == []


def test_the_command_answers_for_lines_and_for_code(index, model_folder, monkeypatch, capsys):
    where = ["--index", index.location.name, "--model", str(model_folder)]
    assert main(["similar", "reader.py:12", *where, "--explain", "--top-k", "1"]) == 0
    output = capsys.readouterr().out
    assert "like Reader.records, reader.py:10" in output and "Table.rows  lib/copy.py:10" in output
    assert re.search(r"= dense 0\.\d+ \+ lexical 0\.\d+ \+ structure 0\.\d+", output)

    monkeypatch.setattr("sys.stdin", io.StringIO(FRAGMENT))
    assert main(["similar", "--code", "-", *where, "--json", "--min-score", "0.2"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["code"], document["of"]) == (FRAGMENT, None)
    assert document["hits"][0]["name"] in ("records", "rows")

    for arguments, message in (
        ([], "pass either FILE:LINE or --code"),
        (["a.py:1", "--code", "x"], "pass either FILE:LINE or --code"),
        (["--code", " "], "there is no code"),
        (["reader.py:99"], "is in no function"),
    ):
        assert main(["similar", *arguments, *where]) == 2
        assert message in capsys.readouterr().err


def test_a_query_knows_what_it_is_a_part_of():
    query = CodeQuery("x", root="r", path="a.py", start_line=3, end_line=5)
    assert query.holds("r", "a.py", 5, 9) and query.holds("r", "a.py", 1, 99)
    assert not query.holds("r", "a.py", 6, 9) and not query.holds("s", "a.py", 3, 5)
    assert not CodeQuery("x").holds("", "", 0, 0)
