"""Random nesting: exactly the definitions that were written are found, with the names around them."""

from dataclasses import dataclass, field
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mose.data.source.definitions import extract_units
from mose.data.source.languages import supported_languages


@dataclass
class Style:
    """How a language writes definitions; `{name}` and `{body}` are filled in.

    Attributes:
        containers: template of a container -> its kind, or "" if it only qualifies.
        functions: templates of functions.
        outer: whether functions can be outside any container.
        methods: kinds of containers whose functions are methods.
        nests: whether containers can be in containers.
        prefix: what a file begins with.
    """

    functions: list[str]
    containers: dict[str, str] = field(default_factory=dict)
    outer: bool = True
    methods: tuple[str, ...] = ("class", "struct", "interface", "trait", "enum")
    nests: bool = True
    prefix: str = ""


BRACES = {"class {name} {{\n{body}\n}}": "class"}
STYLES = {
    "bash": Style(["{name}() {{\n  echo 1\n}}", "function {name} {{ local x=1; }}"]),
    "c": Style(["int {name}(int a) {{ return a; }}", "static char *\n{name}(void)\n{{\n  return 0;\n}}"]),
    "cpp": Style(
        ["int {name}(int a) {{ return a; }}", "template <typename T>\nT {name}(T a) {{ return a; }}"],
        {
            "class {name} {{\npublic:\n{body}\n}};": "class",
            "struct {name} : Base {{\n{body}\n}};": "struct",
        },
    ),
    "csharp": Style(
        ["int {name}(int a) {{ return a; }}", "public T {name}<T>() => default;"],
        {**BRACES, "struct {name} {{\n{body}\n}}": "struct", "interface {name} {{\n{body}\n}}": "interface"},
        outer=False,
    ),
    "go": Style(["func {name}(a int) int {{\n\treturn a\n}}"], prefix="package a\n"),
    "java": Style(
        ["int {name}(int a) {{ return a; }}", "@Override\npublic <T> T {name}() {{ return null; }}"],
        {**BRACES, "interface {name} {{\n{body}\n}}": "interface", "enum {name} {{ ;\n{body}\n}}": "enum"},
        outer=False,
    ),
    "javascript": Style(
        ["function {name}(a) {{ return a + 1; }}", "const {name} = async (a) => {{ await a; }};"],
    ),
    "kotlin": Style(
        ["fun {name}(a: Int): Int {{\n  return a\n}}", "private fun <T> {name}() = 1"],
        {**BRACES, "object {name} {{\n{body}\n}}": "class", "interface {name} {{\n{body}\n}}": "interface"},
    ),
    "lua": Style(["local function {name}(a) return a end", "function {name}(...)\n  return ...\nend"]),
    "php": Style(["function {name}($a) {{ return $a; }}"], prefix="<?php\n"),
    "python": Style(
        ["def {name}(self):\n    return 1", "@cached\nasync def {name}(self, *, a=1):\n    await a"],
        {"class {name}(Base):\n{body}": "class"},
    ),
    "ruby": Style(
        ["def {name}(a)\n  a\nend", "def self.{name} = 1"],
        {"module {name}\n{body}\nend": "module", "class {name} < Base\n{body}\nend": "class"},
    ),
    "rust": Style(
        ["fn {name}(a: i32) -> i32 {{ a }}", "#[inline]\npub async fn {name}<T>() {{}}"],
        {"pub mod {name} {{\n{body}\n}}": "module"},
    ),
    "scala": Style(
        ["def {name}(a: Int): Int = a + 1", "private def {name}[T] = {{\n  1\n}}"],
        {**BRACES, "object {name} {{\n{body}\n}}": "class", "trait {name} {{\n{body}\n}}": "trait"},
    ),
    "sql": Style(["CREATE FUNCTION {name}(a int) RETURNS int AS $$ SELECT a; $$ LANGUAGE sql;"]),
    "swift": Style(
        ["func {name}(a: Int) -> Int {{\n  return a\n}}", "@objc func {name}<T>() throws {{\n}}"],
        {**BRACES, "struct {name} {{\n{body}\n}}": "struct", "enum {name} {{\n{body}\n}}": "enum"},
    ),
    "typescript": Style(
        ["function {name}<T>(a: T): T {{ return a; }}", "const {name} = (a: number) => a;"],
        {"namespace {name} {{\n{body}\n}}": "module"},
    ),
}
#: Classes of JavaScript and TypeScript hold methods that are written in another way than functions.
STYLES["class members of javascript"] = Style(
    ["{name}(a) {{ return a + 1; }}", "static {name} = (a) => a;"], BRACES, outer=False, nests=False
)
STYLES["class members of typescript"] = Style(
    ["private {name}<T>(a: T): T {{ return a; }}", "async {name}?() {{}}"],
    {"export abstract class {name}<T> {{\n{body}\n}}": "class"},
    outer=False,
    nests=False,
)
STYLES["class members of php"] = Style(
    ["public static function {name}(int $a): ?int {{ return $a; }}"],
    {**BRACES, "trait {name} {{\n{body}\n}}": "trait", "enum {name} {{\n{body}\n}}": "enum"},
    outer=False,
    nests=False,
    prefix="<?php\nnamespace A;\n",
)
#: A tree of definitions: the number of a template, and children for a container.
TREES = st.lists(
    st.recursive(
        st.tuples(st.integers(0, 5), st.none()),
        lambda inner: st.tuples(st.integers(0, 5), st.none() | st.lists(inner, max_size=3)),
        max_leaves=8,
    ),
    min_size=1,
    max_size=4,
)


def write(tree: list, style: Style, around: str, kind: str, numbers: count) -> tuple[str, list[tuple[str, str]]]:
    """Return source code with the definitions of a tree, and kind and qualified name of each."""
    texts, expected = [], []
    for number, children in tree:
        name = f"Item{next(numbers)}"
        qualified_name = f"{around}.{name}" if around else name
        if style.containers and children is not None and (style.nests or not kind):
            template = [*style.containers][number % len(style.containers)]
            inner_kind = style.containers[template]
            body, inside = write(children, style, qualified_name, inner_kind, numbers)
            expected += [(inner_kind, qualified_name), *inside]
            indented = "\n".join(f"    {line}" for line in (body or "pass").split("\n"))
            if not body and not template.endswith("{body}"):
                indented = ""
            texts.append(template.format(name=name, body=indented))
        elif style.outer or kind:
            expected.append(("method" if kind in style.methods else "function", qualified_name))
            texts.append(style.functions[number % len(style.functions)].format(name=name))

    return "\n\n".join(texts), expected


def test_every_language_has_a_style():
    assert {name.split()[-1] for name in STYLES} == set(supported_languages())


@pytest.mark.parametrize("name", STYLES)
@given(tree=TREES)
def test_exactly_the_definitions_that_were_written_are_found(name, tree):
    style, language = STYLES[name], name.split()[-1]
    source, expected = write(tree, style, "A" if "namespace A" in style.prefix else "", "", count())
    units = extract_units((style.prefix + source).encode(), language)
    assert [(unit.kind, unit.qualified_name) for unit in units] == expected
