"""The benchmark of reading, on a tree too small to measure anything."""

import json
from pathlib import Path

import pytest

from mose.benchmarks import reading
from mose.utils.locations import package_folder

#: What the earlier checkout of a test has: the interface of the code before, and figures that can be recognised.
FILES = """
from pathlib import Path

def iter_source_files(folder, languages):
    yield from Path(folder).glob("*.py")
"""
DEFINITIONS = """
class ParseError(ValueError): ...

def extract_functions(source, language):
    assert language == "python"
    return list(range(7))
"""
LANGUAGES = """
def language_of(path, source):
    return "python"
"""


@pytest.fixture
def tree(tmp_path):
    folder = tmp_path / "tree"
    folder.mkdir()
    (folder / "a.py").write_text("X = 1\n\nclass A:\n    def f(self):\n        return 1\n")
    (folder / "b.rs").write_text("fn not_among_the_eight() {}\n")
    return folder


def test_ways_are_compared(tree, tmp_path, capsys):
    source = tmp_path / "before" / "data" / "source"
    source.mkdir(parents=True)
    for package in (source.parent.parent, source.parent, source):
        (package / "__init__.py").touch()
    for name, text in {"files": FILES, "definitions": DEFINITIONS, "languages": LANGUAGES}.items():
        (source / f"{name}.py").write_text(text)

    report = tmp_path / "report.json"
    arguments = [str(tree), "--before", str(tmp_path / "before"), "--rounds", "2", "--json", str(report)]
    assert reading.Reading().main(arguments) == 0
    ways = json.loads(report.read_text())["ways"]
    # The method alone, and with it its class and the constant.
    assert {name: row["listed"] for name, row in ways.items()} == {"before": 7, "functions": 1, "units": 3}
    for row in ways.values():
        assert (row["files"], row["bytes"]) == (1, (tree / "a.py").stat().st_size)
        assert row["megabytes_per_second"] == pytest.approx(row["bytes"] / 1e6 / row["seconds"])
    assert "units over before: files/s ×" in capsys.readouterr().out


def test_bad_arguments(tree, tmp_path, capsys):
    assert reading.Reading().main([str(tmp_path / "none")]) == 2
    assert "none does not exist" in capsys.readouterr().err
    assert reading.Reading().main([str(tree), "--before", str(tmp_path)]) == 2
    assert "--before must be a checkout" in capsys.readouterr().err
    assert Path(package_folder(), "data", "source").is_dir()
