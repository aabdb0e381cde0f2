"""The comparison of units with independent counts, on files whose functions are known."""

import json
import shutil

import pytest

from mose.benchmarks import definitions, packages
from mose.benchmarks.counters import Count, count_functions, has_body, is_named_function, names_of
from mose.data.source.definitions import extract_units

PYTHON = """
class A:
    @property
    def size(self):
        def inner(): return 1
        return inner()

def size(): pass
"""


def test_functions_are_listed_nested_lost_or_ours_only():
    units = [unit for unit in extract_units(PYTHON.encode(), "python") if unit.kind in ("function", "method")]
    counts = [
        Count("size", 4),
        Count("inner", 5),
        Count("size", 8),
        Count("gone", 8),
        Count("abstract", 2, False),
    ]
    comparison = definitions.compare(units, counts, PYTHON.split("\n"), "a.py")
    assert (comparison.listed, comparison.nested, comparison.lost) == (2, 1, ["a.py:8 gone"])
    assert comparison.extra == []
    assert comparison.recall == pytest.approx(2 / 3)

    # A name counts once, and what no counter knows is ours only.
    comparison = definitions.compare(units, counts[:1], PYTHON.split("\n"), "a.py")
    assert comparison.extra == ["a.py:8 size"]


def test_swallowed_function_is_lost():
    """Check that a function inside the lines of another, but not deeper, does not count as nested."""
    lines = ["int f(void) {", "int g(void) { return 1; }", "}"]
    unit = extract_units("\n".join(lines).encode(), "c")[0]
    assert unit.name == "f"
    assert definitions.compare([unit], [Count("f", 1), Count("g", 2)], lines).lost == [":2 g"]


@pytest.mark.parametrize(
    ("language", "after_the_name", "expected"),
    [
        ("java", "(int a) throws X { f(); }", True),
        ("java", "(int a);", False),
        ("java", "() default {};", False),
        ("csharp", "(int a) => a + 1;", True),
        ("csharp", "<T>(T a) where T : class\n{ }", True),
        ("go", "(a int) (b string, err error) {\n}", True),
        ("go", "(a int) int\nfunc g() {}", False),
        ("kotlin", "(a: Int = 1): Int = a + 1", True),
        ("kotlin", "(): Map<Class<out M>, String?>\n  fun g() = 1", False),
        ("rust", "(&self) -> impl Iterator<Item = u8>;", False),
        ("rust", "<T>(a: [u8; 4]) -> T\nwhere T: Clone {\n}", True),
        ("scala", "(a: Int): Int", False),
        ("scala", "(a: Int)(\n  b: Int => Int\n): Int =\n  b(a)", True),
        ("swift", "(_ a: Int) -> Int\n  func g() {}", False),
        ("swift", "(_ a: Int) async throws -> Int\n{ 1 }", True),
        ("typescript", "<T = { a: 1 }>(a: T): void;", False),
        ("typescript", "(a: string): { b: string } {\n}", True),
        ("php", "(int $a = [1]): ?int;", False),
    ],
)
def test_bodies(language, after_the_name, expected):
    assert has_body(after_the_name, 0, language) is expected


@pytest.mark.parametrize(
    ("language", "name", "line", "expected"),
    [
        ("javascript", "AnonymousFunction1f2d76040100", "fns.forEach(function (fn) {", False),
        ("javascript", "get", "res.get = function(field){", True),
        ("javascript", "has", "Stack.prototype.has = stackHas;", False),
        ("javascript", "map", "exports.map = (function() {", False),
        ("lua", "f", "local function f(a)", True),
        ("lua", "vars", "local vars = setmetatable({}, {__index = function(_, k) end})", False),
        ("cpp", "PYBIND11_NAMESPACE_BEGIN", "PYBIND11_NAMESPACE_BEGIN(detail)", False),
        ("cpp", "TEST", "TEST(Suite, name) {", True),
        ("bash", "mark", 'function mark(pattern, string) { sub(pattern, "x"); }', False),
        ("bash", "mark", "mark () {", True),
        ("bash", "mark", "function mark {", True),
    ],
)
def test_mistakes_of_ctags(language, name, line, expected):
    assert is_named_function(name, line, language) is expected


def test_other_names():
    assert names_of("_parse", "    parse: function _parse(data) {", "javascript") == ("_parse", "parse")
    assert names_of("exports", "module.exports = function inspect(x) {", "javascript") == ("inspect", "exports")
    assert names_of("operator ==", "bool operator ==(A a)", "csharp") == ("operator ==", "==")


def test_whole_command(tmp_path, capsys):
    """Read a folder with functions of Python and Swift, one of which has no unit."""
    folder = tmp_path / "package"
    folder.mkdir()
    (folder / "a.py").write_text(PYTHON)
    (folder / "b.swift").write_text("protocol P { func f() }\nfunc g() { /* func h() {} */ }\n")
    report = tmp_path / "report.json"
    assert definitions.Definitions().main([str(folder), "--missing", "--json", str(report)]) == 0

    rows = json.loads(report.read_text())["languages"]
    assert {key: (row["package"]["listed"], row["package"]["lost"]) for key, row in rows.items()} == {
        "python": (2, []),
        "swift": (1, []),
    }
    assert "100.00 %" in capsys.readouterr().out
    assert definitions.Definitions().main([]) == 2
    assert "Pass source trees, or --fetch FOLDER" in capsys.readouterr().err


@pytest.mark.skipif(shutil.which("ctags") is None, reason="needs Universal Ctags")
def test_ctags(tmp_path):
    path = tmp_path / "a.c"
    path.write_text("int declared(void);\nstatic int defined(int a)\n{\n    return a;\n}\n")
    assert count_functions([(path, "c")]) == {path: [Count("declared", 1, False), Count("defined", 2)]}


def test_names_of_fetched_folders(tmp_path, monkeypatch):
    names = ["django==5.2", "zod@4.6.7", "@wordpress/block-library@11.1.0", "ruby-rack"]
    expected = ["django", "zod", "wordpress-block-library", "ruby-rack"]
    assert [packages.folder_name(name) for name in names] == expected

    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match="needs pip, npm and apt-get, not found: pip, npm, apt-get"):
        packages.fetch_packages(tmp_path)
