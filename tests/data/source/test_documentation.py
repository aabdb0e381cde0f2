import time

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
        (
            "csharp",
            '/// <summary>\n/// Gets the <see cref="T:System.String"/> for <paramref name="key"/>, '
            'or <c>null</c>.\n/// </summary>\n'
            '/// <param name="key">The key.</param>\n/// <returns>A value.</returns>\n'
            "/// <remarks>Slow &amp; safe.</remarks>",
            "Gets the System.String for key, or null.\n\nSlow & safe.",
        ),
        ("csharp", '/// <summary>See <see cref="A.B(int)">the bar</see>.</summary>', "See the bar."),
        ("csharp", "/// <inheritdoc/>", ""),
        ("csharp", "/// Makes a List<int>.", "Makes a List<int>."),
        (
            "rust",
            "/// Makes a [`Vec<T>`] from [`iter`](Iterator::next).\n///\n/// # Examples\n///\n"
            "/// ```\n/// x();\n/// ```",
            "Makes a Vec<T> from iter.\n\n# Examples\n\n```\nx();\n```",
        ),
        ("rust", "/** Adds\n * two. */", "Adds\ntwo."),
        ("rust", '#[doc = "Adds two."]', "Adds two."),
        ("kotlin", "/**\n * Gives the [String] of [it][A.b].\n * @param x it\n */", "Gives the String of it."),
        (
            "scala",
            "/** Folds '''all''' with [[a.Option an option]].\n  * {{{\n  * x\n  * }}}\n  * @param f it\n  */",
            "Folds all with an option.\n{{{\nx",
        ),
        (
            "swift",
            "/// Gives the sum.\n///\n/// - Parameters:\n///   - a: first\n/// - Returns: It.\n///\n/// Fast.",
            "Gives the sum.\n\nFast.",
        ),
        ("swift", "/**\n Adds ``x``.\n - Parameter x: The x.\n*/", "Adds x."),
        ("lua", "--- Splits a string.\n-- @param s it\n-- @return list", "Splits a string."),
        ("lua", "--[[-- Splits, see @{a|the join}.\nMore.\n]]", "Splits, see the join.\nMore."),
        ("lua", "--------\n--- Adds up.\n---@param a number", "Adds up."),
        (
            "bash",
            "########\n# Cleans up.\n# Globals:\n#   DIR\n# shellcheck disable=SC2034\n########",
            "Cleans up.\nGlobals:\n  DIR",
        ),
        ("bash", "# @description Says hello.\n# @arg $1 string a name", "Says hello."),
        ("sql", "-- Name: add(integer); Type: FUNCTION; Schema: public\n-- Adds two.", "Adds two."),
        ("sql", "/*\n * Totals by month.\n */", "Totals by month."),
        (
            "typescript",
            "/**\n * Maps {@link A.b | the b}.\n * @remarks\n * Slow.\n * @param t - it\n */",
            "Maps the b.\n\nSlow.",
        ),
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
        ("Makes it.\n# Examples\n```\nx();\n```", "Makes it."),
        ("# Parsing\n\nReads all.", "Reads all."),
        ("# Parsing", "Parsing"),
        ("Folds all.\n{{{\nx\n}}}", "Folds all."),
        ("Cleans up.\nGlobals:\n  DIR", "Cleans up."),
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


@pytest.mark.parametrize("language", supported_languages())
@pytest.mark.parametrize(
    "text", ["// " + " " * 100_000 + "x", "{@a" + " " * 100_000, "<param" * 30_000, "<x>" * 30_000, "[`" * 50_000]
)
def test_cleaning_takes_time_in_proportion_to_the_text(language, text):
    started = time.process_time()
    first_paragraph(clean_docstring(text, language))
    assert time.process_time() - started < 2
