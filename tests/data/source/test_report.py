import json
import pickle

from mose.data.source.report import OtherLanguageError, ReadingReport, SkippedFileError


def test_counts_names_and_lines():
    report = ReadingReport()
    for path in ("a/b.py", "a/c.py", "a/b.py"):
        report.count("generated", path)
    report.count("syntax errors", "d.c", "3 lines")
    report.count("cursed", "e.c")
    report.read["python"] += 2
    report.other_files.update({".toml": 2, ".yaml": 1})
    assert report.lines() == [
        "left out: 2 generated files (--include-generated reads them)",
        "read in part: 1 file with syntax errors (what the parser cannot see is missing)",
        "left out: 1 file: cursed",
        "not a source language: 2 .toml, 1 .yaml",
    ]
    assert report.lines(verbose=True)[1:3] == ["    a/b.py", "    a/c.py"]
    document = json.loads(json.dumps(report.as_dict()))
    assert document["left_out"]["syntax errors"] == {"count": 1, "names": {"d.c": "3 lines"}}
    assert (document["read"], document["not_a_source_language"]) == ({"python": 2}, {".toml": 2, ".yaml": 1})


def test_reports_of_workers_are_merged():
    reports = [ReadingReport() for _ in range(3)]
    for number, report in enumerate(reports):
        report.count("binary", f"{number}.py")
        report.count("binary", "same.py")
        report.read["go"] += 1
    total = ReadingReport()
    for report in reports:
        total.update(pickle.loads(pickle.dumps(report)))
    assert (total.number("binary"), total.number("minified"), total.read) == (4, 0, {"go": 3})


def test_no_exception_passes_the_guard_and_each_is_named():
    report = ReadingReport()
    errors = [
        *(
            ValueError("bad"),
            RecursionError(),
            MemoryError(),
            KeyError("x"),
            UnicodeEncodeError("utf-8", "x", 0, 1, "y"),
        ),
        *(SkippedFileError("binary", "a NUL byte"), OtherLanguageError("cpp"), OtherLanguageError(None)),
    ]
    for number, error in enumerate(errors):
        with report.guard(f"{number}.h"):
            raise error
    assert report.left_out["failed"]["0.h"] == "ValueError: bad"
    assert report.left_out["failed"]["1.h"] == "RecursionError"
    assert (report.number("failed"), report.left_out["binary"]) == (5, {"5.h": "a NUL byte"})
    assert (report.unasked, report.other_files) == ({"cpp": 1}, {".h": 1})
    # Whoever does not ask for names sees these all the same.
    assert "    0.h (ValueError: bad)" in report.lines()


def test_names_cannot_reach_the_terminal_raw():
    report = ReadingReport()
    report.count("failed", "a\x1b[31m\u202e\u200b\udcff.py", "\r\n")
    (line,) = report.lines()[1:]
    assert line.isprintable() and "\\x1b[31m\\u202e\\u200b\\xff.py" in line
    json.dumps(report.as_dict()).encode()


def test_an_empty_tree_says_what_is_read_and_what_was_seen():
    report = ReadingReport()
    report.other_files.update({f".e{number}": 20 - number for number in range(15)})
    text = report.explain_empty()
    assert "Languages that are read: " in text and "no source file was read" in text
    assert "20 .e0" in text and ".e14" not in text and "21 others" in text
