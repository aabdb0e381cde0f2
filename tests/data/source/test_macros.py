"""C and C++ as they are written: macros, conditionals, old forms. The names and lines are read off by hand."""

import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tree_sitter import Parser

from mose.data.source.definitions import extract_units
from mose.data.source.languages import grammar
from mose.data.source.macros import mask_macros
from mose.data.source.macros.masking import Masker


def functions(source: str, language: str) -> list[tuple[str, int, int]]:
    units = extract_units(source.encode(), language)
    return [(unit.name, unit.start_line, unit.end_line) for unit in units if unit.kind in ("function", "method")]


#: What stands around the function `f` of a file, with its first and last line.
FORMS_OF_C = [
    ("MY_API int f(int a) { return a; }", 1, 1),
    ("MY_API(int) f(int a) { return a; }", 1, 1),
    ("PyAPI_FUNC(PyObject *) f(PyObject *self) {\n    return self;\n}", 1, 3),
    ("static FORCE_INLINE U32 f(const void *p) { return 1; }", 1, 1),
    ("LZ4LIB_API LZ4_FORCE_O2 int f(int a) { return a; }", 1, 1),
    ("extern int ZEXPORT f(a, b)\n    uLong a;\n    const char *b;\n{\n    return 0;\n}", 1, 6),
    ("int f(a) DWORD a; { return 0; }", 1, 1),
    ("JNIEXPORT jint JNICALL f(JNIEnv *env) { return 0; }", 1, 1),
    ("static BOOL WINAPI f(HANDLE h) { return 0; }", 1, 1),
    ("int f(int a) NOEXCEPT_IF(a) { return a; }", 1, 1),
    ("void f(char *p) __attribute__((nonnull(1))) UNUSED { }", 1, 1),
    ("__attribute__((noinline)) static int f(void) { return 1; }", 1, 1),
    ("__declspec(dllexport) int __stdcall f(void) { return 1; }", 1, 1),
    ("int f(_In_ int a, _Out_writes_(n) char *FAR b, UNUSED int c) { return a; }", 1, 1),
    (
        "JEMALLOC_EXPORT void JEMALLOC_NOTHROW *\nJEMALLOC_ATTR(malloc) JEMALLOC_ALLOC_SIZE(1)\nf(size_t n) {\n}",
        1,
        4,
    ),
    ("LUA_API lua_CFunction (f) (lua_State *L, lua_CFunction g) { return g; }", 1, 1),
    ("const char *NONNULL f(void) { return 0; }", 1, 1),
    ("int\nf (int a)\n{\n  return a;\n}", 1, 5),
    ("[[nodiscard]] int f(void) { return 1; }", 1, 1),
    ("DEFINE_LIST(a, b)\n\nint f(void) { return 1; }", 3, 3),
    ("BEGIN_DECLS\nint f(void) { return 1; }\nEND_DECLS", 2, 2),
    ('#ifdef __cplusplus\nextern "C" {\n#endif\nMY_API int f(void) {\n}\n#ifdef __cplusplus\n}\n#endif', 4, 5),
    ("#if A\nint f(int a) {\n#else\nint f(long a) {\n#endif\n    return a;\n}", 2, 7),
    ("#if A\nint f(int a)\n#else\nint f(long a)\n#endif\n{\n    return a;\n}", 2, 8),
    ("int f(int a) {\n#ifdef A\n    if (a) {\n#endif\n    g(a);\n#ifdef A\n    }\n#endif\n}", 1, 9),
    ("int f(int a\n#ifdef A\n    , int b\n#endif\n) {\n    return a;\n}", 1, 7),
    (
        "int f(int a) {\n    if (a)\n        g();\n#if A\n    else if (b) {\n#else\n    else {\n#endif\n    }\n}",
        1,
        10,
    ),
    ("int f(int a) { list_for_each(p, l) { g(p); } return 1; }", 1, 1),
    ("int f(int a) { FOREACH(x, y) g(x); return 1; }", 1, 1),
    ("int f(int a) {\n    CHECK(a)\n    if (a) { g(); }\n    RETURN(a)\n}", 1, 5),
    ("int f(void) { return va_arg(ap, struct a *) + GET(int, b) + OP(a, <, b); }", 1, 1),
    ('int f(void) { printf("a" PRIu64 "b" STR(x) "c", 1); }', 1, 1),
    ("int f(void) { int b = ({ int c = 1; c; }); return b; }", 1, 1),
    ('int f(void) { __asm__ volatile ("nop" : : : "memory"); asm("x"); return 1; }', 1, 1),
    ("int f(int a) {\n#define SQUARE(x) \\\n    ((x) * (x)) /* a } */\n    return SQUARE(a);\n}", 1, 5),
    ("int \\\nf(int a) { return \\\n  a; }", 1, 3),
    ("#define LOOP(x) do { /* all */ \\\n    while (x) { \\\n} while (0)\n\nint f(void) { return 1; }", 5, 5),
    ("static int f(void) { ALIGNED(16) static int a = 1; return a; }", 1, 1),
    ("int a GUARDED_BY(b) = 1;\nint f(void) { return a; }", 2, 2),
    ("int f(void) { FOREVER { g(); } }", 1, 1),
    ("void (*f(int s, void (*g)(int)))(int) { return g; }", 1, 1),
    ("struct S *f(struct S *s) { return s; }", 1, 1),
    (
        "#define OP(x)\nALL\n#undef OP\nint a[] = {\n#define OP(x) x,\nALL\n#undef OP\n};\nint f(void) {}",
        9,
        9,
    ),
    ("static struct S const *ATTR f(void) { return 0; }", 1, 1),
]
FORMS_OF_CPP = [
    ("BEGIN_NAMESPACE\nint f(int a) { return a; }\nEND_NAMESPACE", 2, 2),
    ("NAMESPACE_BEGIN(a)\nNAMESPACE_BEGIN(b)\n\ninline int f(int a) { return a; }\nNAMESPACE_END(b)", 4, 4),
    ("namespace a MY_API {\nint f(int a) { return a; }\n}", 2, 2),
    ("STDMETHODIMP_(ULONG) A::f() { return 1; }", 1, 1),
    ("class MY_API A : public B {\npublic:\n    int f() { return 1; }\n};", 3, 3),
    (
        "class A final : public B {\n    Q_OBJECT\npublic slots:\n    void f() {}\nsignals:\n    void g();\n};",
        4,
        4,
    ),
    ("class A {\n    Q_OBJECT\n    Q_PROPERTY(int a READ a NOTIFY b)\npublic:\n    void f() {}\n};", 5, 5),
    ("template <class T, int N = 3>\nMY_INLINE T f(T a) { return a; }", 1, 2),
    ("template <typename T>\n  requires std::integral<T> && (sizeof(T) > 1)\nT f(T a) { return a; }", 1, 3),
    ("template <typename T>\nconcept C = requires(T a) { a + a; };\nC auto f(C auto a) { return a; }", 3, 3),
    ("export module a;\nimport std;\nexport int f(int a) { return a; }", 3, 3),
    ("[[nodiscard]] constexpr auto f(int a) noexcept -> int { return a; }", 1, 1),
    ("MY_CONSTEXPR auto f(const A& a) -> decltype(a.b()) { return a.b(); }", 1, 1),
    ("int A::f(int a) const LOCKS_EXCLUDED(mu_) { return a; }", 1, 1),
    ("const T* absl_nonnull f(T* absl_nullable a) { return a; }", 1, 1),
    ("struct A {\n    void f() override { OVERRIDE(void, A, f, ); }\n};", 2, 2),
    ("auto f(int C::*a) { return [a](int b) { return FOR(b) b; }; }", 1, 1),
]


