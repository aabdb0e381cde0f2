"""What must hold of the units of any file: of random text, broken sources and hostile shapes."""

import os
import re
import subprocess
import time
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mose.data.source.definitions import extract_functions, extract_units
from mose.data.source.files import iter_sources, read_source
from mose.data.source.languages import supported_languages
from mose.data.source.report import ReadingReport
from mose.data.source.units import KINDS

#: Pieces that open, close, begin or cut off something in one language or another.
PIECES = """
( ) [ ] { } < > ; : , . = => -> :: // /* */ /** # ## -- --[[ ]] `` ` ''' \"\"\" " ' \\ @ @d $ $x & | ? ! % ~
def class function fn func fun void int struct enum trait impl interface namespace module package import if
else for while do switch case return end begin then fi done template<T> operator public: extern"C" #if #else
#endif #define <?php ?> f x T 0 1.5 async static const let var type object val record union typedef virtual
CREATE TABLE FUNCTION AS $$ <<EOT EOT =begin =end yield lambda: é 名 \u2028 \u200b \ufeff \0 \f \v"""
PIECES = re.split("[ \n]", PIECES)
#: A file in each language, to be broken. Languages without one are broken from pieces alone.
SOURCES = {
    "python": """
import os

class Shelf:
    \"\"\"Holds books.\"\"\"

    @property
    def size(self):
        \"\"\"How many.\"\"\"
        def inner():
            return 1
        return len(self.books)

async def fetch(url): return await get(url)
TABLE = {"a": [1, 2], "b": f"{TABLE!r:>{10}}"}
""",
    "javascript": """
/** Adds. */
export const add = (a, b) => a + b;
class Shelf extends Base {
  #books = [];
  static get size() { return `${this.books.map(b => `${b}`)}`; }
  async *all() { yield* this.#books }
}
(function (root) { root.f = function () { return /[/]\\/"/.test(1) ? <b a={1}>x</b> : 2 }; })(this);
""",
    "java": """
package a.b;
/** Holds {@code books}. */
public class Shelf<T extends Book> implements Iterable<T> {
    private final List<T> books = new ArrayList<>();
    /** Makes one. */
    public Shelf() { super(); }
    @Override public Iterator<T> iterator() { return new Iterator<T>() { public T next() { return null; } }; }
    interface Reader { /** Reads. */ void read(); }
    enum Genre { PROSE { int f() { return 1; } }, VERSE }
}
""",
    "c": """
#include <stdio.h>
/* Adds. */
MY_API static inline int add(int a, int b) {
#ifdef FAST
    if (a) {
#else
    if (b) {
#endif
        list_for_each(p, l) { g(p); }
    }
    return a + b;
}
static void (*handler(int a))(void) { return 0; }
int old(a, b) int a; char *b; { return 0; }
struct point { int x, y; } origin = { 0, 1 };
""",
    "cpp": """
namespace a::b { template <class T> class MY_API Shelf : public Base<T> {
public:
    explicit Shelf(int n) noexcept : n_{n} {}
    ~Shelf() = default;
    bool operator==(const Shelf& o) const { return n_ == o.n_; }
    auto f() -> decltype(auto) { return [this](auto x) { return x + n_; }; }
}; }
int A::B::f(R"(raw)") try { return 1; } catch (...) { throw; }
""",
    "go": """
package a
// Add adds.
func Add[T int | float64](a, b T) (c T) { return a + b }
func (s *Shelf) Size() int { return len(s.books) }
type Reader interface { /* Reads. */ Read(p []byte) (n int, err error) }
var f = func() { `raw` }
""",
    "php": """
<h1><?= $title ?></h1>
<?php
namespace A\\B;
/** Holds books. */
final class Shelf { public function __construct(private int $n) {} static fn() => 1; }
function f(int ...$a): ?int { return match(true) { default => $a }; }
$x = <<<EOT
text {$x}
EOT;
""",
    "ruby": """
# Holds books.
module A
  class Shelf < Base
    private def size = @books.size
    def self.all(*args, &block)
      where(<<~SQL).each do |x| yield x end
        select 1
      SQL
    end
  end
end
""",
    "typescript": """
export abstract class Shelf<T> { constructor(private readonly n: number) {} abstract f(): void;
  g?(): T { return <T>x; } }
export function f(a: string): void;
export function f(a: any) { return a as unknown; }
declare module "m" { interface R { read(): Promise<void> } }
""",
    "rust": """
/// Holds books.
#[derive(Debug)] pub struct Shelf<'a, T: 'a> { books: &'a [T] }
impl<'a, T> Iterator for Shelf<'a, T> where T: Clone { type Item = T;
    fn next(&mut self) -> Option<T> { r#"raw"#; None } }
macro_rules! m { ($x:expr) => { fn g() { $x } }; }
""",
}


@st.composite
def broken(draw, source):
    """Return a source with slices left out, repeated or replaced."""
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(source)))
        end = draw(st.integers(start, min(len(source), start + 60)))
        filler = draw(st.one_of(st.just(""), st.sampled_from(PIECES), st.just(source[start:end] * 2)))
        source = source[:start] + filler + source[end:]
    return source


