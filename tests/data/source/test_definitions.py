import ast
import inspect
import json
import keyword
import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st
from parsing import parsing_meanwhile

from mose.data.source.anonymization import anonymize
from mose.data.source.definitions import extract_functions, extract_units
from mose.data.source.languages import language_of, supported_languages
from mose.data.source.units import Unit

SNIPPETS = {
    "python": '''
import os

@cached
@retry(times=3)
async def fetch(url):  # a remark
    """Fetch a page.

    Args:
        url: where it is
    """

    return await get(url)

class Shelf:
    def add(self, book): "Put a book on it."; self.books.append(book)

    def clear(self):
        r"""Drop all \\d."""

    def count(self):
        # counts
        return len(self.books)

    if os.name == "nt":
        def path(self):
            ("Where " "it is.")
            def inner():
                """Not listed."""
            return inner
''',
    "java": """
package a.b;
class Shelf {
    /* not documentation */
    int size() { return books.size(); }

    /**
     * Puts a {@link Book#copy copy} on <b>the shelf</b>.
     * <p>It may be &lt;full&gt;.
     * @param book what to put
     * @return whether it fits
     */
    @Override @Deprecated
    public <T extends Book> boolean add(T book) throws IOException {
        return books.add(new Book() { public int pages() { return 1; } });
    }

    /** Makes a shelf. */
    Shelf(int width) { this.width = width; }

    abstract int none();
}
""",
    "javascript": """
;(function (root) {
  /** Adds two numbers.
   *  @param {number} a
   */
  function add(a, b) {
    return a + b;
  }
  // not documentation
  root.sub = (a, b) => { return a - b };
  return {
    /**
     * @description Multiplies two numbers.
     */
    mul: function (a, b) { return a * b; },
    [0]: function () {},
  };
})(this);

/** Makes things. */
// eslint-disable-next-line
export default class Maker {
  /** Makes one. */
  static async make() { const inner = () => 1; return inner(); }
  #hidden = () => { return 2; };
}

/** A module in a closure. */
var module = function () {
  /** Says hello to a name. */
  function hello(name) {
    const greeting = "hello " + name;
    return greeting + ", " + greeting + ", and once more: " + greeting;
  }
  return hello;
};
""",
    "go": """
package shelf

import "fmt"

// Add puts a book
// on the shelf.
//
//go:noinline
func (s *Shelf[T]) Add(book T) error {
	return fmt.Errorf("full")
}

// Not of the next one.

func free() { go func() { println() }() }
""",
    "ruby": """
module Shelves
  # Puts a book on the shelf.
  #
  # @param book [Book]
  def add(book)
    @books << book
  end

  # :nodoc:
  def self.empty?; true; end

  # Where it is.
  private def place = @place
=begin
Counts the books.
=end
  def count; @books.size; end
end
""",
    "php": """<html><?php
namespace A;

/**
 * Adds two numbers.
 *
 * @param int $a
 */
#[Pure]
function add(int $a, $b) { return $a + $b; }

abstract class Shelf {
    /** Puts a book on it. */
    public static function put($book): void { self::$books[] = $book; }
    abstract function none();
    private $f;
}
?>
""",
    "c": """
#include <stdio.h>
int prototype(int a);

/* Adds two numbers. */
static int
add(int a, int b)
{
  return a + b;
}

/// Finds the
/// first one.
#define X 1
char *find(const char *s) { return s; }

/**
 * shelf_put:
 * @shelf: a #Shelf
 *
 * Puts @book on the shelf.
 *
 * Returns: %TRUE
 */
int (shelf_put)(Shelf *shelf) { return 1; }

int broken(int a { return a; }
""",
    "cpp": """
namespace a {
//! Adds two things.
template <typename T>
T add(T a, T b) { return a + b; }

class Shelf : public Thing {
 public:
  Shelf() : books_(1) {}
  ~Shelf() {}
  Shelf(const Shelf&) = delete;
  /** \\brief Puts a book on it. \\see take */
  virtual int put(const Book& book) const override { auto f = [](int x) { return x; }; return f(1); }
  bool operator==(const Shelf& other) const { return true; }  ///< Not of the next one.
  int size() { return 0; }
};
}  // namespace a

// Takes a book off.
std::vector<Book>& a::Shelf::take(int n) { return books_; }
""",
}
#: Name and docstring of what each snippet holds.
EXPECTED = {
    "python": [
        ("fetch", "Fetch a page.\n\nArgs:\n    url: where it is"),
        ("add", "Put a book on it."),
        ("clear", "Drop all \\d."),
        ("count", ""),
        ("path", "Where it is."),
    ],
    "java": [
        ("size", ""),
        ("add", "Puts a copy on the shelf.\n\nIt may be <full>."),
        ("Shelf", "Makes a shelf."),
    ],
    "javascript": [
        ("add", "Adds two numbers."),
        ("sub", ""),
        ("mul", "Multiplies two numbers."),
        ("make", "Makes one."),
        ("#hidden", ""),
        ("hello", "Says hello to a name."),
    ],
    "go": [("Add", "Add puts a book\non the shelf."), ("free", "")],
    "ruby": [
        ("add", "Puts a book on the shelf."),
        ("empty?", ""),
        ("place", "Where it is."),
        ("count", "Counts the books."),
    ],
    "php": [("add", "Adds two numbers."), ("put", "Puts a book on it.")],
    "c": [
        ("add", "Adds two numbers."),
        ("find", ""),
        ("shelf_put", "Puts book on the shelf.\n\nReturns: TRUE"),
        ("broken", ""),
    ],
    "cpp": [
        ("add", "Adds two things."),
        ("Shelf", ""),
        ("~Shelf", ""),
        ("put", "Puts a book on it. \\see take"),
        ("operator==", ""),
        ("size", ""),
        ("take", "Takes a book off."),
    ],
}