@pytest.mark.parametrize(("source", "start", "end"), FORMS_OF_C)
@pytest.mark.parametrize("language", ["c", "cpp"])
def test_forms_of_c(source, start, end, language):
    if language == "cpp" and ("DWORD a" in source or "uLong a" in source):
        pytest.skip("old style")
    assert functions(source, language) == [("f", start, end)]


@pytest.mark.parametrize(("source", "start", "end"), FORMS_OF_CPP)
def test_forms_of_cpp(source, start, end):
    assert functions(source, "cpp") == [("f", start, end)]


def test_no_definitions_of_macros_and_statements():
    source = """\
        int f(int a) {
            if (a) { g(); } else_if(b) { h(); }
            while (a) { g(); } do { g(); } while (a);
            FOR_EACH(a, b) { g(); }
            for_each(a, b) if (c) { return 1; }
            switch (a) { case 1: CASE(2) { g(); } default: break; }
            int b[] = { CALL(1), 2 }, c = { 1 };
            struct s d = (struct s) { .a = 1 };
            LOCKED { g(); }
        }
        int a[] = { A(1) };
        MAKE_TABLE(int, { 1, 2 })
        static const struct s e = { .a = CALL(f) };
        typedef int (*t)(int);
    """
    for language in ("c", "cpp"):
        assert [name for name, _, _ in functions(source, language)] == ["f"]
    source = "struct A { int a GUARDED_BY(b){0}; A() : a{1}, b(2), c{f([] { return 1; })} { g(); } };\nA a{1, 2};"
    assert [name for name, _, _ in functions(source, "cpp")] == ["A"]


