"""Read the code cells of Jupyter notebooks as one source file."""

import json
import re
from collections.abc import Iterator

from mose.data.source.languages import PROGRAMMING_LANGUAGES, kernel_language
from mose.data.source.report import OtherLanguageError, SkippedFileError

_CELL_MAGIC = re.compile(r"\s*%%([A-Za-z_]\w*)(.*)")
#: A line magic or a system command. Without a space, `%` is no operator at the beginning of a line.
_LINE_MAGIC = re.compile(r"(\s*)((?:%[A-Za-z_]|!|\?{1,2}\w).*|[\w.%*]+\?{1,2}\s*)")
_ASSIGNED_MAGIC = re.compile(r"(\s*[\w.,\[\]'\" ]+=\s*)((?:!|%[A-Za-z_]).*)")
#: Cell magics whose cells are not in the notebook's language.
_FOREIGN_CELLS = frozenset(
    {
        "bash", "sh", "script", "system", "sx", "cmd", "powershell", "html", "javascript", "js", "svg", "latex",
        "markdown", "mermaid", "perl", "ruby", "sql", "bigquery", "r", "julia", "cython", "cpp", "cu", "cuda",
        "fortran", "writefile", "file",
    }
)  # fmt: skip


def notebook_source(text: str) -> tuple[str, str]:
    """Return the language of a notebook, and its code cells as one source file.

    Cells are separated by a blank line. Magics and system commands become comments, so that a cell has as many
    lines as in the notebook; a line counts from the first line of the first code cell. Markdown and outputs are
    not read. Formats 2 to 4 of notebooks are.

    Args:
        text: the file's content, JSON.

    Returns:
        A key of `mose.data.source.languages.supported_languages()`, and source code.

    Raises:
        SkippedFileError: it is no notebook ("unparsable"), or its language is not read ("other language").
    """
    try:
        notebook = json.loads(text.removeprefix("\ufeff"))
        cells = list(_code_cells(notebook))
    except (ValueError, RecursionError, TypeError, AttributeError) as error:
        raise SkippedFileError("unparsable", f"not a notebook: {error or 'nested too deeply'}") from None

    language = kernel_language(notebook)
    if language is None:
        raise OtherLanguageError(None)

    # JSON can denote half a surrogate pair, which UTF-8 cannot encode.
    source = "\n\n".join(_neutralise(cell, language) for cell in cells).encode(errors="replace").decode()
    return language, source + "\n" if source else ""


def _code_cells(notebook: dict) -> Iterator[str]:
    """Yield the text of each code cell that is not empty."""
    # Before format 4, cells were in worksheets, and their text was the input.
    if "cells" not in notebook and "worksheets" not in notebook:
        raise ValueError("it has neither cells nor worksheets")

    for sheet in [notebook] if "cells" in notebook else notebook["worksheets"]:
        for cell in sheet.get("cells", ()):
            if cell.get("cell_type") != "code":
                continue
            lines = cell["source"] if "source" in cell else cell.get("input", "")
            code = (lines if isinstance(lines, str) else "".join(lines)).replace("\r\n", "\n").rstrip()
            if code:
                yield code


def _neutralise(cell: str, language: str) -> str:
    """Turn the magics of a cell into comments, line by line."""
    comment = PROGRAMMING_LANGUAGES[language].line_comment
    lines = cell.split("\n")
    first = next(index for index, line in enumerate(lines) if line.strip())
    magic = _CELL_MAGIC.match(lines[first])
    if magic and _is_foreign(magic[1].lower(), magic[2], language):
        return "\n".join(f"{comment} {line}".rstrip() for line in lines)
    if magic:
        lines[first] = f"{comment} {lines[first].strip()}"

    continues = False
    for index, line in enumerate(lines):
        if continues:
            lines[index], continues = f"{comment} {line}", line.endswith("\\")
        elif language == "python" and (match := _ASSIGNED_MAGIC.fullmatch(line)):
            lines[index], continues = f"{match[1]}None  # {match[2]}", line.endswith("\\")
        elif (match := _LINE_MAGIC.fullmatch(line)) and (language == "python" or match[2].startswith("%")):
            # In Python, the magic may be all that a block holds.
            statement = "pass  " if language == "python" else ""
            lines[index], continues = f"{match[1]}{statement}{comment} {match[2]}", line.endswith("\\")

    return "\n".join(lines)


def _is_foreign(magic: str, arguments: str, language: str) -> bool:
    """Return True if a cell with this magic is not code of the notebook's language."""
    if magic in ("writefile", "file") and language == "python":
        return not arguments.strip().endswith(".py")
    return magic in _FOREIGN_CELLS and magic != language
