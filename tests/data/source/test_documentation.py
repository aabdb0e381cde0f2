import pytest
from hypothesis import given
from hypothesis import strategies as st

from mose.data.source.documentation import clean_docstring, first_paragraph
from mose.data.source.languages import supported_languages


@pytest.mark.parametrize(
    ("language", "raw", "cleaned"),
    [
        ("python", "Do it.\n\n    More of\n      it.\n    ", "Do it.\n\nMore of\n  it."),
        ("python", "Give :class:`~a.b.C` and :py:func:`!run` and ``x``.", "Give a.b.C and run and x."),
        ("java", "/** See {@code List<T>} of {@link A#b(int)}. */", "See List<T> of A.b(int)."),
        ("java", "/**\n * First<br/>line.\n * @since 1\n *   and so on\n */", "First\n\nline."),
        ("javascript", "/**\n * @summary Short.\n * @returns {x}\n *\n * still of it\n */", "Short."),
        ("php", "/**\n\t * {@inheritdoc}\n\t */", ""),
        ("go", "// Add adds *two*\n// numbers.\n//\n// More.", "Add adds *two*\nnumbers.\n\nMore."),
        ("go", "/*\nAdd adds.\n*/", "Add adds."),
        ("ruby", "# call-seq:\n#   a.b -> c\n#\n# Gives <tt>c</tt>.\n# :nodoc:", "Gives c."),
        ("c", "/*----------\n * Adds %NULL to @list.\n *----------*/", "Adds NULL to list."),
        ("c", "/// \\brief Adds a \\c thing.\n/// \\param a\n///   b\n///\n/// Or.", "Adds a thing.\n\nOr."),
        ("cpp", "//! @brief Adds\n//! things.", "Adds\nthings."),
    ],
)  # fmt: skip
def test_clean_docstring(language, raw, cleaned):
    assert clean_docstring(raw, language) == cleaned


@pytest.mark.parametrize(
    ("docstring", "expected"),
    [
        ("One line.", "One line."),
        ("\n  Two\n   lines of one. Paragraph.\n\nMore.", "Two lines of one. Paragraph."),
        ("Sum up.\nArgs:\n  x: y", "Sum up."),
        ("Sum up.\n:param x: y", "Sum up."),
        ("Sum up.\n@param x y", "Sum up."),
        ("Sum up:\n>>> f(1)", "Sum up:"),
        ("Title\n=====\n\nText", "Title"),
        ("Args:\n  x: y", ""),
        (":returns: x", ""),
        ("get(key, default) -> value\n\nLook a key up.", "Look a key up."),
        ("f(x)", "f(x)"),
        ("", ""),
    ],
)
def test_summary_is_the_first_paragraph(docstring, expected):
    assert first_paragraph(docstring) == expected


@given(st.text(), st.sampled_from(supported_languages()))
def test_any_text_cleans_to_trimmed_text_and_a_one_line_summary(text, language):
    cleaned = clean_docstring(text, language)
    assert cleaned == cleaned.strip()
    short = first_paragraph(cleaned)
    assert short == " ".join(short.split())
