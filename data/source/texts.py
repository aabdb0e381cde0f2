"""Read Markdown, reStructuredText, AsciiDoc and plain text by sections.

A section reaches from its heading to the next heading of any level, so sections never overlap. Text without
headings is one section, and long sections are split at paragraphs.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePath

from mose.data.source.languages import TEXT
from mose.data.source.units import Unit

#: Between the headings of a qualified name, since headings hold dots.
HEADING_SEPARATOR = " > "
#: About what a model reads at once: 512 tokens of prose.
MAX_SECTION_CHARACTERS = 2000
#: Longer lines are no headings.
_MAX_HEADING = 300
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})(.*)")
_ATX = re.compile(r" {0,3}(#{1,6})(?:[ \t]+(.*?))??(?:[ \t]+#+)?[ \t]*")
#: What a setext heading cannot begin with: lists, quotes, tables, tags, other headings, indented code.
_NO_SETEXT_TITLE = re.compile(r"\s*(?:[-*+>|<#]|\d+[.)])(?:\s|\||$)|[ \t]*[|<>#]| {4}|\t")
_SETEXT = re.compile(r" {0,3}(=+|-{2,})[ \t]*")
_ADORNMENT = re.compile(r"([!-/:-@\[-`{-~])\1{2,}[ \t]*")
_ASCIIDOC = re.compile(r"(={1,6})[ \t]+(\S.*?)(?:[ \t]+\1)?[ \t]*")
_ASCIIDOC_BLOCK = re.compile(r"(-{4,}|\.{4,}|\+{4,}|={4,}|\*{4,}|_{4,}|/{4,}|`{3,})[ \t]*\w*")
_MARKUP = (
    (re.compile(r"!\[([^\[\]]*)\]\([^()]*\)"), ""),
    (re.compile(r"\[([^\[\]]*)\](?:\([^()]*\)|\[[^\[\]]*\])"), r"\1"),
    (re.compile(r"<[^<>]+>"), ""),
    (re.compile(r"(?<!\w):[\w:]+:`[~!]?([^`<]*?)(?:\s*<[^`]*>)?`"), r"\1"),
    (re.compile(r"\{#[\w-]+\}\s*$"), ""),
    (re.compile(r"(\*\*|__|\*|`+)(?=\S)(.+?)(?<=\S)\1"), r"\2"),
)
_TITLE = re.compile(r"title\s*[:=]\s*(.*)")


@dataclass(frozen=True)
class Heading:
    """A heading of a text: the index of its first line, the line after it, its depth from 1, and its words."""

    line: int
    body: int
    level: int
    title: str


def extract_sections(
    text: str, file_name: str, *, max_characters: int | None = MAX_SECTION_CHARACTERS
) -> list[Unit]:
    """Return the sections of a text, in the order of the file. Together they hold all of its words.

    The kind is "section", and the language "text", so sections are embedded with the prompt of natural language.
    A qualified name is the path of headings: `Install > From source`. Text before the first heading has the name
    of the file, or the title in the front matter. Front matter itself and headings that only have subsections are
    no sections.

    Args:
        text: the file's content, with line feeds.
        file_name: decides on the markup.
        max_characters: split longer sections between paragraphs, else lines, else words. None never splits.

    Raises:
        ValueError: `max_characters` is below 100.
    """
    if max_characters is not None and max_characters < 100:
        raise ValueError(f"max_characters must be at least 100, got {max_characters}. Pass None never to split.")

    lines = text.split("\n")
    begin, title = _skip_front_matter(lines)
    headings = list(_headings(lines, begin, file_name, text))
    bounds = [*(heading.line for heading in headings), len(lines)]
    units = _section(lines, begin, bounds[0], title or file_name, title or file_name, max_characters)

    for index, (heading, name) in enumerate(_with_paths(headings, title)):
        end = bounds[index + 1]
        has_subsection = index + 1 < len(headings) and headings[index + 1].level > heading.level
        if not has_subsection or any(line.strip() for line in lines[heading.body : end]):
            names = heading.title or file_name, name or file_name
            units += _section(lines, heading.line, end, *names, max_characters)
    return units


def _with_paths(headings: list[Heading], title: str) -> Iterator[tuple[Heading, str]]:
    """Yield each heading with the path that leads to it. A title of the whole text is a heading of its own."""
    path: list[Heading] = [Heading(0, 0, 1, title)] if title else []
    for heading in headings:
        while path and path[-1].level >= heading.level:
            path.pop()
        path.append(heading)
        yield heading, HEADING_SEPARATOR.join(part.title for part in path if part.title)


def _skip_front_matter(lines: list[str]) -> tuple[int, str]:
    """Return the index of the first line after YAML or TOML front matter, and the title in it."""
    mark = lines[0].rstrip().removeprefix("\ufeff")
    if mark not in ("---", "+++"):
        return 0, ""

    title = ""
    for index, line in enumerate(lines[1:], 1):
        if line.rstrip() == mark:
            return index + 1, title
        if match := _TITLE.fullmatch(line.rstrip()[:_MAX_HEADING]):
            title = match[1].strip().strip("\"'")
    return 0, ""


def _headings(lines: list[str], begin: int, file_name: str, text: str) -> Iterator[Heading]:
    suffix = PurePath(file_name).suffix.lower()
    if suffix in (".adoc", ".asciidoc"):
        return _asciidoc_headings(lines, begin)
    if suffix in (".rst", ".txt", ".text") or (not suffix and not re.search(r"(?m)^#{1,6} \w", text)):
        return _adorned_headings(lines, begin)
    return _markdown_headings(lines, begin)


def _markdown_headings(lines: list[str], begin: int) -> Iterator[Heading]:
    for index in _outside_fences(lines, begin):
        line = lines[index]
        if match := _ATX.fullmatch(line):
            yield Heading(index, index + 1, len(match[1]), _plain(match[2] or ""))
        elif (match := _SETEXT.fullmatch(line)) and _is_setext_title(lines, index - 1, begin):
            yield Heading(index - 1, index + 1, 1 if "=" in match[1] else 2, _plain(lines[index - 1]))


def _outside_fences(lines: list[str], begin: int) -> Iterator[int]:
    """Yield the indices of the lines that can be headings: not too long, and not in fenced code."""
    fence = ""
    for index in range(begin, len(lines)):
        match = _FENCE.fullmatch(lines[index]) if len(lines[index]) <= _MAX_HEADING else None
        if match is None:
            if not fence and len(lines[index]) <= _MAX_HEADING:
                yield index
        elif not fence and not ("`" in match[1] and "`" in match[2]):
            fence = match[1]
        elif fence and match[1].startswith(fence) and not match[2].strip():
            fence = ""


def _is_setext_title(lines: list[str], index: int, begin: int) -> bool:
    """Return True if a line above a row of `=` or `-` is a heading by it."""
    title = lines[index] if index >= begin else ""
    if len(title) > _MAX_HEADING or not re.search(r"\w", title) or _NO_SETEXT_TITLE.match(title):
        return False
    # A longer paragraph above a row of dashes is followed by a rule, and is no heading.
    above = lines[index - 1][:_MAX_HEADING] if index > begin else ""
    return not above.strip() or bool(_ATX.fullmatch(above) or _SETEXT.fullmatch(above))


def _adorned_headings(lines: list[str], begin: int) -> Iterator[Heading]:
    """Yield the headings of reStructuredText, whose styles have the levels in which they first occur."""
    styles: list[tuple[str, bool]] = []
    index = begin
    while index + 1 < len(lines):
        mark = _adornment(lines, index)
        style = _style_of_title(lines, index + bool(mark), mark)
        is_alone = mark or index == begin or not lines[index - 1].strip()
        if style is None or not is_alone:
            index += 1
            continue

        if style not in styles:
            styles.append(style)
        title = index + bool(mark)
        yield Heading(index, title + 2, styles.index(style) + 1, _plain(lines[title]))
        index = title + 2


def _style_of_title(lines: list[str], index: int, overline: str) -> tuple[str, bool] | None:
    """Return the mark under a title, and whether it is over it too; None if the line is no title."""
    title = lines[index].rstrip()
    underline = _adornment(lines, index + 1)
    if not title.strip() or not underline or _adornment(lines, index):
        return None
    if len(lines[index + 1].rstrip()) < len(title.strip()):
        return None
    if overline != underline if overline else title[0].isspace():
        return None
    return underline, bool(overline)


def _adornment(lines: list[str], index: int) -> str:
    """Return the mark that a line consists of; "" if it is none."""
    line = lines[index] if index < len(lines) else ""
    match = _ADORNMENT.fullmatch(line) if len(line) <= _MAX_HEADING else None
    return match[1] if match else ""


def _asciidoc_headings(lines: list[str], begin: int) -> Iterator[Heading]:
    block = ""
    for index in range(begin, len(lines)):
        line = lines[index]
        if len(line) > _MAX_HEADING:
            continue
        if match := _ASCIIDOC_BLOCK.fullmatch(line):
            block = match[1] if not block else "" if match[1] == block else block
        elif not block and (match := _ASCIIDOC.fullmatch(line)):
            yield Heading(index, index + 1, len(match[1]), _plain(match[2]))


def _plain(heading: str) -> str:
    """Return the words of a heading without inline markup."""
    for pattern, replacement in _MARKUP:
        heading = pattern.sub(replacement, heading)
    return " ".join(heading.split())


def _section(
    lines: list[str], start: int, end: int, name: str, qualified_name: str, max_characters: int | None
) -> list[Unit]:
    """Return the lines of a section as units: one, or parts of it."""
    while start < end and not lines[start].strip():
        start += 1
    while end > start and not lines[end - 1].strip():
        end -= 1
    if start == end:
        return []

    # The header of later parts counts too.
    header = qualified_name[-(max_characters or 0) // 2 :]
    pieces = [(start, "\n".join(lines[start:end]))]
    if max_characters is not None and len(pieces[0][1]) > max_characters:
        pieces = list(_split_lines(lines, start, end, max_characters - len(header) - 1))

    return [
        Unit(
            kind="section",
            name=name,
            qualified_name=qualified_name,
            language=TEXT,
            source=source,
            code=source,
            docstring="",
            start_line=first + 1,
            end_line=first + 1 + text.count("\n"),
            part=part,
            parts=len(pieces),
        )
        for part, (first, text) in enumerate(pieces, 1)
        for source in [text if part == 1 else f"{header}\n{text}"]
    ]


def _split_lines(lines: list[str], start: int, end: int, size: int) -> Iterator[tuple[int, str]]:
    """Yield pieces of at most `size` characters, each with the index of its first line."""
    piece: list[str] = []
    length, first, paragraph = 0, start, start
    for index in range(start, end):
        line = lines[index]
        if not line.strip():
            paragraph = index + 1
        while piece and length + len(line) > size:
            # Cut before the paragraph, unless that leaves too little.
            above = max(0, paragraph - first)
            cut = above if sum(map(len, piece[:above])) > size // 4 else len(piece)
            yield from _piece(first, piece[:cut])
            first, piece = first + cut, piece[cut:]
            length = sum(map(len, piece)) + len(piece)

        if len(line) <= size:
            piece.append(line)
            length += len(line) + 1
        else:
            yield from ((index, text) for text in _split_words(line, size))
            first, length = index + 1, 0

    yield from _piece(first, piece)


def _piece(first: int, lines: list[str]) -> Iterator[tuple[int, str]]:
    """Yield lines as a piece, without blank lines around them."""
    text = "\n".join(lines)
    blank = len(text) - len(text.lstrip("\n \t"))
    if text.strip():
        skipped = text.count("\n", 0, blank)
        yield first + skipped, "\n".join(lines[skipped:]).rstrip()


def _split_words(line: str, size: int) -> Iterator[str]:
    start = 0
    while start < len(line):
        stop = min(start + size, len(line))
        space = line.rfind(" ", start + size // 2, stop) if stop < len(line) else -1
        stop = space if space > start else stop
        yield line[start:stop].strip()
        start = stop
