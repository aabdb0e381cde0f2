"""The units of a source in a form that tests compare with what they expect, written by hand."""

from mose.data.source.definitions import extract_units


def list_units(source: str, language: str) -> list[tuple[str, str, str, str]]:
    """Return lines, kind, qualified name and first line of the documentation of each unit; check their sources.

    A constructor's kind is "constructor".
    """
    units = extract_units(source.encode(), language, file_name="FILE")
    lines = source.split("\n")
    for unit in units:
        assert unit.language == language
        assert unit.qualified_name.endswith(unit.name)
        if unit.kind in ("function", "method"):
            theirs = lines[unit.start_line - 1 : unit.end_line]
            assert all(mine.strip() in line for mine, line in zip(unit.source.split("\n"), theirs, strict=True))
        if unit.docstring:
            assert unit.docstring.split("\n")[0] not in unit.code

    return [
        (
            f"{unit.start_line}-{unit.end_line}",
            "constructor" if unit.constructor else unit.kind,
            unit.qualified_name,
            unit.docstring.split("\n")[0],
        )
        for unit in units
    ]