def nested():
    """Return brackets and blocks that are nested at random, and not always closed."""
    openings = st.sampled_from(
        [
            "{",
            "(",
            "[",
            "function f(){",
            "class A {",
            "def f():\n ",
            "def f\n",
            "int f(int a){",
            "fn f(){",
            "/*",
            '"',
        ]
    )
    closings = st.sampled_from(["}", ")", "]", "end\n", "\n", "*/", '"', ""])
    return st.recursive(
        st.sampled_from(PIECES),
        lambda inner: st.builds("".join, st.tuples(openings, inner, closings)),
        max_leaves=40,
    )


def texts(language):
    """Return files in a language, from quite random to nearly right."""
    pieces = st.lists(
        st.one_of(st.sampled_from(PIECES), st.sampled_from(["\n", "\n    ", "  ", "\t"])), max_size=60
    )
    strategies = [st.text(max_size=200), pieces.map(" ".join), pieces.map("".join), nested()]
    if language in SOURCES:
        strategies += 2 * [broken(SOURCES[language])]
    return st.one_of(strategies)


def check_units(source, language, units, max_characters=None):
    """Check all that holds of the units of a file, whatever it contains."""
    lines = source.split("\n")
    for unit in units:
        assert unit.kind in KINDS and unit.language == language
        assert 1 <= unit.start_line <= unit.end_line <= len(lines), unit
        assert 1 <= unit.part <= unit.parts
        assert unit.qualified_name.endswith(unit.name)
        assert unit.kind == "file" or unit.name, unit
        assert unit.source, unit
        unit.source.encode(), unit.code.encode(), unit.docstring.encode()

    # Bounds are lines: where one definition ends, another can begin.
    by_start = sorted(units, key=lambda unit: (unit.start_line, -unit.end_line))
    for first, second in combinations(by_start, 2):
        apart = first.end_line <= second.start_line
        assert apart or second.end_line <= first.end_line, (first, second)
    check_parts(units)
    if max_characters is None:
        for unit in units:
            inside = [u for u in units if u is not unit and unit.start_line <= u.start_line <= unit.end_line]
            if unit.kind in ("function", "method") and not inside:
                check_verbatim(unit, lines)


def check_parts(units):
    """Check that the parts of a unit are numbered, and follow each other in the file."""
    for previous, unit in zip(units, units[1:], strict=False):
        if unit.part > 1:
            assert previous.qualified_name == unit.qualified_name
            assert (previous.part + 1, previous.parts) == (unit.part, unit.parts)
            assert previous.end_line <= unit.start_line
    assert all(unit.part == unit.parts for unit in units[-1:])


def check_verbatim(unit, lines):
    """Check that a function's source is its lines in the file without the indentation of the first."""
    expected = lines[unit.start_line - 1 : unit.end_line]
    indent = re.match(r"[ \t]*", expected[0])[0]
    actual = unit.source.split("\n")
    assert len(actual) == len(expected)
    if len(actual) == 1:
        assert actual[0] in expected[0]
        return
    assert expected[0].endswith(actual[0])
    for line, original in zip(actual[1:-1], expected[1:-1], strict=True):
        assert line in (original, original.removeprefix(indent))
    assert expected[-1].removeprefix(indent).startswith(actual[-1]) or expected[-1].startswith(actual[-1])


@pytest.mark.parametrize("language", supported_languages())
@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.data())
def test_units_of_any_file(language, data):
    source = data.draw(texts(language)).replace("\r", "")
    max_characters = data.draw(st.one_of(st.none(), st.integers(100, 400)))
    units = extract_units(source.encode(), language, file_name="f", max_characters=max_characters)
    check_units(source, language, units, max_characters)
    for function in extract_functions(source.encode(), language):
        assert function.kind in ("function", "method")
        check_units(source, language, [function])


#: Python's name of an encoding -> how a file says that it is in it.
ENCODINGS = {
    **dict.fromkeys(["utf-8", "utf-8-sig", "utf-16", "utf-32"], ""),
    **{name: f"# -*- coding: {name} -*-\n" for name in ("latin-1", "cp1252", "koi8-r", "shift_jis", "gb18030")},
}


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.data(), encoding=st.sampled_from(sorted(ENCODINGS)), line_end=st.sampled_from(["\n", "\r\n", "\r"])
)
def test_a_file_in_any_encoding_is_read_as_its_text(tmp_path, data, encoding, line_end):
    """Compare with the text that was encoded; the codecs are Python's."""
    # Python's Shift JIS decodes the two characters to other ones than it encodes.
    alphabet = st.characters(
        codec=encoding.removesuffix("-sig"), exclude_categories=["C", "Zl", "Zp"], exclude_characters="¥‾"
    )
    name = data.draw(st.text(alphabet, max_size=20))
    text = f"{ENCODINGS[encoding]}def f():\n    return {name!r}\n"
    path = tmp_path / "file.py"
    path.write_bytes(text.replace("\n", line_end).encode(encoding))

    file = read_source(path)
    assert file.source.decode() == text
    (function,) = extract_functions(file.source, file.language)
    assert function.source == text[text.index("def") :].rstrip("\n")


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.binary(max_size=300),
    extension=st.sampled_from(["py", "c", "h", "js", "php", "rb", "sh", "md", "ipynb"]),
)
def test_any_bytes_are_read_or_left_out_with_a_reason(tmp_path, data, extension):
    path = tmp_path / f"file.{extension}"
    path.write_bytes(data)
    report = ReadingReport()
    files = list(iter_sources(path, report=report))
    left_out = [*map(report.number, report.left_out), *report.other_files.values(), *report.unasked.values()]
    assert len(files) + sum(left_out) == 1
    assert not report.number("failed"), report.left_out
    for file in files:
        units = extract_units(file.source, file.language, file_name=path.name)
        check_units(file.source.decode(), file.language, units)


