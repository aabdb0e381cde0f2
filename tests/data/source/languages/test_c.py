"""What is read in C."""

import pytest
from listed_units import list_units

from mose.data.source.languages import language_of

SOURCE = """\
/* Licensed freely. */
#ifndef SHELF_H
#define SHELF_H
#include <stdio.h>

#ifdef __cplusplus
extern "C" {
#endif

/** How deep. */
typedef struct {
    int width;
} shelf_t;

/* One book. */
typedef struct book {
    const char *title;
} book_t;

union word { int a; float b; };

/// Kinds of covers.
enum cover { HARD, SOFT };

typedef enum { OPEN, CLOSED } state_t;

/**
 * Makes an empty shelf.
 */
SHELF_API shelf_t *shelf_new(int width);
int undocumented(int width);

/* Adds. */
static FORCE_INLINE int
add(shelf_t *shelf, _In_ const book_t *NONNULL book)
{
    book_t *other;
    list_for_each(other, shelf) {
        if (other == book) return 0;
    }
    return 1;
}

// Sorts.
int (*sorter(shelf_t *shelf))(int) { return 0; }

struct book *find(a, b)
    shelf_t *a;
    int b;
{
    return 0;
}

DEFINE_TEST(empty) {
    ASSERT_EQ(1, 1);
}

static const int widths[] = { 1, 2 };

#ifdef __cplusplus
}
#endif
#endif
"""
#: Lines, kind, qualified name and first line of the documentation of each unit.
EXPECTED = [
    ("10-13", "struct", "shelf_t", "How deep."),
    ("15-18", "struct", "book", "One book."),
    ("20-20", "struct", "word", ""),
    ("22-23", "enum", "cover", "Kinds of covers."),
    ("25-25", "enum", "state_t", ""),
    ("27-30", "function", "shelf_new", "Makes an empty shelf."),
    ("33-42", "function", "add", "Adds."),
    ("44-45", "function", "sorter", "Sorts."),
    ("47-52", "function", "find", ""),
    ("54-56", "function", "DEFINE_TEST", ""),
]


def test_every_definition_is_a_unit():
    assert list_units(SOURCE, "c")[1:] == EXPECTED


@pytest.mark.parametrize(
    ("header", "language"),
    [
        ("int f(void);", "c"),
        ("// using this\n/*\nclass of things\n*/\nint f(void);", "c"),
        ('#ifdef __cplusplus\nextern "C" {\n#endif\nint f(void);\n', "c"),
        ("#ifdef __cplusplus\nnamespace a {\n#endif\nint f(void);\n", "c"),
        ("[[gnu::unused]] int f(void);", "c"),
        ("asm(\"a::b\"); char c = ':';", "c"),
        ("struct class_a { int public_b; };", "c"),
        ("#pragma once\nclass A;", "cpp"),
        ("struct A { std::string a; };", "cpp"),
        ("  template <class T>\nint f(T a);", "cpp"),
        ("namespace a {\n}", "cpp"),
        ("struct A {\n  public:\n    int a;\n};", "cpp"),
        ("#ifdef __cplusplus\n" + "/* A long comment. */\n" * 30 + "class A {};\n#endif\n", "cpp"),
    ],
)
def test_headers(header, language):
    assert language_of("a.h", header.encode()) == language
