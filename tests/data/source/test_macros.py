"""C and C++ as they are written: macros, conditionals, old forms. The names and lines are read off by hand."""

import pytest

from mose.data.source.definitions import extract_units


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