#: What a file can hold very much of -> the language, and a file with n of them.
MANY = {
    "functions in a file": ("python", lambda n: "def f(): pass\n" * n, 12_000),
    "documented functions": ("c", lambda n: "/* Does. */\nint f(void) { return 0; }\n" * n, 12_000),
    "methods of a class": (
        "java",
        lambda n: "class A {\n" + "/** Does. */ int f() { return 1; }\n" * n + "}",
        12_000,
    ),
    "nested JavaScript functions": ("javascript", lambda n: "function f(){" * n + "}" * n, 25_000),
    "nested C functions": ("c", lambda n: "int f(){" * n + "}" * n, 25_000),
    # Each level is one space deeper, so the file's size is quadratic: its square root counts.
    "nested Python functions": ("python", lambda n: _indented(int((2 * n) ** 0.5)), 600_000),
    "nested classes": ("java", lambda n: "class A {" * n + "}" * n, 25_000),
    # Their qualified names grow with the depth, so few of them.
    "namespaces": ("cpp", lambda n: "namespace a {" * n + "int f() { return 1; }" + "}" * n, 3_000),
    "blank lines": ("c", lambda n: "int f(void);" + "\n" * n + "int g(void) { return 1; }\n", 20_000),
    "comments": ("c", lambda n: "// Does.\n" * n + "int f(void) { return 0; }\n", 20_000),
    "macros": ("c", lambda n: "MY_API int f(int a) { FOR_EACH(x) { g(); } }\n" * n, 6_000),
    "a string's characters": ("javascript", lambda n: "var a = '" + "a" * n + "'; function f() {}", 2_500_000),
    "operators of a docstring": ("python", lambda n: 'def f():\n    f"""{' + "a + " * n + 'a}"""\n', 5_000),
    "strings of a docstring": ("python", lambda n: "def f():\n    (" + "'a' " * n + "'a')\n", 5_000),
    "parentheses": ("python", lambda n: "x = " + "(" * n + ")" * n + "\n", 25_000),
    "unclosed functions": ("c", lambda n: "int f(int a) {\n" * n, 12_000),
    "unclosed brackets": ("javascript", lambda n: "f([{" * n, 12_000),
    "decorators": ("python", lambda n: "@d\n" * n + "def f(): pass\n", 12_000),
    "text outside PHP": ("php", lambda n: "a <b> <?php f(); ?>\n" * n, 6_000),
}


def _indented(n):
    return "".join(" " * level + "def f():\n" for level in range(n)) + " " * n + "pass\n"


@pytest.mark.slow
@pytest.mark.parametrize("what", MANY)
def test_time_is_linear(what):
    """Compare the times for n / 16 and n; with long units split, as for an index, which does the most.

    Sixteen times as much takes 16 times as long, or 256 times if time is quadratic. 64 lies far from both.
    """
    language, make, n = MANY[what]

    def seconds(size):
        source = make(size).encode()
        start = time.process_time()
        extract_units(source, language, file_name="f", max_characters=2000)
        return time.process_time() - start

    # The best of a few: other processes only make it slower. Below some milliseconds there is nothing to compare.
    few = many = float("inf")
    for _ in range(4):
        few, many = min(few, seconds(n // 16)), min(many, seconds(n))
        if many < max(64 * few, 0.1):
            return
    pytest.fail(f"{few:.3f} s for {n // 16:,}, {many:.2f} s for sixteen times as many")


@pytest.mark.slow
def test_many_nested_folders_are_read(tmp_path):
    """Make and remove them one level at a time: their paths are longer than the system takes at once."""
    depth, here = 1500, Path.cwd()
    try:
        os.chdir(tmp_path)
        for _ in range(depth):
            Path("d").mkdir()
            os.chdir("d")
        Path("a.py").write_text("def f(): pass\n")

        files = list(iter_sources(tmp_path))
        assert [file.source for file in files] == [b"def f(): pass\n"]
        assert len(files[0].path.relative_to(tmp_path).parts) == depth + 1
    finally:
        # pytest's own clean-up is recursive.
        os.chdir(here)
        subprocess.run(["rm", "-rf", tmp_path / "d"], check=True)