def by_name(language: str) -> dict[str, Unit]:
    return {function.name: function for function in extract_functions(SNIPPETS[language].encode(), language)}


def assert_lines_point_at_source(function: Unit, text: str) -> None:
    lines = text.split("\n")[function.start_line - 1 : function.end_line]
    source = function.source.split("\n")
    assert len(source) == len(lines)
    for mine, theirs in zip(source, lines, strict=True):
        assert mine.strip() in theirs


@pytest.mark.parametrize("language", SNIPPETS)
def test_functions_of_each_language(language):
    functions = extract_functions(SNIPPETS[language].encode(), language)
    assert [(function.name, function.docstring) for function in functions] == EXPECTED[language]
    for function in functions:
        assert function.language == language
        assert_lines_point_at_source(function, SNIPPETS[language])
        if function.docstring:
            assert function.docstring.split("\n")[0] not in function.code
            assert function.code != function.source
        else:
            assert function.code == function.source or language in ("java", "ruby")


def test_sources_are_dedented_and_hold_decorators_and_documentation():
    assert by_name("python")["fetch"].source == textwrap.dedent('''\
        @cached
        @retry(times=3)
        async def fetch(url):  # a remark
            """Fetch a page.

            Args:
                url: where it is
            """

            return await get(url)''')
    assert by_name("python")["fetch"].code == textwrap.dedent("""\
        @cached
        @retry(times=3)
        async def fetch(url):  # a remark
            return await get(url)""")
    assert by_name("python")["add"].code == "def add(self, book): self.books.append(book)"
    assert by_name("python")["clear"].code == "def clear(self):\n    pass"
    assert by_name("java")["add"].code.startswith("@Override @Deprecated\npublic <T extends Book> boolean add(")
    assert by_name("java")["add"].source.startswith("/**\n * Puts a")
    assert by_name("ruby")["place"].source == "# Where it is.\nprivate def place = @place"
    assert by_name("cpp")["add"].code == "template <typename T>\nT add(T a, T b) { return a + b; }"
    assert by_name("go")["Add"].code.startswith("func (s *Shelf[T]) Add")


def test_constructors_are_told():
    assert [f.name for f in extract_functions(SNIPPETS["java"].encode(), "java") if f.constructor] == ["Shelf"]
    assert [f.name for f in by_name("cpp").values() if f.constructor] == ["Shelf", "~Shelf"]


def test_documentation_is_read_whatever_is_parsed_meanwhile():
    with parsing_meanwhile():
        (function,) = extract_functions(b'def f():\n    ("Add a\\n" "to b.")\n    return 1\n', "python")
    assert function.docstring == "Add a\nto b."


def test_bad_arguments_are_named():
    with pytest.raises(UnicodeDecodeError, match="position 2"):
        extract_functions(b"# \xff", "python")
    with pytest.raises(ValueError, match="one of (bash, )?c, cpp.*got 'cobol'"):
        extract_functions(b"", "cobol")
    with pytest.raises(ValueError, match="max_characters must be at least 100, got 99"):
        extract_units(b"", "python", max_characters=99)
    assert extract_functions(b"", "go") == []


def test_a_syntax_error_costs_no_definition():
    source = b"def broken(:\n    return 1\n\n\ndef whole():\n    return 2 2\n"
    assert [function.name for function in extract_functions(source, "python")] == ["broken", "whole"]


@pytest.mark.parametrize("module", [ast, inspect, json, json.decoder, keyword, textwrap])
def test_python_agrees_with_the_interpreters_own_parser(module):
    """Names, lines and docstrings as `ast` has them, and code that compiles to one without docstring."""
    source = inspect.getsource(module)
    inner: set[int] = set()
    expected: list[tuple[int, int, str, bool]] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            inner |= {id(other) for other in ast.walk(node) if other is not node}
            if id(node) not in inner:
                start = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
                expected.append(
                    (start, node.end_lineno or 0, node.name, bool(ast.get_docstring(node, clean=False)))
                )
    functions = extract_functions(source.encode(), "python")
    expected.sort()
    assert [(f.start_line, f.name, bool(f.docstring)) for f in functions] == [
        (a, *rest) for a, _, *rest in expected
    ]
    lines = source.split("\n")
    for function, (_, end_line, *_) in zip(functions, expected, strict=True):
        # Comments at the end of a function are its own here, and nobody's to `ast`.
        assert all(line.strip()[:1] in ("", "#") for line in lines[end_line : function.end_line])
        assert function.end_line >= end_line
        definition, original = ast.parse(function.code).body[0], ast.parse(function.source).body[0]
        assert isinstance(definition, ast.FunctionDef) and isinstance(original, ast.FunctionDef)
        assert ast.get_docstring(definition) is None
        if ast.get_docstring(original) is not None and len(original.body) > 1:
            del original.body[0]
            assert ast.dump(definition) == ast.dump(original)


