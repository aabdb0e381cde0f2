import os
import sysconfig
import textwrap
from collections import Counter
from pathlib import Path

import pytest

from mose.data.source.mining import COLUMNS, mine, mine_records, mine_rows
from mose.data.source.report import ReadingReport

DOCUMENTED = '''
def {name}(value):
    """{doc}"""
    result = value + {salt}
    return result
'''


def function(name="run", doc="Run the whole thing.", salt=1) -> str:
    return DOCUMENTED.format(name=name, doc=doc, salt=salt)


@pytest.fixture
def plant(tmp_path):
    """Write files, given by path and contents, below a folder."""

    def write(files: dict[str, str | bytes]) -> Path:
        for name, contents in files.items():
            path = tmp_path / "tree" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(contents if isinstance(contents, bytes) else contents.encode())
        return tmp_path / "tree"

    return write


def test_unknown_languages_are_refused(tmp_path):
    with pytest.raises(ValueError, match="python.*cobol"):
        mine([tmp_path], ["cobol"])


def test_rows_say_what_stands_where(plant):
    root = plant({"pkg/mod.py": "import os\n" + function(), "single.py": function("other", salt=2)})
    table, counts = mine([root], progress=False)
    assert tuple(table.column_names) == COLUMNS
    assert table[0] == {
        "text": "Run the whole thing.",
        "code": "def run(value):\n    result = value + 1\n    return result",
        "source": function().strip(),
        "name": "run",
        "language": "python",
        "repository": "pkg",
        "path": "pkg/mod.py",
        "start_line": 3,
        "end_line": 6,
    }
    assert table["repository"] == ["pkg", "single"]
    assert counts == Counter(files=2, rows=2)


def test_a_tree_that_is_a_repository_is_one(plant):
    root = plant({"pyproject.toml": "", "a/x.py": function(), "b/y.py": function("g", salt=3)})
    assert set(mine([root], progress=False)[0]["repository"]) == {"tree"}


def test_each_filter_counts_what_it_leaves_out(plant):
    functions = [
        function(),
        function(doc="Run."),
        function("a", doc=""),
        function("test_it"),
        function("__str__"),
        function("b", doc="Запусти это всё сейчас."),
        function("c", doc="TODO make it run.", salt=5),
        function("d", doc="Give the " + "very " * 300 + "end.", salt=6),
        'def e():\n    """Say the right words."""\n    a = 1\n    return "Say the right words."\n',
        'def g():\n    """Give one always."""\n    return 1\n',
        'def h():\n    """Give many lines."""\n' + "    print()\n" * 1001,
    ]
    root = plant(
        {
            "pkg/a.py": "\n".join(functions),
            "pkg/latin.py": b"# caf\xe9",
            "pkg/made.py": "# @generated\n" + function(salt=9),
            "pkg/binary.py": b"\0",
        }
    )
    report = ReadingReport()
    table, counts = mine([root], progress=False, report=report)
    assert table["name"] == ["run"]
    expected = {
        **{"rows": 1, "files": 2, "short text": 1, "no text": 2, "test": 1, "text not English": 1},
        **{"constructor or extension method": 1, "long text": 1, "text in code": 1, "short code": 1},
        **{"long code": 1},
    }
    assert counts == expected
    left_out = {reason: [Path(name).name for name in names] for reason, names in report.left_out.items()}
    assert left_out == {"generated": ["made.py"], "binary": ["binary.py"]}
    assert report.read == {"python": 2}


def test_duplicates_differ_in_space_and_comments_alone(plant):
    first = function("f")
    spaced = first.replace(" + 1", "  +  1  # one more").replace("whole thing", "thing again")
    other = first.replace("value + 1", "value + '# 1'")
    root = plant({"a/a.py": first, "b/b.py": spaced, "c/c.py": other})
    table, counts = mine([root], progress=False)
    assert table["path"] == ["a/a.py", "c/c.py"]
    assert counts["duplicate"] == 1


def test_repeated_texts_can_be_capped(plant):
    root = plant({"pkg/a.py": "".join(function(f"f{i}", salt=i) for i in range(5))})
    table, counts = mine([root], max_text_repeats=2, progress=False)
    assert table["name"] == ["f0", "f1"]
    assert counts["repeated text"] == 3


