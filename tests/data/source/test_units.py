"""Units other than functions: containers, files, parts of long units, and what they are called."""

import ast
import inspect
import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mose.data.source.definitions import extract_functions, extract_units

SERVER = '''"""Serve things."""
import os

LIMIT = 3


@deco
class Server(Base):
    """A server."""

    port = 80

    def run(self, x):
        """Run it."""
        def inner():
            return 1
        return inner()

    class Inner:
        def g(self): return 2


def main():
    Server().run(1)


if __name__ == "__main__":
    main()
'''


def units_of(source, language="python", **options):
    return extract_units(textwrap.dedent(source).encode(), language, **options)


def test_each_definition_and_the_file_are_units():
    units = units_of(SERVER, file_name="server.py")
    assert [(u.kind, u.name, u.qualified_name, u.docstring, u.start_line, u.end_line) for u in units] == [
        ("file", "server.py", "server.py", "Serve things.", 1, 28),
        ("class", "Server", "Server", "A server.", 7, 20),
        ("method", "run", "Server.run", "Run it.", 13, 17),
        ("class", "Inner", "Server.Inner", "", 19, 20),
        ("method", "g", "Server.Inner.g", "", 20, 20),
        ("function", "main", "main", "", 23, 24),
    ]
    assert {unit.language for unit in units} == {"python"}


def test_containers_show_their_members_as_signatures():
    file, server, *_ = units_of(SERVER)
    assert server.source == textwrap.dedent('''\
        @deco
        class Server(Base):
            """A server."""

            port = 80

            def run(self, x): ...

            class Inner: ...''')
    assert server.code == server.source.replace('"""A server."""\n\n    ', "")
    assert file.code == textwrap.dedent("""\
        import os

        LIMIT = 3


        @deco
        class Server(Base): ...


        def main(): ...


        if __name__ == "__main__":
            main()""")


def test_a_file_of_definitions_and_imports_alone_is_no_unit():
    assert [u.kind for u in units_of("# A remark\nimport os\n\ndef f():\n    return os\n")] == ["function"]
    assert units_of("# Nothing but a remark\n") == []
    assert [u.kind for u in units_of("LIMITS = {1: 2}\n")] == ["file"]


def test_licences_are_no_documentation():
    java = "/* Copyright 2020 Somebody. Licensed to you. */\npackage a;\n\nenum E { A }\n"
    assert [(u.kind, u.docstring) for u in units_of(java, "java")] == [("enum", "")]
    (file,) = units_of("/* Licensed under X. */\nint table[] = {1, 2, 3};\n", "c")
    assert (file.docstring, file.start_line) == ("", 2)
    (file,) = units_of("/* Powers of two. */\nint table[] = {1, 2, 4};\n", "c")
    assert (file.docstring, file.start_line) == ("Powers of two.", 1)


def test_what_stands_in_a_namespace_or_a_guard_belongs_to_the_file():
    header = """\
        #ifndef A_H
        #define A_H
        namespace a {
        const int limit = 3;
        int twice(int x) { return 2 * x; }
        }
        #endif
        """
    file, twice = units_of(header, "cpp", file_name="a.hpp")
    assert (file.kind, twice.qualified_name, twice.kind) == ("file", "a.twice", "function")
    assert "limit = 3" in file.source and "return" not in file.source
    bare = "#ifndef A_H\n#define A_H\nint twice(int x) { return 2 * x; }\n#endif\n"
    assert [u.name for u in units_of(bare, "c")][-1] == "twice"


def test_bodiless_functions_are_listed_if_they_are_documented():
    interface = """\
        interface Shelf {
            /** Puts a book on it. */
            void put(Book book);
            void take();
        }
        """
    units = units_of(interface, "java")
    assert [(u.kind, u.qualified_name, u.docstring) for u in units] == [
        ("interface", "Shelf", ""),
        ("method", "Shelf.put", "Puts a book on it."),
    ]
    assert "void take();" in units[0].source and "Puts" not in units[0].source
    assert extract_functions(textwrap.dedent(interface).encode(), "java") == []


def test_a_closure_lists_its_functions():
    module = """\
        const api = function () {
          let count = 0;
          function more(amount) { count += amount; return count; }
          function fewer(amount) { count -= amount; return count; }
          return { more, fewer };
        };
        """
    assert [u.qualified_name for u in units_of(module, "javascript")] == ["api", "api.more", "api.fewer"]
    assert [f.name for f in extract_functions(textwrap.dedent(module).encode(), "javascript")] == [
        "more",
        "fewer",
    ]