WORDS = st.lists(st.text(alphabet="abcdefgxyz", min_size=2, max_size=8), min_size=1, max_size=6).map(" ".join)
TEMPLATES = {
    "python": 'class A:\n    x = 1\n    def f(self):\n        """{doc}"""\n        return 1{rest}',
    "java": "class A {{\n  int x;\n  /** {doc} */\n  int f() {{ return 1; }}{rest}\n}}",
    "javascript": "let x = 1;\n/** {doc} */\nfunction f() {{ return 1; }}{rest}",
    "go": "package a\n\n// {doc}\nfunc f() int {{ return 1 }}{rest}",
    "ruby": "module A\n  # {doc}\n  def f\n    1\n  end{rest}\nend",
    "php": "<?php\n/**\n * {doc}\n */\nfunction f() {{ return 1; }}{rest}",
    "c": "int x;\n/// {doc}\nint f(void) {{ return 1; }}{rest}",
    "cpp": "namespace a {{\n/* {doc} */\nint f() {{ return 1; }}{rest}\n}}",
}


@pytest.mark.slow
@pytest.mark.parametrize("language", TEMPLATES)
@given(document=WORDS, gap=st.integers(0, 3))
def test_a_docstring_is_found_and_never_left_in_the_code(language, document, gap):
    document = f"Zq {document}"
    text = "\n" * gap + TEMPLATES[language].format(doc=document, rest="\n" * gap)
    (function,) = extract_functions(text.encode(), language)
    assert function.docstring == document
    assert document in function.source
    assert document not in function.code
    assert_lines_point_at_source(function, text)


FRAGMENTS = st.sampled_from(
    [*SNIPPETS.values(), "/**", "*/", '"""', "def f(", "{", "}", "\n", "#", "//", "\0", "é"]
)


@given(
    language=st.sampled_from(supported_languages()),
    source=st.binary(max_size=60)
    | st.lists(FRAGMENTS.map(lambda text: text.encode()[:200]), max_size=5).map(b"".join),
)
def test_any_text_gives_units_inside_it(language, source):
    source = source.decode(errors="replace").replace("\r", "\n").encode()
    for function in extract_functions(source, language):
        assert function.name
        assert_lines_point_at_source(function, source.decode())
    for limit in (None, 100):
        for unit in extract_units(source, language, file_name="name", max_characters=limit):
            assert 1 <= unit.start_line <= unit.end_line <= source.count(b"\n") + 1


@pytest.mark.parametrize(
    ("language", "name", "code", "expected"),
    [
        ("python", "get", 'def get(a): a.get(get2, "get", forget)', 'def f(a): a.f(get2, "get", forget)'),
        ("java", "size", "int size() { return size; /* size */ }", "int f() { return f; /* size */ }"),
        ("javascript", "$on", "$on: function () { this.$on(a$on); }", "f: function () { this.f(a$on); }"),
        ("php", "put", "function put($put) { self::put('put'); }", "function f($put) { self::f('put'); }"),
        ("ruby", "empty?", "def empty?; list.empty? || empty; end", "def f; list.f || empty; end"),
        ("ruby", "size=", "def size=(n); @n = n; end", "def f=(n); @n = n; end"),
        ("go", "Add", "func (s *S) Add() { s.Add() }", "func (s *S) f() { s.f() }"),
        ("c", "add", 'int add(int adder) { return add("add"); }', 'int f(int adder) { return f("add"); }'),
        ("cpp", "put", "int a::B::put(T x) { return put<T>(x); }", "int a::B::f(T x) { return f<T>(x); }"),
        ("csharp", "Put", "int Put(T x) => Put(Putter);", "int f(T x) => f(Putter);"),
    ],
)  # fmt: skip
def test_anonymize_renames_whole_identifiers(language, name, code, expected):
    assert anonymize(code, language, name) == expected


def test_language_of_a_path():
    assert [language_of(name) for name in ("a.py", "b/C.JAVA", "c.mjs", "x.h", "y.hpp", "z.txt", "Makefile")] == [
        *("python", "java", "javascript", "c", "cpp"),
        *("text", None),
    ]
    assert language_of("x.h", b"#pragma once\nnamespace a {\n}") == "cpp"
    assert language_of("x.h", b"int f(void); /* a class of its own */") == "c"
