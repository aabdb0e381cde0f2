"""Damaged sources: nothing raises, and units stay inside the file and overlap only by nesting."""

import runpy
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mose.data.source.definitions import extract_functions, extract_units
from mose.data.source.languages import supported_languages

#: A realistic source of each language, from the tests of its definitions.
SOURCES = {
    path.stem.removeprefix("test_"): runpy.run_path(str(path)).get("SOURCE", "")
    for path in Path(__file__).parent.glob("test_*.py")
    if path.stem.removeprefix("test_") in supported_languages()
}
DAMAGE = st.sampled_from(
    ["{", "}", "(", ")", '"', "'", "`", "/*", "*/", "#", "\n", "\0", "é", "end", "=>", "@", "<"]
)


@st.composite
def damaged(draw: st.DrawFn, source: str) -> str:
    """Return a source with parts cut out, doubled, or replaced by signs that open or end something."""
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(source)))
        stop = draw(st.integers(start, min(len(source), start + 200)))
        middle = draw(DAMAGE | st.just("") | st.just(source[start:stop] * 2) | st.text(max_size=3))
        source = source[:start] + middle + source[stop:]
    return source.replace("\r", "")


@pytest.mark.slow
@pytest.mark.parametrize("language", sorted(SOURCES))
@given(data=st.data())
def test_damage_raises_nothing_and_units_nest(language, data):
    text = data.draw(damaged(SOURCES[language]))
    source = text.encode(errors="replace")
    last_line = source.count(b"\n") + 1
    functions = extract_functions(source, language)
    units = extract_units(source, language, file_name="FILE")

    ends: list[int] = []
    for unit in units:
        assert unit.name and unit.source.strip()
        assert 1 <= unit.start_line <= unit.end_line <= last_line
        if unit.kind == "file":
            continue
        while ends and unit.start_line > ends[-1]:
            ends.pop()
        # A unit that begins in another ends in it, or in its last line, where the next one may begin.
        if ends and unit.start_line < ends[-1]:
            assert unit.end_line <= ends[-1]
        ends.append(unit.end_line)

    assert {function.start_line for function in functions} <= set(range(1, last_line + 1))
    assert extract_units(source, language, file_name="FILE") == units