def test_a_long_function_is_split_and_lists_the_definitions_inside():
    body = "".join(f"    value += compute({i})\n" for i in range(30))
    source = f"class A:\n    def long(self):\n{textwrap.indent(body, '    ')}        def inner():\n" + (
        "            return 1\n        return inner()\n"
    )
    whole = units_of(source)
    assert [u.name for u in whole] == ["A", "long"] and "return 1" in whole[1].source

    split = units_of(source, max_characters=300)
    parts = [u for u in split if u.name == "long"]
    assert [u.name for u in split if u.name != "long"] == ["A", "inner"]
    assert split[-1].qualified_name == "A.long.inner"
    assert [(u.part, u.parts) for u in parts] == [(i + 1, len(parts)) for i in range(len(parts))]
    assert parts[0].source.startswith("def long(self):\n    value += compute(0)")
    assert parts[1].source.startswith("A: def long(self): ...\nvalue += compute(")
    assert "def inner(): ..." in parts[-1].source
    # Every line is in one part.
    assert sum(u.source.count("compute(") for u in parts) == 30
    lines = [line for u in parts for line in range(u.start_line, u.end_line + 1)]
    assert lines == sorted(set(lines))


def test_a_long_table_is_split_between_rows():
    rows = "".join(f'    "key{i}": {i},\n' for i in range(100))
    parts = units_of(f"TABLE = {{\n{rows}}}\n", file_name="table.py", max_characters=400)
    assert len(parts) > 3 and all(len(u.source) <= 400 + len("table.py ...\n") for u in parts)
    assert all(u.source.startswith("table.py ...\n") for u in parts[1:])
    assert all(line.rstrip().endswith((",", "{", "}", "...")) for u in parts for line in u.source.split("\n"))


def test_one_long_line_is_cut_between_characters():
    parts = units_of("x = '" + "é" * 1000 + "'\n", max_characters=200)
    assert len(parts) > 10 and all(len(u.source.encode()) <= 201 for u in parts)
    assert "".join(u.source for u in parts) == "x = '" + "é" * 1000 + "'"


@pytest.mark.parametrize("limit", [100, 500, 3000])
@pytest.mark.parametrize("module", [ast, inspect, textwrap])
def test_parts_hold_every_line_of_a_real_file(module, limit):
    """No line of code is lost: each is in a unit, and parts are bounded."""
    source = inspect.getsource(module)
    units = extract_units(source.encode(), "python", file_name="module.py", max_characters=limit)
    texts = "\n".join(unit.source for unit in units)
    covered = {line.strip() for line in texts.split("\n")}
    for statement in ast.walk(ast.parse(source)):
        if isinstance(statement, ast.Return | ast.Raise | ast.Assign | ast.AugAssign | ast.Expr):
            line = source.split("\n")[statement.lineno - 1].strip()
            assert line in covered or any(line in text for text in covered), line
    signatures = 500  # a member's signature is never split
    for unit in units:
        assert len(unit.source.encode()) <= limit + signatures


FRAGMENTS = ["def f(a):", "class A:", "x = [1, 2, 3]", "return a", "if x:", '"""Doc."""', "", "# remark", "g(é)"]


@given(
    lines=st.lists(st.tuples(st.integers(0, 4), st.sampled_from(FRAGMENTS)), max_size=40),
    limit=st.integers(100, 400),
)
def test_spans_are_disjoint_or_nested(lines, limit):
    source = "\n".join("    " * depth + text for depth, text in lines)
    units = extract_units(source.encode(), "python", max_characters=limit)
    spans = [(unit.start_line, unit.end_line) for unit in units]
    for i, (start, end) in enumerate(spans):
        assert 1 <= start <= end <= len(lines)
        for other_start, other_end in spans[i + 1 :]:
            nested = start <= other_start <= other_end <= end or other_start <= start <= end <= other_end
            assert nested or other_start > end or other_end < start


@pytest.mark.slow
@pytest.mark.parametrize(
    ("language", "source"),
    [
        ("javascript", lambda n: "function f(){" * n + "}" * n),
        ("python", lambda n: "".join(f"def f{i}():\n    '''Doc.'''\n    return {i}\n\n" for i in range(n))),
        ("javascript", lambda n: "".join(f"function f{i}(){{return {i}}}" for i in range(n))),
        ("c", lambda n: "\n" * 5 * n + "int f(void) { return 1; }\n" * (n // 5)),
        ("python", lambda n: "x = " + "+".join("1" * n) + "\n"),
        ("python", lambda n: "def f():\n    f'''{" + "+".join("1" * n) + "}'''\n    return 1\n"),
        ("javascript", lambda n: "var x = [" + "1234567," * (4 * n) + "];"),
    ],
    ids=["nested", "many", "one line", "blank lines", "operators", "f-string", "table"],
)
def test_extraction_visits_each_byte_a_bounded_number_of_times(language, source, count_calls):
    """Python-level work grows in proportion to the file: counted, since timings are noisy."""
    first, second = (count_calls(source(n).encode(), language) for n in (2000, 4000))
    assert second < 2.5 * first


@pytest.fixture
def count_calls():
    import sys

    def count(source, language):
        calls = 0

        def profile(frame, event, argument):
            nonlocal calls
            calls += event in ("call", "c_call")

        sys.setprofile(profile)
        try:
            extract_units(source, language, max_characters=1000)
        finally:
            sys.setprofile(None)
        return calls

    return count