def test_macros_before_a_definition_belong_to_it():
    source = """\
int a;
/** Adds. */
MY_API
MY_ATTR(1,
        2)
static int f(int a) NOEXCEPT { return a; }

SOME_MACRO(a)

/** Subtracts. */
#if A
MY_API int g(int a) {
#else
MY_API int g(long a) {
#endif
    return a;
}
"""
    for language in ("c", "cpp"):
        f, g = (unit for unit in extract_units(source.encode(), language) if unit.kind == "function")
        assert (f.start_line, f.end_line, f.docstring) == (2, 6, "Adds.")
        assert f.code == "MY_API\nMY_ATTR(1,\n        2)\nstatic int f(int a) NOEXCEPT { return a; }"
        assert (g.start_line, g.end_line) == (12, 17)


def test_a_body_that_cannot_be_parsed_loses_no_other_function():
    body = "{ x = ) ( ; @@ int y; ] }"
    source = "\n".join(f"int f{i}(int a) {body if i == 3 else '{ return a; }'}" for i in range(6))
    for language in ("c", "cpp"):
        assert functions(source, language) == [(f"f{i}", i + 1, i + 1) for i in range(6)]


PIECES = [line for form, _, _ in FORMS_OF_C + FORMS_OF_CPP for line in form.split("\n")] + [
    *"(){}[]<>;:,#*&=\"'\\\n", "R\"(", "/*", "*/", "//", "#if A", "#else", "#endif", "#define A \\", "::",
    "operator", "template <", "requires", "class A", "namespace", "enum", "signals:", "->", "é", "\x00",
]  # fmt: skip


@given(
    st.lists(st.sampled_from(PIECES), max_size=25),
    st.sampled_from(["", " ", "\n"]),
    st.sampled_from(["c", "cpp"]),
)
@settings(deadline=None)
def test_masks_keep_length_and_lines(pieces, separator, language):
    source = separator.join(pieces).encode()
    tree = Parser(grammar(language)).parse(source)
    masked = mask_macros(source, tree, language)
    assert len(masked) == len(source)
    assert [i for i, byte in enumerate(masked) if byte == 10] == [
        i for i, byte in enumerate(source) if byte == 10
    ]

    for unit in extract_units(source, language):
        assert 1 <= unit.start_line <= unit.end_line <= source.count(b"\n") + 1
        assert unit.name.encode() in source.replace(b"\n", b" ") or " " in unit.name


@pytest.mark.parametrize(("form", "start", "end"), FORMS_OF_C)
def test_every_form_among_others(form, start, end):
    others = [f"int {name}(int a) {{ return a; }}" for name in ("before", "after")]
    source = "\n\n".join([others[0], form, others[1], "MY_API int last(X a) {}"])
    names = [name for name, _, _ in functions(source, "c")]
    assert names == ["before", "f", "after", "last"]


#: Text that doubles with its count, and that a careless reader takes quadratic time for.
LARGE = {
    "functions": lambda n: "MY_API int f(int a) { FOO(a) return a; }\n" * n,
    "one function": lambda n: "MY_API int f(int a) {\n" + "FOO(a) g(int);\n" * n + "}",
    "lines": lambda n: "MY_API int f(int a) {" + "\n" * 10 * n + "}",
    "nested calls": lambda n: "MY_API int f(int a) { " + "A(" * n + ")" * n + "; }",
    "nested blocks": lambda n: "MY_API int f(int a) { " + "A(b) { " * n + "}" * n + " }",
    "nested conditionals": lambda n: "MY_API int f(int a) {\n" + "#if A\n{\n#else\n" * n + "#endif\n" * n + "}",
    "conditionals": lambda n: "MY_API int f(int a) {\n" + "#if A\n if (a) {\n#endif\n}\n" * n + "}",
    "initial values": lambda n: "MY_API A::A() : " + "a{1}, " * n + "b(2) {}",
    "old style": lambda n: "MY_API f(a) " + "int a; " * n + "{}",
    "angles": lambda n: "MY_API int f(a " + "< a " * n + ") {}",
    "templates": lambda n: "template <class T> " * n + "MY_API int f(int a) {}",
    "labels": lambda n: "MY_API int f(int a) { x = " + "a ? b : " * n + "c; }",
    "macros": lambda n: "MY_API " * n + "int f(int a) {}",
    "open": lambda n: "MY_API int f(int a) {" * n,
    "comments": lambda n: "MY_API int f(int a) {} /*" + "/*" * n,
    "strings": lambda n: "MY_API int f(int a) {} " + 'R"a(' * n,
    "directives": lambda n: "MY_API int f(int a) {}" + "\n#define a /*" * n,
}


@pytest.mark.parametrize("language", ["c", "cpp"])
@pytest.mark.parametrize("shape", LARGE)
def test_masking_time_is_linear(shape, language):
    def cost(count: int) -> int:
        source = LARGE[shape](count).encode()
        events = 0

        def count_event(frame, event, argument):
            nonlocal events
            events += 1

        ranges = [(0, len(source))]
        sys.setprofile(count_event)
        try:
            Masker(source, ranges, language).mask.apply()
        finally:
            sys.setprofile(None)
        return events

    assert cost(2000) < 2.5 * cost(1000) + 1000