@pytest.mark.parametrize("num_proc", [1, 2])
def test_a_file_that_fails_is_named_and_does_not_end_the_run(plant, num_proc):
    root = plant({"pkg/a.py": function(), "pkg/caf\udce9.py": function("g", salt=2), "pkg/gone.py": ""})
    (root / "pkg/gone.py").unlink()
    (root / "pkg/gone.py").symlink_to(root / "nowhere")
    report = ReadingReport()
    table, counts = mine([root], progress=False, report=report, num_proc=num_proc)
    assert table["path"] == ["pkg/a.py", "pkg/caf\\xe9.py"]
    assert (counts["rows"], list(report.left_out)) == (2, ["symbolic link"])


def test_rows_stream_and_do_not_depend_on_the_number_of_processes(plant):
    root = plant({f"p{i}/a.py": function(f"f{i}", salt=i % 7) for i in range(40)})
    rows = list(mine_rows([root], progress=False))
    assert next(mine_rows([root], progress=False)) == rows[0]
    counts: Counter[str] = Counter()
    assert list(mine_rows([root], counts=counts, num_proc=2, progress=False)) == rows
    assert counts["rows"] == len(rows) == 40


def test_an_empty_tree_gives_an_empty_table(tmp_path):
    table, counts = mine([tmp_path], progress=False)
    assert (len(table), tuple(table.column_names), sum(counts.values())) == (0, COLUMNS, 0)


def test_the_standard_library_in_part():
    """On real code: lines lead back to the file, and no text is left in its function."""
    root = Path(sysconfig.get_path("stdlib"), "email")
    table, counts = mine([root], progress=False)
    assert counts["rows"] == len(table) > 100
    for row in table:
        lines = (root / row["path"]).read_text().split(os.linesep)[row["start_line"] - 1 : row["end_line"]]
        assert [line.strip() for line in lines] == [line.strip() for line in row["source"].split("\n")]
        assert row["text"] not in " ".join(row["code"].split())
        assert len(row["text"].split()) >= 3


def test_classes_are_mined_if_asked_for(plant):
    source = '''
        class Shelf:
            """Holds all the books."""

            limit = 3

            def put(self, book):
                """Put a book on it."""
                self.books.append(book)
                return self
        '''
    root = plant({"pkg/a.py": textwrap.dedent(source)})
    table, _ = mine([root], progress=False)
    assert table["name"] == ["put"]
    table, _ = mine([root], classes=True, progress=False)
    assert table["name"] == ["Shelf", "put"]
    assert table["code"][0] == "class Shelf:\n    limit = 3\n\n    def put(self, book): ..."


def test_files_with_syntax_errors_are_read_in_part_and_named(plant):
    root = plant({"pkg/a.py": function() + "\n\n)))\n"})
    report = ReadingReport()
    table, _ = mine([root], report=report, progress=False)
    assert table["name"] == ["run"]
    assert [Path(name).name for name in report.left_out["syntax errors"]] == ["a.py"]


def test_files_at_hand_give_what_their_tree_gives(tmp_path):
    files = {"a.py": "python", "b/c.go": "go", "tests/test_a.py": "python", "b/d.xyz": "erlang", "e.py": "python"}
    function = 'def least(v):\n    """Give the least of all."""\n    order = sorted(v)\n    return order[0]\n'
    go = "// Least gives the least of all.\nfunc Least(v []int) int {\n\tsort(v)\n\treturn v[0]\n}\n"
    records = []
    for path, language in files.items():
        text = go if language == "go" else function
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
        records.append({"path": path, "text": text, "language": language, "repository": "r"})

    counts = Counter()
    found = list(mine_records(records, counts=counts))
    expected = list(mine_rows([tmp_path], ["python", "go"], progress=False))
    without = [{**row, "repository": "r"} for row in expected if not str(row["path"]).startswith("tests/")]
    assert found == without and len(found) == 2
    assert counts == {"files": 3, "rows": 2, "duplicate": 1, "file of tests": 1, "language erlang": 1}
    assert list(mine_records(records, num_proc=2)) == found
