"""The units that source files are read in: functions, classes, files, sections of text."""

from dataclasses import dataclass

#: Kinds of units. A file is a unit for what is outside any definition; a section is a part of a text.
KINDS = (
    "function", "method", "class", "struct", "interface", "trait", "enum", "module", "type", "table", "file",
    "section",
)  # fmt: skip
FUNCTIONS = frozenset({"function", "method"})
#: Kinds whose members are units of their own: their source shows only the members' signatures.
CONTAINERS = frozenset({"class", "struct", "interface", "trait", "enum", "module", "file"})


@dataclass(frozen=True)
class Unit:
    """One function, class, file or section of text.

    Attributes:
        kind: one of `KINDS`.
        name: bare name, without class or namespace; a file's name; a section's heading.
        qualified_name: the names of the definitions around it and its own, joined by dots: `Server.run`.
        language: a key of `mose.tokenization.prompts.LANGUAGES`.
        source: its text without the common indentation, with decorators, annotations and documentation. Members
            that are units of their own are reduced to their signatures.
        code: `source` without the documentation.
        docstring: the documentation as `mose.data.source.documentation.clean_docstring` returns it, or "".
        start_line: first line of `source` in the file, counted from 1.
        end_line: last line of `source`, inclusive.
        constructor: True if it constructs or destroys an instance of its class.
        part: number of this part of a long unit, counted from 1. Later parts begin with a header line.
        parts: number of parts of the unit.
    """

    kind: str
    name: str
    qualified_name: str
    language: str
    source: str
    code: str
    docstring: str
    start_line: int
    end_line: int
    constructor: bool = False
    part: int = 1
    parts: int = 1
