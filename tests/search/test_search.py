"""The commands: output and exit codes."""

import json
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mose.search import Hit, main, render
from mose.search.ranking.ranker import Parts
from mose.utils.terminal import printable

PARTS = Parts(0.5, 0.25, 0.0, 0.1, 0.0, 0.0, 0.5, 0.2, 1.0)


def test_control_characters_do_not_reach_the_terminal():
    source = "def f():\n\tprint('\033]0;owned\a')\n" + "    x\n" * 10
    hit = Hit(0.5, 0.4, "a\033[2J.py", "method", "f\rg", "C\a.f\rg", "python", 1, 12, source, PARTS)
    text = render([hit], explain=True)
    assert "0.625 = (dense 0.500 + lexical 0.250 + name 0.100) × role 0.5 + agreement 0.200" in text
    assert not set(text) & {"\033", "\r", "\a", "\t"}
    assert "… 6 more lines" in text


@given(st.text(max_size=30))
def test_what_is_printed_is_seen(text):
    shown = printable(text)
    seen = {c for c in shown if unicodedata.category(c) in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}}
    assert not seen and (printable(shown) == shown)
    if text.isascii() and text.isprintable():
        assert shown == text


def test_characters_that_hide_or_turn_code_are_escapes():
    """Trojan Source: comments that look like code, names that look alike, text that is not there."""
    turning, empty = (
        "\u202a\u202e\u2066\u2069",
        "\u200b\u200d\u2060\ufeff\u00ad\u3164\u115f\ufe0f\u034f\U000e0041",
    )
    for hidden in f"{turning}{empty}\u2028\x85":
        code = f"access{hidden}level = 1"
        hit = Hit(0.5, 0.4, f"a{hidden}.py", "function", "f", f"f{hidden}", "python", 1, 2, code, PARTS)
        escape = hidden.encode("unicode_escape").decode()
        text = render([hit])
        assert hidden not in text + repr(hit) + hit._repr_html_() and text.count(escape) == 3
    assert printable("Größe 漢字 😀 x\u0301") == "Größe 漢字 😀 x\u0301"


def run(*arguments):
    """Return the exit code of a command, also if argparse raises it."""
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as ended:
        return ended.code


def test_index_and_query(tree, tmp_path, model_folder, capsys):
    where = ["--index", tmp_path / "index", "--model", model_folder]
    assert run("index", tree, *where, "--exit-layer", 1, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["units"], report["embedded"], report["exit_layer"]) == (4, 4, 1)

    assert run("query", "read a file", *where, "--top-k", 3, "--hybrid", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["exit_layer"], answer["hybrid"], len(answer["hits"])) == (1, True, 3)
    for hit in answer["hits"]:
        lines = (tree / hit["path"]).read_text().splitlines()
        assert lines[hit["start_line"] - 1].strip() == hit["source"].splitlines()[0]
    assert answer["root"] == str(tree) and set(answer["seconds"]) == {"imports", "opening", "query"}

    scored = [*where, "--min-score", 1.0, "--files"]
    assert run("query", "quantum chromodynamics", *scored) == 0
    assert "Nothing fits well.\n" in capsys.readouterr().out
    assert run("query", "read a file", *where, "--top-k", 2, "--files", "--explain", "--json") == 0
    hits = json.loads(capsys.readouterr().out)["hits"]
    assert len({hit["path"] for hit in hits}) == 2 and {"dense", "repeat", "rank_score"} < hits[0]["parts"].keys()
    assert run("query", "read a file", *where, "--min-score", 2) == 2
    assert "must be in [0, 1], got '2'" in capsys.readouterr().err

    assert run("query", "read a file", *where, "--exit-layer", 2) == 2
    assert "exit_layer must be 1" in capsys.readouterr().err
    assert run("query", " ", *where) == 2
    assert run("query", "read", "--index", tmp_path / "none", "--model", model_folder) == 1
    assert "python -m mose.search index DIR" in capsys.readouterr().err


