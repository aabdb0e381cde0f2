import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mose.data.source.texts import extract_sections
from mose.tokenization.prompts import prompt_for, text_prompt

MARKDOWN = """\
---
title: "Shelves: a guide"
tags: [a]
---
Holds books.

Install
-------

Use `pip`.

```sh
# not a heading
pip install shelves
```

### From [source](https://x.org/a) ###
Clone it.

## Use

### In **Python** {#python}

~~~
```
# still not a heading
~~~

- a list
---
a rule above

#hashtag

Two lines
of prose
---

# Licence
"""
RST = """\
=======
 Books
=======

Intro.

.. code-block:: text

    Not a title
    -----------

Use
---
Call :func:`open <lib.open>`.

=====  =====
Name   Value
=====  =====

In :class:`~a.Shelf`
~~~~~~~~~~~~~~~~~~~~
Deep.

Too long for its underline
---

Next
----
Last.
"""
ASCIIDOC = """\
= Books
Author

== Use
----
== not a heading
----
=== Deep ===
Text.
"""


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        (
            "README.md",
            MARKDOWN,
            [
                ("Shelves: a guide", 5, 5),
                ("Shelves: a guide > Install", 7, 15),
                ("Shelves: a guide > Install > From source", 17, 18),
                ("Shelves: a guide > Use > In Python", 22, 37),
                ("Licence", 39, 39),
            ],
        ),
        (
            "books.rst",
            RST,
            [
                ("Books", 1, 10),
                ("Books > Use", 12, 18),
                ("Books > Use > In a.Shelf", 20, 25),
                ("Books > Next", 27, 29),
            ],
        ),
        ("books.adoc", ASCIIDOC, [("Books", 1, 2), ("Books > Use", 4, 7), ("Books > Use > Deep", 8, 9)]),
        ("README", "# Title\ntext", [("Title", 1, 2)]),
        ("README", "Title\n=====\ntext", [("Title", 1, 3)]),
        ("notes.txt", "# a comment\n\nno headings\n", [("notes.txt", 1, 3)]),
        ("notes.txt", " \n\n", []),
        ("a.md", "---\nno front matter\n", [("a.md", 1, 2)]),
        ("a.md", "# ![logo](a.png) `Shelves` <br>\n", [("Shelves", 1, 1)]),
        ("a.md", "#\ntext", [("a.md", 1, 2)]),
    ],
)
def test_sections_are_named_by_the_headings_above_them(name, text, expected):
    units = extract_sections(text, name)
    assert [(unit.qualified_name, unit.start_line, unit.end_line) for unit in units] == expected
    lines = text.split("\n")
    for unit in units:
        assert unit.kind == "section" and unit.name == unit.qualified_name.split(" > ")[-1]
        assert unit.source == unit.code == "\n".join(lines[unit.start_line - 1 : unit.end_line])


def test_sections_are_embedded_as_natural_language():
    (unit,) = extract_sections("prose", "a.md")
    assert prompt_for(unit.language, query=False) == text_prompt()


def test_long_sections_are_split_between_paragraphs():
    paragraphs = [f"Paragraph {number} " + "of words " * 8 for number in range(9)]
    units = extract_sections("# Title\n\n" + "\n\n".join(paragraphs), "a.md", max_characters=300)
    assert [(unit.part, unit.parts) for unit in units] == [
        (part, len(units)) for part in range(1, len(units) + 1)
    ]
    assert all(len(unit.source) <= 300 for unit in units)
    assert units[0].source.startswith("# Title\n\nParagraph 0")
    for unit in units[1:]:
        assert unit.source.startswith("Title\nParagraph ")
    joined = "\n\n".join(unit.source.removeprefix("Title\n") for unit in units)
    assert joined.split() == ("# Title " + " ".join(paragraphs)).split()


def test_limits_too_small_are_refused():
    with pytest.raises(ValueError, match="at least 100, got 9. Pass None"):
        extract_sections("x", "a.md", max_characters=9)
    assert len(extract_sections("word " * 2000, "a.txt", max_characters=None)) == 1


LINES = st.lists(
    st.sampled_from(
        [
            "# A",
            "## B *c*",
            "### ",
            "Title",
            "=====",
            "-----",
            "~~~~~",
            "```",
            "~~~",
            "text of words",
            "- item",
            "",
            "",
        ]
        + ["    code", "== C", "----", "---", "+++", "title: T", "x" * 150, "wordy " * 60]
    )
    | st.text(max_size=12),
    max_size=40,
)


@given(LINES, st.sampled_from(["a.md", "a.rst", "a.txt", "a.adoc", "README"]), st.sampled_from([None, 100, 250]))
def test_sections_hold_every_word_once_and_in_order(lines, name, limit):
    """Except for front matter, and for headings that have nothing but subsections."""
    text = "\n".join(lines)
    position = 0
    last_line = 0
    words: list[str] = []
    for unit in extract_sections(text, name, max_characters=limit):
        assert limit is None or len(unit.source) <= limit
        assert last_line <= unit.start_line <= unit.end_line <= text.count("\n") + 1
        # Only parts of one long line share it.
        assert unit.start_line > last_line or unit.part > 1
        last_line = unit.end_line
        body = unit.source.split("\n", 1)[1] if unit.part > 1 else unit.source
        words += body.split()
        for word in body.split():
            position = text.index(word, position) + len(word)

    headings = {
        "#",
        "##",
        "###",
        "=",
        "==",
        "A",
        "B",
        "*c*",
        "C",
        "Title",
        "=====",
        "-----",
        "~~~~~",
        "----",
        "---",
    }
    front_matter = lines[:1] and lines[0].rstrip() in ("---", "+++")
    short = [word for line in lines if line in ("text of words", "- item", "    code") for word in line.split()]
    if not front_matter:
        assert [word for word in words if word in short] == [word for word in short if word not in headings]


@pytest.mark.parametrize("name", ["a.md", "a.rst", "a.adoc"])
@pytest.mark.parametrize(
    "text",
    ["x " * 1_000_000, "\n" * 200_000, "`" * 500_000, "# [" * 100_000, "word\n" * 200_000, "=\n" * 100_000],
)
def test_time_is_linear_in_the_text(name, text):
    started = time.process_time()
    extract_sections(text, name)
    assert time.process_time() - started < 4
