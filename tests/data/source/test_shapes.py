"""Shapes against sets of windows, and their invariance to names."""

import re

from hypothesis import given
from hypothesis import strategies as st

from mose.data.source.languages import keywords
from mose.data.source.shapes import SHAPE_TOKENS, shape_of, tokens_of

CODE = """\
def mean_of(values, weights=None):
    total = 0.5
    for value in values:
        if value is not None:
            total += value * 2
    return total / len(values)
"""
names = st.from_regex(r"[a-z_]\w{0,7}", fullmatch=True).filter(lambda name: name not in keywords("python"))


def windows(code, language):
    tokens = ["" if re.match(r"[^\W\d]", t) and t not in keywords(language) else t for t in tokens_of(code)]
    return {tuple(tokens[i : i + SHAPE_TOKENS]) for i in range(max(len(tokens) - SHAPE_TOKENS + 1, 1))}


@given(st.dictionaries(st.sampled_from(["mean_of", "values", "weights", "total", "value", "len"]), names))
def test_names_do_not_matter(renamed):
    code = re.sub(r"\w+", lambda match: renamed.get(match[0], match[0]), CODE)
    assert shape_of(code, "python").tolist() == shape_of(CODE, "python").tolist()


@given(
    st.lists(st.sampled_from(["a", "if", "else", "(", ")", "+", "1", "0.5", "\n", "é", "_", "'"]), max_size=40)
)
def test_a_shape_is_the_set_of_windows(tokens):
    code = " ".join(tokens)
    assert len(shape_of(code, "python")) == len(windows(code, "python"))


def test_keywords_numbers_and_signs_matter():
    shape = shape_of(CODE, "python").tolist()
    for old, new in (("is not", "is"), ("0.5", "0.6"), ("+=", "-="), ("for ", "while ")):
        assert shape_of(CODE.replace(old, new), "python").tolist() != shape
    # `in` is a keyword in Python and a name in Java.
    assert shape_of(CODE.replace(" in ", " of "), "python").tolist() != shape
    assert shape_of(CODE.replace(" in ", " of "), "java").tolist() == shape_of(CODE, "java").tolist()


def test_a_fragment_of_whole_tokens_has_a_part_of_the_shape():
    whole = set(shape_of(CODE, "python").tolist())
    assert set(shape_of(CODE[20:120], "python").tolist()) <= whole
    assert len(shape_of("", "python")) == len(shape_of("a", "")) == 1