def test_a_build_says_what_it_left_out(tree, tmp_path, model_folder, capsys):
    for name, content in {
        "large.py": b"a = 1\n" * 200,
        "made.py": b"# @generated\ndef made():\n    return 1\n",
        "vendor/theirs.py": b"def theirs():\n    return 1\n",
        "latin.py": b"def caf\xe9():\n    return 1\n",
        "code.zig": b"",
        "ignored.py": b"",
        ".gitignore": b"ignored.py\n",
    }.items():
        (tree / name).parent.mkdir(exist_ok=True)
        (tree / name).write_bytes(content)
    command = ("index", tree, "--index", tmp_path / "index", "--model", model_folder, "--exit-layer", 0)

    assert run(*command, "--max-file-size", "1kB") == 0
    lines = capsys.readouterr().out.splitlines()
    assert "left out: 1 vendored folder (--include-vendored reads them)" in lines
    assert "left out: 1 generated file (--include-generated reads them)" in lines
    assert "left out: 1 too large file (--max-file-size SIZE reads up to SIZE)" in lines
    assert "not a source language: 1 .zig, 1 without extension" in lines
    assert not any("large.py" in line or "ignored" in line for line in lines)

    assert run(*command, "--max-file-size", "1kB", "--verbose") == 0
    assert f"    {tree}/large.py (1,200 bytes)" in capsys.readouterr().out.splitlines()
    assert run(*command, "--include-vendored", "--include-generated", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    # Four functions of the fixture, those of made.py, theirs.py and latin.py, and the statements of large.py.
    assert document["units"] == 8
    assert document["reading"]["left_out"] == {}
    assert document["reading"]["not_a_source_language"] == {".zig": 1, "without extension": 1}
    assert sum(document["reading"]["read"].values()) == document["files"]

    for size in ("0", "-1", "many", "5XB"):
        assert run(*command, "--max-file-size", size) == 2
        assert "max_file_size must be a size of at least 1 byte" in capsys.readouterr().err


def test_a_tree_with_nothing_to_read_says_what_was_seen(tmp_path, model_folder, capsys):
    (tmp_path / "tree").mkdir()
    for name in ("a.zig", "b.zig", "c.toml"):
        (tmp_path / "tree" / name).touch()
    command = ("index", tmp_path / "tree", "--index", tmp_path / "index", "--model", model_folder)
    assert run(*command) == 1
    error = capsys.readouterr().err
    assert "Languages that are read: " in error and "Python" in error and "Java" in error
    assert "not a source language: 2 .zig, 1 .toml" in error


def test_one_deep_index_for_queries_at_any_exit_of_an_aligned_model(
    tree, tmp_path, tiny_model, tokenizer, capsys
):
    model = tiny_model(0)
    model.config.aligned_exits = True
    model.save_pretrained(tmp_path / "aligned")
    tokenizer.save_pretrained(tmp_path / "aligned")
    where = ["--index", tmp_path / "index", "--model", tmp_path / "aligned"]
    assert run("index", tree, *where, "--exit-layer", 1) == 0
    for exit_layer in (0, 1, 2):
        capsys.readouterr()
        assert run("query", "read a file", *where, "--exit-layer", exit_layer, "--json") == 0
        answer = json.loads(capsys.readouterr().out)
        assert (answer["exit_layer"], answer["query_exit_layer"], len(answer["hits"])) == (1, exit_layer, 4)
    assert run("query", "read a file", *where, "--exit-layer", 0) == 0
    assert "at exit 1, queried at exit 0" in capsys.readouterr().out


def test_demo_indexes_once(tree, tmp_path, model_folder, capsys):
    arguments = ["demo", "add", "--source-tree", tree, "--index", tmp_path / "index", "--model", model_folder]
    assert run(*arguments) == 0
    first = capsys.readouterr().out
    assert "numbers.py:1" in first and "│ def add(a, b):" in first and "\033" not in first
    assert "4 units of 3 files at exit 2, 4 of them embedded now" in first
    assert run(*arguments) == 0
    assert "none embedded anew" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (["index", "{tmp}/none", "--index", "{tmp}/i", "--model", "{model}"], 2, "no such folder"),
        (["index", "{tree}", "--index", "{tmp}/i", "--model", "{tmp}/none"], 2, "no such folder"),
        (["index", "{tree}", "--index", "{tmp}/i", "--model", "{tree}"], 2, "model_type"),
        (
            ["index", "{tree}", "--index", "{tmp}/i", "--model", "{model}", "--exit-layer", "5"],
            2,
            "must be one of 0, 1, 2",
        ),
        (["index", "{tree}/empty", "--index", "{tmp}/i", "--model", "{model}"], 1, "no units found"),
        (["index", "{tree}", "--index", "{tree}", "--model", "{model}"], 2, "is no index"),
        (
            ["index", "{tree}", "--index", "{tmp}/i", "--model", "{model}", "--max-length", "0"],
            2,
            "max_length must",
        ),
        (["demo", "", "--model", "{model}"], 2, "query is empty"),
    ],
)
def test_bad_arguments(arguments, code, reason, tree, tmp_path, model_folder, capsys):
    (tree / "empty").mkdir()
    values = {"tmp": tmp_path, "tree": tree, "model": model_folder}
    assert run(*(argument.format(**values) for argument in arguments)) == code
    error = capsys.readouterr().err
    assert reason in error and "Traceback" not in error


LIGHT = """
import json, sys
from mose.search import main
failures = []
for arguments, expected in json.loads(sys.argv[1]):
    try:
        code = main(arguments)
    except SystemExit as ended:
        code = ended.code
    heavy = {"torch", "lance", "pyarrow", "transformers"} & set(sys.modules)
    if heavy or code != expected:
        failures.append(f"{arguments} imported {heavy}, code {code}")
print(failures)
"""


REFUSED = [
    (["--help"], 0),
    (["index", "--help"], 0),
    (["demo", ""], 2),
    (["query", "x", "--index", "none"], 1),
    (["query", "x", "--top-k", "0"], 2),
    (["query", "x", "--language", "klingon"], 2),
    (["query", "x", "--kind", "spell"], 2),
    (["query", "x", "--min-score", "2"], 2),
    (["similar", "--code", "x", "--top-k", "0"], 2),
    (["clones", ".", "--threshold", "2"], 2),
    (["index", "missing"], 2),
    (["index", ".", "--languages", "klingon"], 2),
    (["index", ".", "--exit-layer", "99"], 2),
    (["index", ".", "--model", "missing"], 2),
    (["index", ".", "--max-file-size", "0"], 2),
    (["index", ".", "--max-length", "0"], 2),
    (["index", "missing", "--remove"], 1),
]


def test_help_and_argument_errors_load_nothing_heavy(tmp_path):
    """One process is asked all of it, for nothing may have been imported even at the end."""
    command = [sys.executable, "-c", LIGHT, json.dumps(REFUSED)]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines()[-1] == "[]"


def test_the_demo_keeps_its_index_in_the_cache(tree, tmp_path, model_folder, monkeypatch, capsys):
    monkeypatch.setenv("MOSE_CACHE", str(tmp_path / "cache"))
    assert run("demo", "add", "--source-tree", tree, "--model", model_folder, "--exit-layer", 1, "--json") == 0
    index = Path(json.loads(capsys.readouterr().out)["index"])
    assert index.parent == tmp_path / "cache" / "indexes"
    assert index.name.startswith("tree-") and index.name.endswith("-exit1")
